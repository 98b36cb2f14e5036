"""Registration by greedy of two images in memory: affine and deformation, as its documentation has it for brains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PACKAGE = "picsl-greedy"
ITERATIONS = "100x50x10"
BEYOND = 64
"""Pixels beyond the moving image in which it is known where a point goes."""


def displacement(fixed: Tensor, moving: Tensor, similarity: str = "NCC 4x4") -> Tensor:
    """greedy's displacement (1, 2, *spatial) in pixels, on one thread, of two images (*spatial): where its own
    resampling takes the coordinates."""
    import SimpleITK as sitk
    from picsl_greedy import Greedy2D

    images = {name: sitk.GetImageFromArray(image.numpy()) for name, image in (("fixed", fixed), ("moving", moving))}
    pair = f"-d 2 -threads 1 -V 0 -i fixed moving -m {similarity} -n {ITERATIONS}"
    tool = Greedy2D()
    tool.execute(f"{pair} -a -dof 12 -ia-image-centers -o affine", **images, affine=None)
    tool.execute(f"{pair} -it affine -o warp", warp=None)
    there = []
    for axis in range(2):
        places = np.indices([size + 2 * BEYOND for size in moving.shape], np.float32)[axis]
        coordinate = sitk.GetImageFromArray(places)  # counted from the padding's corner
        coordinate.SetOrigin([-float(BEYOND)] * 2)
        tool.execute(
            "-d 2 -threads 1 -V 0 -rf fixed -rm coordinate placed -r warp affine", coordinate=coordinate, placed=None
        )
        there.append(sitk.GetArrayFromImage(tool["placed"]) - BEYOND)
    return torch.from_numpy(np.stack(there) - np.indices(fixed.shape))[None].float()
