"""A pair of images from coarse to fine, and where the voxels of the fixed one lie in the moving one at each level.

Convention: a displacement is in voxels of the level's own fixed grid, (batch, dims, *shape). A level's matrix takes the
voxels of its fixed grid to those of its moving grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.composition import split
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import inside_of, sample, voxel_coordinates, warp
from warpzoo.geometry.separable import along_axes
from warpzoo.geometry.transforms import Transform

SMALLEST_SIDE = 8
"""Voxels of a side below which it is not halved any more."""


class ImagePyramid:
    """Two images, (1, 1, *spatial) with zero mean and unit variance, and what is known of the transform between them.

    `start` is where the fixed points lie in the moving space, as far as is known.
    """

    def __init__(
        self, fixed: Tensor, fixed_grid: Grid, moving: Tensor, moving_grid: Grid, start: Transform | None = None
    ) -> None:
        self.fixed, self.moving = _standardised(fixed), _standardised(moving)
        self.fixed_grid, self.moving_grid = fixed_grid, moving_grid
        field, self.world = split(start, fixed_grid.dims)
        self.field = None if field is None else field.field(fixed_grid).detach().to(self.fixed)

    def level(self, steps: Sequence[int]) -> Level:
        """The pair with so many voxels of the fixed image in one along each axis, the moving one about as coarse."""
        grid = coarser(self.fixed_grid, steps)
        moving_grid = coarser(self.moving_grid, steps_to(self.moving_grid, min(grid.spacing)))
        field = None
        if self.field is not None:
            ratio = np.array(self.fixed_grid.shape) / grid.shape
            field = shrink(self.field, grid.shape) / _per_axis(ratio, self.field)
        matrix = np.linalg.inv(moving_grid.affine) @ self.world @ grid.affine
        return Level(shrink(self.fixed, grid.shape), grid, shrink(self.moving, moving_grid.shape), matrix, field)


class Level:
    """A pair at one resolution: `warped(displacement)` and the mask of what the moving image covers."""

    def __init__(self, fixed: Tensor, grid: Grid, moving: Tensor, matrix: np.ndarray, field: Tensor | None) -> None:
        self.fixed, self.grid, self.moving, self.matrix, self.field = fixed, grid, moving, matrix, field
        self.linear = torch.tensor(matrix[:-1, :-1]).to(fixed)
        self.same = fixed.shape == moving.shape and np.allclose(matrix, np.eye(len(matrix)), atol=1e-4)
        self.voxels = voxel_coordinates(list(grid.shape), fixed.dtype, fixed.device)[None]
        self.unmoved = self.moved(self.voxels)

    def moved(self, points: Tensor) -> Tensor:
        """Points (batch, dims, *any) in voxels of the level through its matrix."""
        shift = torch.tensor(self.matrix[:-1, -1]).to(points)
        return (torch.matmul(self.linear, points.flatten(2)) + shift[:, None]).reshape(points.shape)

    def total(self, displacement: Tensor) -> Tensor:
        """The displacement (batch, dims, *shape), followed by the start."""
        return displacement if self.field is None else displacement + warp(self.field, displacement)

    def coordinates(self, displacement: Tensor) -> Tensor:
        """Where the voxels lie in the moving image, (batch, dims, *shape)."""
        total = self.total(displacement)
        return self.unmoved + torch.matmul(self.linear, total.flatten(2)).reshape(total.shape)

    def warped(self, displacement: Tensor) -> Tensor:
        """The moving image on the fixed grid; its edge is repeated."""
        if self.same:
            return warp(self.moving, self.total(displacement))
        return sample(self.moving, self.coordinates(displacement))

    def covered(self, displacement: Tensor) -> Tensor | None:
        """Which voxels lie in the moving image, (1, 1, *shape); None if all do."""
        inside = inside_of(self.coordinates(displacement), list(self.moving.shape[2:]))
        return None if bool(inside.all()) else inside.to(self.fixed)


def pyramid(grid: Grid, most: int) -> list[list[int]]:
    """How many voxels become one along each axis, level by level, from the coarsest to one of at most `most` voxels.

    Each level halves the sides that are finest in the world, down to `SMALLEST_SIDE` voxels.
    """
    levels: list[list[int]] = []
    target = min(grid.spacing)
    while not levels or any(
        size // step >= 2 * SMALLEST_SIDE for size, step in zip(grid.shape, levels[-1], strict=True)
    ):
        steps = steps_to(grid, target)
        if not levels or steps != levels[-1]:
            levels.append(steps)
        target *= 2
    fine = [steps for steps in levels if prod(coarser(grid, steps).shape) <= most]
    return (fine or levels[-1:])[::-1]


def steps_to(grid: Grid, target: float) -> list[int]:
    """The powers of two that bring each side's spacing nearest to the target without passing it."""
    steps = []
    for size, spacing in zip(grid.shape, grid.spacing, strict=True):
        step = 1
        while 2 * step * spacing <= target * 1.001 and size // (2 * step) >= SMALLEST_SIDE:
            step *= 2
        steps.append(step)
    return steps


def coarser(grid: Grid, steps: Sequence[int]) -> Grid:
    return grid.resized([-(-size // step) for size, step in zip(grid.shape, steps, strict=True)])


def shrink(image: Tensor, shape: Sequence[int]) -> Tensor:
    """The image (batch, channels, *spatial) in fewer voxels of the same box, each the mean of what it covers."""
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    return along_axes(
        image, [_box_weights(old, new).to(image) for old, new in zip(image.shape[2:], shape, strict=True)]
    )


def _box_weights(old: int, new: int) -> Tensor:
    """How much of each new voxel, (new, old), lies in each old one."""
    edges = torch.arange(new + 1, dtype=torch.float64) * (old / new)
    start = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    return overlap.clamp_min(0) * (new / old)


def _per_axis(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.tensor(values).to(like).view(-1, *[1] * (like.dim() - 2))


def _standardised(image: Tensor) -> Tensor:
    values = image.float()
    deviation = values.std()
    return (values - values.mean()) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
