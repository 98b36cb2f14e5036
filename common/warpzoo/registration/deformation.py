"""Free-form deformation and stationary velocity fields, optimised for a pair from coarse to fine.

Convention: coefficients of a cubic B-spline, (1, dims, *lattice), say how far to go in voxels of their own lattice: a
grid parallel to the fixed one whose points lie where `warpzoo.geometry.bspline` has control points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.bspline import bspline_weights
from warpzoo.geometry.grid import Grid, axis_positions
from warpzoo.geometry.jacobian import corner_determinants
from warpzoo.geometry.separable import along_axes, linear_weights
from warpzoo.geometry.transforms import BSpline, Transform, Velocity
from warpzoo.geometry.velocity import integrate_velocity
from warpzoo.losses import Diffusion, FoldingPenalty
from warpzoo.registration.descent import Descent
from warpzoo.registration.pyramid import ImagePyramid, Level, pyramid
from warpzoo.registration.similarities import Similarity

MOST_VOXELS = 2**22
"""Of the finest level; larger images are registered at a coarser one."""
LEARNING_RATE = 0.1
FINEST_SHARE = 0.7
"""Of the budget for the finest level, beside 1 for each of the others: its iterations take most of the time."""
SMOOTHNESS = 0.3
"""Of what a level adds, not of what it starts from: noise is not followed, and large deformations cost nothing. As many
times more as voxels are one: at a coarse level there is less to see and more to spoil."""
NO_FOLDS = 10.0
SQUARINGS = 5


class VelocityModel:
    """A velocity every two voxels of the level; its flow is computed there and interpolated linearly in between."""

    spacing = 2

    def __init__(self, lattice: Grid, level: Level) -> None:
        positions = axis_positions(level.grid, lattice)
        self.up = [linear_weights(at, size).to(level.fixed) for at, size in zip(positions, lattice.shape, strict=True)]
        self.unit = voxels_per(lattice, level.grid).to(level.fixed)

    def __call__(self, coefficients: Tensor) -> Tensor:
        """The displacement on the level."""
        return along_axes(integrate_velocity(at_lattice(coefficients), SQUARINGS), self.up) * self.unit

    @staticmethod
    def folding(coefficients: Tensor) -> Tensor:
        """A flow does not fold."""
        return coefficients.new_zeros(())

    @staticmethod
    def transform(coefficients: Tensor, lattice: Grid, fixed: Grid) -> Transform:
        return Velocity(at_lattice(coefficients).cpu(), lattice)


class FreeFormModel:
    """Control points every four voxels of the level; folding costs."""

    spacing = 4

    def __init__(self, lattice: Grid, level: Level) -> None:
        self.up = _spline_weights(lattice, level.grid, level.fixed)
        self.unit = voxels_per(lattice, level.grid).to(level.fixed)

    def __call__(self, coefficients: Tensor) -> Tensor:
        """The displacement on the level."""
        return along_axes(coefficients, self.up) * self.unit

    @staticmethod
    def folding(coefficients: Tensor) -> Tensor:
        return FoldingPenalty()(coefficients)

    @staticmethod
    def transform(coefficients: Tensor, lattice: Grid, fixed: Grid) -> Transform:
        """Where the penalty has left a fold, all goes a little less far until there is none."""
        unit = voxels_per(lattice, fixed)
        spacing, points = unit.flatten().round().int().tolist(), coefficients.cpu() * unit.float()
        while True:
            transform = BSpline(points, fixed, spacing)
            if not _folds(transform):
                return transform
            points = 0.95 * points


Model = VelocityModel | FreeFormModel


def deform(
    kind: type[VelocityModel] | type[FreeFormModel],
    pair: ImagePyramid,
    similarity: Similarity,
    descent: Descent,
    levels: int | None = None,
) -> Transform | None:
    """What is to come before the pair's start for a higher similarity at the finest level; None if nothing does."""
    steps = pyramid(pair.fixed_grid, MOST_VOXELS)[-levels if levels else 0 :]
    lattice = lattice_of(pair.fixed_grid, [kind.spacing * one for one in steps[0]])
    coefficients = pair.fixed.new_zeros(1, lattice.dims, *lattice.shape)
    for step, share in zip(steps, _shares(len(steps)), strict=True):
        level, coarse = pair.level(step), lattice
        lattice = lattice_of(pair.fixed_grid, [kind.spacing * one for one in step])
        coefficients = refined(coefficients, coarse, lattice)
        model = kind(lattice, level)
        mask = level.covered(model(coefficients))
        descend(level, model, similarity, mask, SMOOTHNESS * max(step), coefficients, descent, share)
    before, after = (agreement(level, model(at), similarity, mask) for at in (0 * coefficients, coefficients))
    return kind.transform(coefficients, lattice, pair.fixed_grid) if bool(after > before) else None


def refine_spline(
    spline: BSpline, pair: ImagePyramid, similarity: Similarity, descent: Descent, levels: int
) -> BSpline:
    """A cubic B-spline before the pair's start with the same control points, moved for a higher similarity."""
    steps = pyramid(pair.fixed_grid, MOST_VOXELS)[-levels:]
    lattice = lattice_of(spline.grid, spline.spacing)
    unit = voxels_per(lattice, spline.grid).to(pair.fixed)
    known = spline.control_points.detach().to(pair.fixed) / unit
    coarseness = float(max(np.array(lattice.spacing) / pair.fixed_grid.spacing)) / FreeFormModel.spacing
    coefficients = known.clone()
    for step, share in zip(steps, _shares(len(steps)), strict=True):
        level = pair.level(step)
        model = FreeFormModel(lattice, level)
        mask = level.covered(model(coefficients))
        descend(level, model, similarity, mask, SMOOTHNESS * coarseness, coefficients, descent, share)
    before, after = (agreement(level, model(at), similarity, mask) for at in (known, coefficients))
    if not bool(after > before):
        return spline
    known, change = (known * unit).cpu(), ((coefficients - known) * unit).cpu()
    folded = _folds(spline)
    while True:
        result = BSpline(known + change, spline.grid, spline.spacing)
        if folded or not _folds(result):
            return result
        change = 0.95 * change


def agreement(level: Level, displacement: Tensor, similarity: Similarity, mask: Tensor | None) -> Tensor:
    """The similarity under a displacement, less what the landmarks are apart."""
    return similarity(level.fixed, level.warped(displacement), mask) - level.apart(displacement)


def descend(
    level: Level,
    model: Model,
    similarity: Similarity,
    mask: Tensor | None,
    smoothness: float,
    coefficients: Tensor,
    descent: Descent,
    until: float,
) -> None:
    """Changes the coefficients in place, until that part of the budget is spent."""
    known = coefficients.clone()

    def loss() -> Tensor:
        cost = smoothness * Diffusion()(coefficients - known) + NO_FOLDS * model.folding(coefficients)
        return cost - agreement(level, model(coefficients), similarity, mask).sum()

    descent.minimise(loss, [coefficients.requires_grad_(True)], LEARNING_RATE, until)
    coefficients.requires_grad_(False)


def _shares(levels: int) -> list[float]:
    """Which part of the budget is spent at the end of each level."""
    shares = np.cumsum([1.0] * (levels - 1) + [FINEST_SHARE])
    return (shares / shares[-1]).tolist()


def _folds(transform: Transform) -> bool:
    return not bool((corner_determinants(transform.field()) > 0).all())


def lattice_of(grid: Grid, spacing: Sequence[int]) -> Grid:
    """Control points every so many voxels of a grid, where `warpzoo.geometry.bspline` has them, as a grid."""
    step = np.array(spacing)
    matrix = np.diag([*step, 1.0])
    matrix[:-1, -1] = 0.5 * (step - 1)
    return Grid([-(-size // one) for size, one in zip(grid.shape, spacing, strict=True)], grid.affine @ matrix)


def at_lattice(coefficients: Tensor) -> Tensor:
    """The spline at its own lattice points."""
    return along_axes(coefficients, [_own_weights(size).to(coefficients) for size in coefficients.shape[2:]])


def refined(coefficients: Tensor, lattice: Grid, finer: Grid) -> Tensor:
    """The same spline by the coefficients of a finer lattice: equal at its points."""
    if finer == lattice:
        return coefficients
    positions = axis_positions(finer, lattice)
    there = [bspline_weights(at, size, 3) for at, size in zip(positions, lattice.shape, strict=True)]
    matrices = [torch.linalg.solve(_own_weights(len(at)), at).to(coefficients) for at in there]
    return along_axes(coefficients, matrices) * voxels_per(lattice, finer).to(coefficients)


def voxels_per(source: Grid, target: Grid) -> Tensor:
    """How many voxels of a grid are one of another parallel to it, (dims, 1, …), float64."""
    return torch.tensor(np.array(source.spacing) / target.spacing).view(-1, *[1] * source.dims)


def _spline_weights(lattice: Grid, grid: Grid, like: Tensor) -> list[Tensor]:
    """What takes coefficients on a lattice to the spline at the voxels of a grid, axis by axis."""
    positions = axis_positions(grid, lattice)
    return [bspline_weights(at, size, 3).to(like) for at, size in zip(positions, lattice.shape, strict=True)]


def _own_weights(count: int) -> Tensor:
    return bspline_weights(torch.arange(count, dtype=torch.float64), count, 3)
