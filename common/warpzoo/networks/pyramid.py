"""Steps between the levels of a pyramid, and gradients of an image at one.

Convention: level 0 is the image's own resolution, level l has voxels 2**l times as large; a displacement or velocity
at a level is in voxels of that level.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Velocity


def padded(image: Tensor, multiple: int) -> Tensor:
    """The image extended at its far ends, by repeating the edge, until every side is a multiple of `multiple`."""
    padding: list[int] = []
    for size in image.shape[2:]:
        padding = [0, -size % multiple] + padding
    return F.pad(image, padding, mode="replicate")


def resized(features: Tensor, factor: float) -> Tensor:
    """Linear interpolation; the outer edges of the image are unchanged."""
    mode = "bilinear" if features.dim() == 4 else "trilinear"
    return F.interpolate(features, scale_factor=factor, mode=mode, align_corners=False)


def one_level_finer(field: Tensor) -> Tensor:
    """A displacement or velocity on a grid with twice as many voxels along each axis, in voxels of that."""
    return 2 * resized(field, 2.0)


def pooled(image: Tensor) -> Tensor:
    """The image one level coarser."""
    return F.avg_pool2d(image, 2) if image.dim() == 4 else F.avg_pool3d(image, 2)


def central_gradient(image: Tensor) -> Tensor:
    """Central differences of a one-channel image along each axis, (batch, dims, *spatial); the edge is repeated."""
    extended = F.pad(image, [1, 1] * (image.dim() - 2), mode="replicate")
    differences: list[Tensor] = []
    for axis in range(2, image.dim()):
        line = extended
        for other in range(2, image.dim()):
            if other != axis:
                line = line.narrow(other, 1, image.shape[other])
        differences.append(0.5 * (line.narrow(axis, 2, image.shape[axis]) - line.narrow(axis, 0, image.shape[axis])))
    return torch.cat(differences, dim=1)


def velocity_on(velocity: Tensor, grid: Grid, multiple: int, squarings: int) -> Velocity:
    """A velocity that was predicted on an image, padded to that multiple, at any resolution, as a transform."""
    whole = Grid([size + -size % multiple for size in grid.shape], grid.affine)
    return Velocity(velocity.float(), whole.resized(velocity.shape[2:]), squarings)
