"""Images with their axes in the order and direction of RAS, and at a chosen spacing: what makes arrays comparable.

Convention: an oblique image gets the closest order of its own axes; its grid says what angle is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from warpzoo.checks import check_spacing
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, resample
from warpzoo.images.image import Image

SAME_SPACING = 0.01
"""Spacings that differ by less than this share are equal: nothing is resampled for them."""


def canonical(image: Image, spacing: float | Sequence[float] | None = None) -> Image:
    """The image with its axes permuted and flipped to RAS, and resampled to `spacing` (one number, or one
    per RAS axis) if given.

    Interpolation is linear, of label maps (whole numbers) from the nearest voxel; the field of view stays.
    """
    axes, flipped = _to_ras(image.grid)
    array = image.array.flip([1 + axis for axis in flipped]).permute(0, *(1 + axis for axis in axes)).contiguous()
    grid = canonical_grid(image.grid)
    chosen = grid.spacing if spacing is None else check_spacing("spacing", spacing, grid.dims)
    if not np.allclose(grid.spacing, chosen, rtol=SAME_SPACING, atol=0):
        target = grid.with_spacing(chosen)
        identity = Affine(torch.eye(grid.dims, grid.dims + 1)[None], target)
        mode = "linear" if array.is_floating_point() else "nearest"
        array, grid = resample(array[None], grid, identity, target, mode=mode, padding="border")[0], target
    return replace(image, array=array, grid=grid)


def working_grid(image: Image) -> Grid:
    """The grid that networks see an image on: its own voxels, in the order and direction of RAS if its axes have an
    anatomical direction."""
    return image.grid if image.header.pixels else canonical_grid(image.grid)


def canonical_grid(grid: Grid) -> Grid:
    """The same voxels, their axes permuted and flipped to the order and direction of RAS."""
    import nibabel

    axes, _ = _to_ras(grid)
    back = nibabel.orientations.inv_ornt_aff(nibabel.io_orientation(grid.affine), grid.shape)
    return Grid([grid.shape[axis] for axis in axes], grid.affine @ back)


def _to_ras(grid: Grid) -> tuple[list[int], list[int]]:
    """Which of the grid's axes come first, second and third in RAS, and which are flipped."""
    import nibabel

    orientation = nibabel.io_orientation(grid.affine)
    return np.argsort(orientation[:, 0]).tolist(), np.flatnonzero(orientation[:, 1] < 0).tolist()
