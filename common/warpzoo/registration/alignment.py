"""Affine registration of two images that are nearly in place: Gauss–Newton on their correlation, a few steps a level.

Convention: what is sought is a matrix of voxels, from the fixed image to the moving one. Each step compares the fixed
image with the moving one as it is warped so far, both standardised where they overlap, along the mean of their
gradients; what it finds goes before what was known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from warpzoo.geometry.composition import composed, split
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import inside_of, sample_unchecked, voxel_coordinates
from warpzoo.geometry.transforms import Affine, Transform
from warpzoo.images.image import Image
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.pair import on_working_grid
from warpzoo.registration.pyramid import coarser, shrink

MOST_VOXELS = 2**14
"""Of the finest level: a dozen numbers are found from fewer voxels than there are."""
FEWEST_VOXELS = 2**10
"""Of the coarsest."""
STEPS = 20
CLOSE = 0.02
"""A step that moves no corner of the image further, in voxels of its level, is the level's last."""
LEAST_OVERLAP = 0.2


@dataclass(frozen=True)
class Alignment:
    """A method that makes a known affine transform better, or finds a small one."""

    steps: int = STEPS
    device: str = "cpu"
    name: str = "align"
    linear: bool = True
    expectations: Mapping[str, Any] = field(default_factory=lambda: {"displacement": float("inf")})

    def __call__(
        self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None = None
    ) -> Transform:
        before, matrix = split(start, fixed.grid.dims)
        if before is not None:  # a deformation is known already, which a matrix then goes before
            image = on_working_grid(fixed, moving, start, fixed.grid)
            found = align(image[:, 1:2], image[:, :1], np.eye(fixed.grid.dims + 1), self.steps)
            return composed(_placed(found, fixed.grid, fixed.grid), start)
        known = np.linalg.inv(moving.grid.affine) @ matrix @ fixed.grid.affine
        mask = None if guidance is None else guidance.on_grid(fixed.grid, fixed, moving, start)
        counts = None if mask is None else (mask > 0).all(1, keepdim=True)
        arrays = [one.array[None, :1].float() for one in (fixed, moving)]
        found = align(arrays[0], arrays[1], known, self.steps, counts)
        return _placed(found, fixed.grid, moving.grid)

    def finest(self, fixed: Image, start: Transform | None) -> Grid:
        return coarser(fixed.grid, [step_of(fixed.grid.shape, MOST_VOXELS)] * fixed.grid.dims)


def correlation(fixed: Image, moving: Image, matrix: np.ndarray) -> float:
    """Of the images where they overlap by a matrix of the world; -1 if they hardly do."""
    known = np.linalg.inv(moving.grid.affine) @ matrix @ fixed.grid.affine
    step = step_of(fixed.grid.shape, MOST_VOXELS)
    (one, scale), (other, other_scale) = (_smaller(image.array[None, :1].float(), step) for image in (fixed, moving))
    points = voxel_coordinates(list(one.shape[2:]), torch.float32, one.device)
    compared = _compared(one, other, np.linalg.inv(other_scale) @ known @ scale, points, None)
    return -1.0 if compared is None else compared[0]


def _placed(matrix: np.ndarray, fixed: Grid, moving: Grid) -> Affine:
    """A matrix of voxels as a transform of the world."""
    world = moving.affine @ matrix @ np.linalg.inv(fixed.affine)
    return Affine.from_world(torch.from_numpy(world[None, :-1]), fixed)


def step_of(shape: tuple[int, ...], most: int) -> float:
    """How many voxels along each axis become one, for there to be no more than that."""
    return max(1.0, (prod(shape) / most) ** (1 / len(shape)))


def align(
    fixed: Tensor, moving: Tensor, known: np.ndarray, steps: int = STEPS, mask: Tensor | None = None
) -> np.ndarray:
    """The matrix (dims + 1, dims + 1) from voxels of the fixed to voxels of the moving image, (1, 1, *spatial) each,
    that makes them more alike than the `known` one; the known one if there is none nearby."""
    shape = tuple(fixed.shape[2:])
    finest, coarsest = step_of(shape, MOST_VOXELS), step_of(shape, FEWEST_VOXELS)
    levels = [coarsest]
    while levels[-1] > 2 * finest:
        levels.append(levels[-1] / 2)
    levels += [finest] if levels[-1] > 1.3 * finest else []
    found = known
    for step in levels:
        found = _at_level(fixed, moving, found, step, steps, mask)
    return found


def _at_level(
    fixed: Tensor, moving: Tensor, known: np.ndarray, step: float, steps: int, mask: Tensor | None
) -> np.ndarray:
    one, scale = _smaller(fixed, step)
    other, other_scale = _smaller(moving, step)
    dims = one.dim() - 2
    counted = None if mask is None else F.interpolate(mask.float(), one.shape[2:])[0, 0] > 0.5
    matrix = np.linalg.inv(other_scale) @ known @ scale
    points = voxel_coordinates(list(one.shape[2:]), torch.float32, one.device)
    sides = torch.tensor(one.shape[2:], dtype=torch.float32)
    places = (points - ((sides - 1) / 2).view(-1, *[1] * dims)) / sides.max()  # about the middle, for the equations
    centred = np.eye(dims + 1)
    centred[:-1, :-1] /= float(sides.max())
    centred[:-1, -1] = -((sides - 1) / 2).numpy() / float(sides.max())
    basis = torch.cat([places, torch.ones_like(places[:1])]).flatten(1)
    slopes = _gradient(one[0, 0])
    best = _compared(one, other, matrix, points, counted)
    if best is None:
        return known
    first, kept = best, matrix
    for _ in range(steps):
        residual, weight, warped, spread = best[1:]
        mean = 0.5 * (slopes / spread[0] + _gradient(warped) / spread[1]).flatten(1) * weight
        jacobian = (mean[:, None] * basis[None]).flatten(0, 1)  # (dims * (dims + 1), count)
        jacobian = jacobian - jacobian.sum(1, keepdim=True) / weight.sum() * weight
        system = (jacobian @ jacobian.T).double()
        system += 1e-6 * system.diagonal().mean() * torch.eye(len(system), dtype=torch.float64)
        change = torch.linalg.solve(system, (jacobian @ residual).double()).view(dims, dims + 1).numpy()
        update = np.eye(dims + 1)
        update[:-1] += change @ centred
        trial = matrix @ update
        compared = _compared(one, other, trial, points, counted)
        if compared is None or compared[0] < best[0] - 1e-3:
            break
        matrix, best = trial, compared
        if compared[0] >= first[0]:
            first, kept = compared, trial
        corners = np.abs(change).sum(1).max()
        if corners < CLOSE:
            break
    return other_scale @ kept @ np.linalg.inv(scale)


def _compared(
    one: Tensor, other: Tensor, matrix: np.ndarray, points: Tensor, counted: Tensor | None
) -> tuple[float, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]] | None:
    """Correlation where they overlap, the difference of both standardised there, which voxels those are, the warped
    image and both standard deviations; None if they hardly overlap."""
    linear = torch.from_numpy(matrix[:-1]).float()
    there = (linear[:, :-1] @ points.flatten(1) + linear[:, -1:]).view_as(points)[None]
    warped = sample_unchecked(other, there)[0, 0]
    inside = inside_of(there, list(other.shape[2:]))[0, 0]
    weight = (inside if counted is None else inside & counted).flatten().float()
    count = weight.sum()
    if count < LEAST_OVERLAP * weight.numel() and (counted is None or count < LEAST_OVERLAP * counted.sum()):
        return None
    standardised, spread = [], []
    for values in (one[0, 0].flatten(), warped.flatten()):
        centred = (values - (values * weight).sum() / count) * weight
        deviation = ((centred**2).sum() / count).sqrt().clamp_min(1e-12)
        standardised.append(centred / deviation)
        spread.append(deviation)
    correlation = float((standardised[0] * standardised[1]).sum() / count)
    return correlation, standardised[0] - standardised[1], weight, warped, (spread[0], spread[1])


def _smaller(image: Tensor, step: float) -> tuple[Tensor, np.ndarray]:
    """The image with so many times fewer voxels along each axis, and the matrix from its voxels to the image's."""
    dims = image.dim() - 2
    shape = [min(size, max(2, round(size / step))) for size in image.shape[2:]]
    scale = np.eye(dims + 1)
    for axis, (size, fewer) in enumerate(zip(image.shape[2:], shape, strict=True)):
        scale[axis, axis] = size / fewer
        scale[axis, -1] = 0.5 * (size / fewer - 1)
    return (image if tuple(shape) == tuple(image.shape[2:]) else shrink(image, tuple(shape))), scale


def _gradient(values: Tensor) -> Tensor:
    """Central differences along each axis, (dims, *spatial)."""
    return torch.stack([torch.gradient(values, dim=axis)[0] for axis in range(values.dim())])
