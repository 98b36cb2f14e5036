"""Affine registration of images that are nearly in place: Gauss–Newton on their correlation, a few steps a level.

Convention: what is sought is a matrix of voxels, from the fixed image to the moving one. Each step compares the fixed
image with the moving one as it is warped so far, both standardised where they overlap, along the mean of their
gradients; what it finds goes before what was known. Several pairs of images of the same sizes are aligned at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from warpzoo.geometry.composition import composed, split
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import axis_coordinates, voxel_coordinates
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
CLOSE, ROUGHLY = 0.02, 0.1
"""A step that moves no corner of the image further, in voxels of the level, is the last of the finest and of others."""
WORSE = 1e-3
"""Correlation that a step may lose and be gone on from."""
LEAST_OVERLAP = 0.2


class Level(NamedTuple):
    """An image with fewer voxels (1, 1, *spatial), standardised, its gradient (1, dims, *spatial), and the matrix from
    its voxels to those of the image."""

    values: Tensor
    slopes: Tensor
    scale: np.ndarray


class Levels:
    """The first channel of an image at the levels that alignments look at, each made once."""

    def __init__(self, array: Tensor) -> None:
        self.image = array[None, :1].float()
        self.shape = tuple(array.shape[1:])
        self.known: dict[float, Level] = {}

    def at(self, step: float) -> Level:
        if step not in self.known:
            values, scale = _smaller(self.image, step)
            values = (values - values.mean()) / values.std().clamp_min(1e-12)
            self.known[step] = Level(values, _gradient(values), scale)
        return self.known[step]


class Aligned(NamedTuple):
    """The matrix (dims + 1, dims + 1) of voxels that was found, and the correlation by it at the finest level."""

    matrix: np.ndarray
    correlation: float


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
            found = align(Levels(image[0, 1:2]), Levels(image[0, :1]), np.eye(fixed.grid.dims + 1), self.steps)
            return composed(_placed(found.matrix, fixed.grid, fixed.grid), start)
        mask = None if guidance is None else guidance.on_grid(fixed.grid, fixed, moving, start)
        counts = None if mask is None else (mask > 0).all(1, keepdim=True)
        known = in_voxels(matrix, fixed.grid, moving.grid)
        found = align(Levels(fixed.array), Levels(moving.array), known, self.steps, counts)
        return _placed(found.matrix, fixed.grid, moving.grid)

    def finest(self, fixed: Image, start: Transform | None) -> Grid:
        return coarser(fixed.grid, [step_of(fixed.grid.shape, MOST_VOXELS)] * fixed.grid.dims)


def in_voxels(matrix: np.ndarray, fixed: Grid, moving: Grid) -> np.ndarray:
    """A matrix of the world as one of voxels."""
    voxels: np.ndarray = np.linalg.inv(moving.affine) @ matrix @ fixed.affine
    return voxels


def in_world(matrix: np.ndarray, fixed: Grid, moving: Grid) -> np.ndarray:
    """A matrix of voxels as one of the world."""
    world: np.ndarray = moving.affine @ matrix @ np.linalg.inv(fixed.affine)
    return world


def _placed(matrix: np.ndarray, fixed: Grid, moving: Grid) -> Affine:
    return Affine.from_world(torch.from_numpy(in_world(matrix, fixed, moving)[None, :-1]), fixed)


def step_of(shape: tuple[int, ...], most: int) -> float:
    """How many voxels along each axis become one, for there to be no more than that."""
    return max(1.0, (prod(shape) / most) ** (1 / len(shape)))


def levels_of(shape: tuple[int, ...]) -> list[float]:
    """The steps of an image's levels, from coarse to fine."""
    finest, coarsest = step_of(shape, MOST_VOXELS), step_of(shape, FEWEST_VOXELS)
    levels = [coarsest]
    while levels[-1] > 2 * finest:
        levels.append(levels[-1] / 2)
    return levels + ([finest] if levels[-1] > 1.3 * finest else [])


def correlations(
    fixed: Sequence[Levels], moving: Sequence[Levels], known: np.ndarray, mask: Tensor | None = None
) -> np.ndarray:
    """Of as many pairs, where they overlap by a matrix of voxels of each, at a level between; -1 if they hardly do."""
    steps = levels_of(fixed[0].shape)
    step = steps[len(steps) // 2]
    ones, others = ([image.at(step) for image in images] for images in (fixed, moving))
    matrices = np.linalg.inv(others[0].scale) @ known @ ones[0].scale
    one, other = (torch.cat([image.values for image in images]) for images in (ones, others))
    return _compared(one, other, matrices, _counted(mask, ones[0])).correlation


def best_of(
    fixed: Sequence[Levels], moving: Sequence[Levels], candidates: Sequence[np.ndarray], mask: Tensor | None = None
) -> np.ndarray:
    """Of some matrices for each pair the one by which it is most alike; of equal ones the first."""
    alike = np.stack([correlations(fixed, moving, one, mask) for one in candidates])
    return np.stack(candidates)[alike.argmax(0), np.arange(len(fixed))]


def align(fixed: Levels, moving: Levels, known: np.ndarray, steps: int = STEPS, mask: Tensor | None = None) -> Aligned:
    """The matrix (dims + 1, dims + 1) from voxels of the fixed to voxels of the moving image that makes them more alike
    than the `known` one; the known one if there is none nearby."""
    return align_pairs([fixed], [moving], known[None], steps, mask)[0]


def align_pairs(
    fixed: Sequence[Levels],
    moving: Sequence[Levels],
    known: np.ndarray,
    steps: int = STEPS,
    mask: Tensor | None = None,
    roughly: bool = False,
) -> list[Aligned]:
    """The same for as many pairs, from a matrix of each (pairs, dims + 1, dims + 1), at once; `roughly` leaves out the
    finest of several levels."""
    found, alike = known, np.full(len(known), -1.0)
    levels = levels_of(fixed[0].shape)
    levels = levels[: max(1, len(levels) - roughly)]
    for step in levels:
        ones, others = ([image.at(step) for image in images] for images in (fixed, moving))
        scales = ones[0].scale, others[0].scale
        matrices = np.linalg.inv(scales[1]) @ found @ scales[0]
        one, other = torch.cat([image.values for image in ones]), torch.cat([image.values for image in others])
        slopes, close = torch.cat([image.slopes for image in ones]), CLOSE if step == levels[-1] else ROUGHLY
        matrices, alike = _at_level(one, slopes, other, matrices, _counted(mask, ones[0]), steps, close)
        found = scales[1] @ matrices @ np.linalg.inv(scales[0])
    return [Aligned(*one) for one in zip(found, map(float, alike), strict=True)]


def _at_level(
    fixed: Tensor, slopes: Tensor, moving: Tensor, known: np.ndarray, counted: Tensor | None, steps: int, close: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best matrices (pairs, dims + 1, dims + 1) of voxels of the level, and the correlations by them."""
    dims, centred = fixed.dim() - 2, _centred(tuple(fixed.shape[2:]))
    now = _compared(fixed, moving, known, counted)
    kept, best, last, matrices = known.copy(), now.correlation.copy(), now.correlation.copy(), known.copy()
    active = np.arange(len(known))
    going = best > -1
    for _ in range(steps):
        if not going.all():  # images and `now` are of the active pairs alone
            active, now = active[going], now.of(going)
            fixed, slopes, moving = fixed[going], slopes[going], moving[going]
        if not len(active):
            break
        change = _change(slopes, now)
        update = np.tile(np.eye(dims + 1), (len(active), 1, 1))
        update[:, :-1] += change @ centred
        trial = matrices[active] @ update
        now = _compared(fixed, moving, trial, counted)
        going = now.correlation >= last[active] - WORSE
        matrices[active[going]], last[active[going]] = trial[going], now.correlation[going]
        better = going & (now.correlation >= best[active])
        kept[active[better]], best[active[better]] = trial[better], now.correlation[better]
        going &= np.abs(change).sum(2).max(1) >= close
    return kept, best


def _change(slopes: Tensor, now: Compared) -> np.ndarray:
    """Of the matrices (pairs, dims, dims + 1), about the middle: the least squares of the differences along the mean
    gradient, times places; as if its mean were taken away where images overlap, as theirs is."""
    pairs, dims = slopes.shape[:2]
    basis, products = _basis(tuple(slopes.shape[2:]))
    sides = [(0.5 / one).view(-1, *[1] * (dims + 1)) for one in now.spread]
    mean = (now.gradient * sides[1]).add_(slopes * sides[0]).flatten(2).mul_(now.weight[:, None])
    centre = (mean @ basis).flatten(1).double().numpy()
    right = ((mean * now.residual[:, None]) @ basis).flatten(1).double().numpy()
    count = dims * (dims + 1)
    blocks = np.zeros((pairs, dims, dims + 1, dims, dims + 1))
    for i, j in zip(*np.triu_indices(dims), strict=True):
        block = ((mean[:, i] * mean[:, j]) @ products).double().numpy().reshape(-1, dims + 1, dims + 1)
        blocks[:, i, :, j] = blocks[:, j, :, i] = block
    system = blocks.reshape(-1, count, count)
    system -= centre[:, :, None] * centre[:, None] / now.weight.sum(1).double().numpy()[:, None, None]
    system += 1e-6 * np.trace(system, axis1=1, axis2=2)[:, None, None] / count * np.eye(count)
    change: np.ndarray = np.linalg.solve(system, right[:, :, None]).reshape(-1, dims, dims + 1)
    return change


def _centred(shape: tuple[int, ...]) -> np.ndarray:
    """From voxels to places about the middle, in longest sides (dims + 1, dims + 1): for equations of one size."""
    matrix = np.eye(len(shape) + 1)
    matrix[:-1, -1] = -(np.array(shape) - 1) / 2
    matrix[:-1] /= max(shape)
    return matrix


@lru_cache(maxsize=8)
def _basis(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Of every voxel its place and a 1 (voxels, dims + 1), and their products (voxels, (dims + 1)²)."""
    points = voxel_coordinates(list(shape), torch.float64, torch.device("cpu")).flatten(1)
    places = torch.from_numpy(_centred(shape)) @ torch.cat([points, torch.ones_like(points[:1])])
    products = (places[:, None] * places).flatten(0, 1)
    return places.T.float().contiguous(), products.T.float().contiguous()


class Compared(NamedTuple):
    """Of each pair: the correlation where they overlap, -1 if they hardly do; which voxels those are, and the
    difference of both standardised there (pairs, voxels); the warped image's gradient, and both deviations."""

    correlation: np.ndarray
    weight: Tensor
    residual: Tensor
    gradient: Tensor
    spread: tuple[Tensor, Tensor]

    def of(self, some: np.ndarray) -> Compared:
        """Of some of the pairs, (pairs,) of True and False."""
        weight, residual, gradient = (part[some] for part in (self.weight, self.residual, self.gradient))
        return Compared(
            self.correlation[some], weight, residual, gradient, (self.spread[0][some], self.spread[1][some])
        )


def _compared(fixed: Tensor, moving: Tensor, matrices: np.ndarray, counted: Tensor | None) -> Compared:
    """Of images whose own mean is about 0 and deviation about 1 (pairs, 1, *spatial)."""
    dims, sides = fixed.dim() - 2, np.array(moving.shape[2:])
    # to the places that `grid_sample` takes: from -1 to 1 between the outer edges, the last axis first
    places = (2 * matrices[:, :-1] + np.eye(dims + 1)[-1] * (1 - sides[:, None])) / sides[:, None]
    columns = torch.from_numpy(places[:, ::-1].copy()).float().view(len(places), *[1] * dims, dims, dims + 1).unbind(-1)
    grid = columns[-1]
    for axis, size in enumerate(fixed.shape[2:]):
        grid = grid + axis_coordinates(size, axis, dims, torch.float32, fixed.device)[..., None] * columns[axis]
    warped = F.grid_sample(moving, grid, padding_mode="border", align_corners=False)
    inside = (grid.abs().amax(-1) <= 1).flatten(1)
    weight = (inside if counted is None else inside & counted).float()
    count = weight.sum(1)
    most = weight.shape[1] if counted is None else min(weight.shape[1], int(counted.sum()))
    flat = fixed.flatten(1), warped.flatten(1)
    weighed = flat[0] * weight, flat[1] * weight
    means = [one.sum(1) / count.clamp_min(1) for one in weighed]

    def covariance(one: int, other: int) -> Tensor:
        dot = (weighed[one][:, None] @ flat[other][:, :, None])[:, 0, 0]
        return dot / count.clamp_min(1) - means[one] * means[other]

    spread = covariance(0, 0).clamp_min(1e-12).sqrt(), covariance(1, 1).clamp_min(1e-12).sqrt()
    alike = covariance(0, 1) / (spread[0] * spread[1])
    alike = torch.where(count < LEAST_OVERLAP * most, -torch.ones_like(alike), alike)
    residual = weighed[0] / spread[0][:, None]
    residual -= weighed[1] / spread[1][:, None]
    residual -= weight * (means[0] / spread[0] - means[1] / spread[1])[:, None]
    return Compared(alike.double().numpy(), weight, residual, _gradient(warped), spread)


def _counted(mask: Tensor | None, level: Level) -> Tensor | None:
    """Which voxels of a level count, (voxels,)."""
    return None if mask is None else (F.interpolate(mask.float(), level.values.shape[2:]) > 0.5).flatten()


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
    """Central differences of images (batch, 1, *spatial) along each axis, (batch, dims, *spatial)."""
    return torch.cat(torch.gradient(values, dim=list(range(2, values.dim()))), 1)
