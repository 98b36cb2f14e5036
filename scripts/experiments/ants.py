"""Registration by ANTs as the fcn_multires paper ran it: affine, then SyN by cross-correlation in windows of radius 2.

The paper calls `ANTS 3 -m CC[fixed,moving,1,2] -t SyN[0.25] -r Gauss[3,0] -i 100x100x10 --number-of-affine-iterations
100x100x100 --use-Histogram-Matching 1`; this is its successor, antsRegistration, with these settings. What the paper
leaves to ANTS is as ANTsPy has it for SyN.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = "antspyx"
STAGES = (
    ("Affine[0.25]", "Mattes[{pair},1,32,Regular,0.2]", "[100x100x100,1e-6,10]"),
    ("SyN[0.25,3,0]", "CC[{pair},1,2]", "[100x100x10,1e-7,8]"),
)
"""Transform, metric and iterations; each at a quarter, half and all of the image's resolution."""


def displacement(fixed: Tensor, moving: Tensor) -> Tensor:
    """The displacement (1, dims, *spatial) in voxels of ANTs' affine and deformation together, on one thread, of two
    images (*spatial)."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # ITK looks when it first runs
    import ants
    from ants.internal import get_pointer_string

    one, other = (ants.from_numpy(image.contiguous().numpy()) for image in (fixed, moving))
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "ants")
        ants.registration(arguments(get_pointer_string(one), get_pointer_string(other), prefix), None)
        stages = [f"{prefix}1Warp.nii.gz", f"{prefix}0GenericAffine.mat"]
        whole = ants.image_read(ants.apply_transforms(one, other, stages, compose=f"{prefix}whole"))
        return torch.as_tensor(whole.numpy()).movedim(-1, 0)[None].float()


def syn(fixed: Tensor, moving: Tensor, kind: str = "SyN") -> Tensor:
    """The displacement (1, dims, *spatial) in voxels of ANTsPy's registration as it is: affine, then by mutual
    information, or of kind `SyNCC` by cross-correlation."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants

    one, other = (ants.from_numpy(image.contiguous().numpy()) for image in (fixed, moving))
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "ants")
        found = ants.registration(one, other, kind, outprefix=prefix, random_seed=1)
        whole = ants.apply_transforms(one, other, found["fwdtransforms"], compose=f"{prefix}whole")
        return torch.as_tensor(ants.image_read(whole).numpy()).movedim(-1, 0)[None].float()


def arguments(fixed: str, moving: str, prefix: str) -> list[str]:
    """The command line; images by their addresses in memory."""
    pair = f"{fixed},{moving}"
    words = ["--dimensionality", "3", "--float", "1", "--use-histogram-matching", "1", "--random-seed", "1"]
    words += ["--initial-moving-transform", f"[{pair},1]", "--output", prefix]  # by centres of mass
    for transform, metric, iterations in STAGES:
        words += ["--transform", transform, "--metric", metric.format(pair=pair), "--convergence", iterations]
        words += ["--shrink-factors", "4x2x1", "--smoothing-sigmas", "2x1x0vox"]
    return words
