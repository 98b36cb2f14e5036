"""Free-form deformation and stationary velocity fields, optimised for a pair from coarse to fine.

Convention: coefficients of a cubic B-spline, (1, dims, *lattice), say how far to go in voxels of their own lattice: a
grid parallel to the fixed one whose points lie where `warpzoo.geometry.bspline` has control points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from warpzoo.geometry.bspline import bspline_weights
from warpzoo.geometry.chunks import slabs
from warpzoo.geometry.grid import Grid, axis_positions
from warpzoo.geometry.jacobian import corner_determinants
from warpzoo.geometry.separable import along_axes, along_axis, linear_weights
from warpzoo.geometry.transforms import BSpline, Transform, Velocity
from warpzoo.geometry.velocity import integrate_velocity
from warpzoo.losses import Diffusion, FoldingPenalty
from warpzoo.networks import central_gradient
from warpzoo.registration.descent import Descent
from warpzoo.registration.pyramid import AT_ONCE, ImagePyramid, Level, coarser
from warpzoo.registration.similarities import Similarity
from warpzoo.registration.tiles import of_region, plan_tiles

MOST_VOXELS = AT_ONCE
"""Of the finest level unless more are asked for; larger images are registered at a coarser one."""
LEARNING_RATE = 0.2
FINEST_LEARNING_RATE = 0.5
"""Both in voxels of the level. At the finest little is left to go wrong, and few iterations are affordable."""
TILED_LEARNING_RATE = 0.1
"""Where a level is worked on in tiles, what is left to find is small beside its noise."""
FINEST_SHARE = 0.4
"""Of the budget for the finest level, beside 1 for each of the others: its iterations take most of the time."""
SMALL = 2**20
"""Voxels of a finest level that gets as much as each of the others; as it grows, this falls to that share."""
SMOOTHNESS = 0.2
"""Of what a level adds, not of what it starts from: noise is not followed, and large deformations cost nothing. As many
times more as voxels are one, at a coarse level there is less to see and more to spoil, and as slices are thick,"""
THICKEST = 6.0
"""times, at most: no thicker ones were tried."""
NO_FOLDS = 10.0
SQUARINGS = 5
SMOOTHING = 2.0**0.5
"""Of the direction in which the coefficients change: the standard deviation in voxels of the level."""


class Model:
    """A displacement by coefficients on a lattice, at one level."""

    spacing: int
    """Voxels of the level between points of the lattice."""

    def __init__(self, lattice: Grid, level: Level) -> None:
        self.level = level
        self.unit = voxels_per(lattice, level.grid).to(level.fixed)
        positions = axis_positions(level.grid, lattice)
        both = [self.weights(at, size) for at, size in zip(positions, lattice.shape, strict=True)]
        self.up = [up.to(level.fixed) for up, _ in both]
        self.down = [(_smoothing(len(down), SMOOTHING / self.spacing) @ down).to(level.fixed) for _, down in both]

    @staticmethod
    def weights(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Along an axis: what takes the values of `at_lattice` to positions on it, and, there and back, a change at the
        positions to the coefficients."""
        raise NotImplementedError

    @staticmethod
    def at_lattice(coefficients: Tensor) -> Tensor:
        """What is interpolated for the displacement, in voxels of the lattice."""
        return coefficients

    @staticmethod
    def folding(coefficients: Tensor) -> Tensor:
        """What folds cost."""
        return coefficients.new_zeros(())

    @staticmethod
    def transform(coefficients: Tensor, lattice: Grid, fixed: Grid) -> Transform:
        raise NotImplementedError

    def __call__(self, coefficients: Tensor) -> Tensor:
        """The displacement on the level."""
        return along_axes(self.at_lattice(coefficients), self.up) * self.unit

    def warped(self, coefficients: Tensor) -> Tensor:
        """The moving image on the level."""
        warped: Tensor = _Warped.apply(coefficients, self)
        return warped

    def agreement(self, coefficients: Tensor, similarity: Similarity, mask: Tensor | None) -> Tensor:
        """The similarity, less what the landmarks are apart."""
        value = similarity(self.level.fixed, self.warped(coefficients), mask)
        return value if self.level.landmarks is None else value - self.level.apart(self(coefficients))


class VelocityModel(Model):
    """A velocity every two voxels of the level; its flow is computed there and interpolated linearly in between."""

    spacing = 2

    @staticmethod
    def weights(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
        up = linear_weights(positions, size)
        return up, (up @ _own_weights(size)).t()

    @staticmethod
    def at_lattice(coefficients: Tensor) -> Tensor:
        return integrate_velocity(spline_at_lattice(coefficients), SQUARINGS)

    @staticmethod
    def transform(coefficients: Tensor, lattice: Grid, fixed: Grid) -> Transform:
        return Velocity(spline_at_lattice(coefficients).cpu(), lattice)


class FreeFormModel(Model):
    """Control points every four voxels of the level; folding costs."""

    spacing = 4

    @staticmethod
    def weights(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
        up = bspline_weights(positions, size, 3)
        return up, up.t()

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


class _Warped(torch.autograd.Function):
    """The moving image under a model; its gradient is that of a small displacement which comes before all others.

    moving(φ(x + δ)) is warped(x + δ): the slope is that of the warped image, and the coefficients change as δ does, to
    first order in what they are (Baker, Campbell and Hausdorff). That is as good a direction as the exact gradient,
    and takes neither a second reading of the moving image nor a way back through the flow; and noise that the lattice
    cannot follow is smoothed away.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, model: Model) -> Tensor:
        lines = model.at_lattice(coefficients) * model.unit
        for axis in range(1, len(model.up)):
            lines = along_axis(lines, model.up[axis], axis)
        level = model.level
        warped = level.moving.new_empty(1, level.moving.shape[1], *level.grid.shape)
        for first, last in slabs(level.grid.shape, warped.device):
            displacement = along_axis(lines, model.up[0][first:last], 0)
            warped[:, :, first:last] = level.warped(displacement, first)
        ctx.model = model
        ctx.save_for_backward(warped)
        return warped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (warped,), model = ctx.saved_tensors, ctx.model
        lines = torch.zeros(())
        for first, last in slabs(warped.shape[2:], warped.device):
            low, high = max(first - 1, 0), min(last + 1, warped.shape[2])
            force = torch.zeros(())
            for channel in range(warped.shape[1]):
                slope = central_gradient(warped[:, channel : channel + 1, low:high])[:, :, first - low :]
                force = force + slope[:, :, : last - first] * upstream[:, channel : channel + 1, first:last]
            lines = lines + along_axis(force, model.down[0][:, first:last], 0)
        for axis in range(1, len(model.down)):
            lines = along_axis(lines, model.down[axis], axis)
        return lines * model.unit, None


class Search(NamedTuple):
    """For a deformation of a kind that makes a pair more similar."""

    kind: type[Model]
    pair: ImagePyramid
    similarity: Similarity
    descent: Descent

    def in_tiles(
        self,
        step: Sequence[float],
        lattice: Grid,
        coefficients: Tensor,
        smoothness: float,
        until: float,
        at_once: int,
    ) -> bool:
        """Changes the coefficients in place on a level of more than `at_once` voxels, until that part of the budget is
        spent; returns whether a tile has found anything."""
        images, found = self.pair.images(step), False
        tiles, positions = plan_tiles(images.grid.shape, at_once), axis_positions(lattice, images.grid)
        known, unit = coefficients.clone(), float(voxels_per(lattice, images.grid).max())
        for left, tile in zip(range(len(tiles), 0, -1), tiles, strict=True):
            spent = self.descent.spent
            if spent >= until:
                break
            points = tuple(_around(at, region) for at, region in zip(positions, tile.region, strict=True))
            began = of_region(known, points)
            own = began.clone()
            level = self.pair.part(images, tile.region, unit * float(own.abs().amax()))
            model = self.kind(lattice.part(points), level)
            counted = level.reached(model(own))
            if not bool(counted.any()) or level.is_flat:
                continue
            mask = None if bool(counted.all()) else counted.to(level.fixed)
            end, rate = spent + (until - spent) / left, TILED_LEARNING_RATE
            with self.descent.shared(len(tiles)):
                descend(model, self.similarity, mask, smoothness, own, self.descent, rate, end)
            share = tile.share([at[part] for at, part in zip(positions, points, strict=True)]).to(own)
            of_region(coefficients, points).add_(share * (own - began))
            found |= not torch.equal(own, began)
        return found


def deform(
    kind: type[Model],
    pair: ImagePyramid,
    similarity: Similarity,
    descent: Descent,
    levels: int | None = None,
    most: int = MOST_VOXELS,
    at_once: int = AT_ONCE,
    smoother: float = 1.0,
) -> Transform | None:
    """What is to come before the pair's start for a higher similarity at the finest level, which has at most so many
    voxels; None if nothing does.

    Then come levels of more than `at_once` voxels in tiles, of which none is less similar by it. `levels` is how many
    of the finest others there are, `smoother` how many times smoother than usual what a level adds must be.
    """
    search, steps = Search(kind, pair, similarity, descent), pair.steps(most)
    whole = sum(prod(coarser(pair.fixed_grid, step).shape) <= at_once for step in steps)
    first = max(0, whole - levels) if levels else 0
    finest = whole - first - 1
    lattice = lattice_of(pair.fixed_grid, [round(kind.spacing * one) for one in steps[first]])
    coefficients, found = pair.fixed.new_zeros(1, lattice.dims, *lattice.shape), False
    for number, (step, rate, until) in enumerate(_parts(pair, steps[first:], descent, at_once)):
        coarse = lattice
        lattice = lattice_of(pair.fixed_grid, [round(kind.spacing * one) for one in step])
        coefficients = refined(coefficients, coarse, lattice)
        smoothness = smoother * SMOOTHNESS * max(step)
        if number > finest:
            found |= search.in_tiles(step, lattice, coefficients, smoothness, until, at_once)
            continue
        level = pair.level(step)
        model = kind(lattice, level)
        mask = level.covered(model(coefficients))
        descend(model, similarity, mask, smoothness, coefficients, descent, rate, until)
        if number == finest:
            before, after = (model.agreement(at, similarity, mask) for at in (0 * coefficients, coefficients))
            found = bool(after > before)
            coefficients *= found
    return kind.transform(coefficients, lattice, pair.fixed_grid) if found else None


def _around(positions: Tensor, region: slice) -> slice:
    """The points along an axis that lie in a region, and the next two on each side, which a cubic spline has there."""
    reach = 2 * float(positions[1] - positions[0]) if len(positions) > 1 else float("inf")
    near = ((positions >= region.start - reach) & (positions < region.stop + reach)).nonzero()
    return slice(int(near[0]), int(near[-1]) + 1)


def refine_spline(
    spline: BSpline, pair: ImagePyramid, similarity: Similarity, descent: Descent, levels: int
) -> BSpline:
    """A cubic B-spline before the pair's start with the same control points, moved for a higher similarity."""
    steps = pair.steps(MOST_VOXELS)[-levels:]
    lattice = lattice_of(spline.grid, spline.spacing)
    unit = voxels_per(lattice, spline.grid).to(pair.fixed)
    known = spline.control_points.detach().to(pair.fixed) / unit
    coarseness = float(max(np.array(lattice.spacing) / pair.fixed_grid.spacing)) / FreeFormModel.spacing
    coefficients = known.clone()
    for step, rate, until in _parts(pair, steps, descent, MOST_VOXELS):
        level = pair.level(step)
        model = FreeFormModel(lattice, level)
        mask = level.covered(model(coefficients))
        descend(model, similarity, mask, SMOOTHNESS * coarseness, coefficients, descent, rate, until)
    before, after = (model.agreement(at, similarity, mask) for at in (known, coefficients))
    if not bool(after > before):
        return spline
    known, change = (known * unit).cpu(), ((coefficients - known) * unit).cpu()
    folded = _folds(spline)
    while True:
        result = BSpline(known + change, spline.grid, spline.spacing)
        if folded or not _folds(result):
            return result
        change = 0.95 * change


def descend(
    model: Model,
    similarity: Similarity,
    mask: Tensor | None,
    smoothness: float,
    coefficients: Tensor,
    descent: Descent,
    rate: float,
    until: float,
) -> None:
    """Changes the coefficients in place, at a rate in voxels of the level, until that part of the budget is spent."""
    known = coefficients.clone()
    smoothness *= min(model.level.thickness, THICKEST)

    def loss() -> Tensor:
        cost = smoothness * Diffusion()(coefficients - known) + NO_FOLDS * model.folding(coefficients)
        return cost - model.agreement(coefficients, similarity, mask).sum()

    descent.minimise(loss, [coefficients.requires_grad_(True)], rate / model.spacing, until)
    coefficients.requires_grad_(False)


def _parts(
    pair: ImagePyramid, steps: Sequence[Sequence[float]], descent: Descent, at_once: int
) -> Iterator[tuple[Sequence[float], float, float]]:
    """The step of each level, its learning rate, and which part of the budget is spent at its end.

    Iterations that a level leaves go to the next; to the finest the fewer of them, the larger it is.
    """
    voxels = [prod(coarser(pair.fixed_grid, step).shape) for step in steps]
    small = min(1.0, SMALL / voxels[-1])
    shares = np.cumsum([FINEST_SHARE if one > at_once else 1.0 for one in voxels[:-1]] + [max(FINEST_SHARE, small)])
    *ends, _ = (shares / shares[-1]).tolist()
    for step, end in zip(steps, ends, strict=False):
        yield step, LEARNING_RATE, end
    left = max(0.0, ends[-1] - descent.spent) if ends and not descent.budget.seconds else 0.0
    yield steps[-1], FINEST_LEARNING_RATE, 1 - (1 - small) * left


def _folds(transform: Transform) -> bool:
    return not bool((corner_determinants(transform.field()) > 0).all())


def lattice_of(grid: Grid, spacing: Sequence[int]) -> Grid:
    """Control points every so many voxels of a grid, where `warpzoo.geometry.bspline` has them, as a grid."""
    step = np.array(spacing)
    matrix = np.diag([*step, 1.0])
    matrix[:-1, -1] = 0.5 * (step - 1)
    return Grid([-(-size // one) for size, one in zip(grid.shape, spacing, strict=True)], grid.affine @ matrix)


def spline_at_lattice(coefficients: Tensor) -> Tensor:
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


def _own_weights(count: int) -> Tensor:
    return bspline_weights(torch.arange(count, dtype=torch.float64), count, 3)


def _smoothing(count: int, deviation: float) -> Tensor:
    """The matrix of weighted means of each point and its neighbours."""
    share = 0.5 * deviation**2
    matrix = (1 - 2 * share) * torch.eye(count, dtype=torch.float64)
    for shift in (-1, 1):
        matrix[torch.arange(count), (torch.arange(count) + shift).clamp(0, count - 1)] += share
    return matrix
