"""Rigid and affine registration: from many first guesses at the coarsest level, the best one from coarse to fine.

Convention: a map of the world about the middle of the fixed image, x ↦ P · R · (x − c) + c + t: `R` is a first guess of
the rotation, `P` and what is added to `t` are optimised. Lengths are in half the fixed image's longest side.
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.affine import DIMS_BY_WIDTH, compose_affine, rotation_about, rotation_matrix
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import sample
from warpzoo.geometry.transforms import Affine
from warpzoo.images.content import centre_of
from warpzoo.registration.descent import Curvature, Descent
from warpzoo.registration.pyramid import ImagePyramid, Level
from warpzoo.registration.similarities import Similarity

PARTS = {"rigid": ("rotation", "translation"), "affine": ("shear", "scale", "rotation", "translation")}
MOST_VOXELS = 2**19
"""Of the finest level: a dozen numbers are found from fewer voxels than there are."""
LEARNING_RATE = 0.03
TOLERANCE = 0.02
"""A step shorter than that, in voxels of a level, is its last."""
FEWEST = 1000
"""Voxels that a level needs to be trusted with first guesses."""
FEWEST_COMPARED = 100
"""Of them within the masks."""
ROUNDS = ((48, 0.05), (10, 0.2))
"""How many first guesses are optimised, and until which part of the budget is spent: many for a short while, then the
best of them."""
SAME_ROTATION = 2
"""Of them with the same rotation at most."""
OVERLAP = 0.5
"""Part of the voxels that could be compared that should be; less than that counts proportionally less."""
PLAIN = 0.3
"""Of what the best guess lacks to a similarity of 1, a rotated one has to be ahead of one that is not: bodies look much
the same from behind, but what fits perfectly is right."""


class Placement:
    """Some guesses at once: parameters (guesses, n) for rotations (guesses, d, d) and shifts (guesses, d)."""

    def __init__(self, kind: str, pair: ImagePyramid, rotations: Tensor, shifts: Tensor) -> None:
        grid = pair.fixed_grid
        self.centre = torch.tensor(grid.centre)
        self.half = 0.5 * max(size * side for size, side in zip(grid.shape, grid.spacing, strict=True))
        self.rotations, self.shifts = rotations, shifts
        widths = {
            name: dict(zip(DIMS_BY_WIDTH[name].values(), DIMS_BY_WIDTH[name], strict=True)) for name in PARTS[kind]
        }
        self.parameters = {
            name: torch.zeros(len(rotations), width[grid.dims], dtype=torch.float64, requires_grad=True)
            for name, width in widths.items()
        }

    def world(self) -> Tensor:
        """(guesses, dims, dims + 1), float64."""
        matrix = compose_affine(**self.parameters)
        linear = matrix[:, :, :-1] @ self.rotations
        shift = self.centre + self.shifts + self.half * matrix[:, :, -1] - linear @ self.centre
        return torch.cat([linear, shift[:, :, None]], 2)

    def chosen(self, best: list[int]) -> Placement:
        """Some of the guesses, with their current parameters."""
        other = object.__new__(Placement)
        other.centre, other.half = self.centre, self.half
        other.rotations, other.shifts = self.rotations[best], self.shifts[best]
        other.parameters = {
            name: value.detach()[best].clone().requires_grad_(True) for name, value in self.parameters.items()
        }
        return other


def place(kind: str, pair: ImagePyramid, similarity: Similarity, descent: Descent, searching: bool) -> Affine:
    """The affine map that comes before the pair's start; `searching` looks for large misplacements first."""
    steps = pair.steps(MOST_VOXELS, always=True)
    while len(steps) > 1 and not _is_telling(pair.level(steps[0])):
        steps = steps[1:]
    dims = pair.fixed_grid.dims
    guesses = Placement(
        kind, pair, torch.eye(dims, dtype=torch.float64)[None], torch.zeros(1, dims, dtype=torch.float64)
    )
    if searching:
        guesses = search(kind, pair, pair.level(steps[0]), similarity, descent)
    curvature = Curvature(LEARNING_RATE)
    for number, step in enumerate(steps, start=1):
        level = pair.level(step)

        def loss(level: Level = level) -> Tensor:
            return -similarity_of(guesses.world(), level, similarity).sum()

        tolerance = TOLERANCE * max(level.grid.spacing) / guesses.half
        descent.settle(loss, list(guesses.parameters.values()), curvature, tolerance, number / len(steps))
    return Affine.from_world(guesses.world().detach(), pair.fixed_grid)


def _is_telling(level: Level) -> bool:
    return prod(level.grid.shape) >= FEWEST and level.most >= FEWEST_COMPARED


def search(kind: str, pair: ImagePyramid, level: Level, similarity: Similarity, descent: Descent) -> Placement:
    """The best of many first guesses, the better ones of them optimised for a while."""
    rotations, shifts = first_guesses(pair)
    guesses = Placement(kind, pair, rotations, shifts)
    with torch.no_grad():
        scores = torch.cat([similarity_of(some, level, similarity) for some in guesses.world().split(16)]).cpu()
    plain = torch.isclose(rotations, torch.eye(len(rotations[0]), dtype=torch.float64)).all(2).all(1)
    best = distinct(favouring(plain, scores).argsort(descending=True).tolist(), rotations)
    for count, until in ROUNDS:
        guesses, plain = guesses.chosen(best[:count]), plain[best[:count]]

        def loss(guesses: Placement = guesses) -> Tensor:
            return -similarity_of(guesses.world(), level, similarity).sum()

        descent.minimise(loss, list(guesses.parameters.values()), LEARNING_RATE, until)
        with torch.no_grad():
            scores = similarity_of(guesses.world(), level, similarity).cpu()
        best = favouring(plain, scores).argsort(descending=True).tolist()
    return guesses.chosen(best[:1])


def favouring(plain: Tensor, scores: Tensor) -> Tensor:
    return scores + PLAIN * (1 - scores.max()).clamp_min(0) * plain


def distinct(order: list[int], rotations: Tensor) -> list[int]:
    """The guesses of an order, of each rotation the first `SAME_ROTATION`: neighbours lead to one place."""
    kinds = rotations.unique(dim=0, return_inverse=True)[1].tolist()
    left = dict.fromkeys(kinds, SAME_ROTATION)
    kept = []
    for index in order:
        if left[kinds[index]]:
            left[kinds[index]] -= 1
            kept.append(index)
    return kept


def similarity_of(world: Tensor, level: Level, similarity: Similarity) -> Tensor:
    """The similarity with each of some maps of the world, less what the landmarks are apart, (guesses,)."""
    homogeneous = torch.cat([world, torch.eye(world.shape[2], dtype=world.dtype)[-1:].expand(len(world), 1, -1)], 1)
    own = torch.tensor(level.grid.affine)
    matrix = (torch.linalg.inv(own) @ homogeneous @ own)[:, :-1].to(level.fixed)
    voxels = level.voxels().flatten(2)
    points = (matrix[:, :, :-1] @ voxels + matrix[:, :, -1:]).unflatten(2, level.grid.shape)
    if level.field is not None:
        points = points + sample(level.field.expand(len(points), *level.field.shape[1:]), points)
    coordinates = level.moved(points)
    inside = level.counted(coordinates.detach()).to(level.fixed)
    overlap = inside.flatten(1).sum(1) / level.most
    meets = overlap > 0.05
    inside = torch.where(meets.view(-1, *[1] * (inside.dim() - 1)), inside, torch.ones_like(inside))
    moving = level.moving.expand(len(points), *level.moving.shape[1:])
    fixed = level.fixed.expand(len(points), *level.fixed.shape[1:])
    value = similarity(fixed, sample(moving, coordinates), inside)
    value = torch.where(meets, value * (overlap / OVERLAP).clamp(max=1.0), -torch.ones_like(value))
    if level.landmarks is None:
        return value
    return value - level.landmarks_apart(matrix[:, :, :-1] @ level.landmarks.fixed + matrix[:, :, -1:])


def first_guesses(pair: ImagePyramid) -> tuple[Tensor, Tensor]:
    """Rotations (guesses, d, d) and shifts (guesses, d): all turns about the headers' placement, the
    middles and the centres of mass, and no turn but shifts by a third of the sides."""
    centre = pair.fixed_grid.centre
    fixed = middles(pair.fixed, pair.fixed_grid, pair.fixed_mask)
    moving = middles(pair.moving, pair.moving_grid, pair.moving_mask)
    rotations = turns(pair.fixed_grid.dims)
    shifts = [torch.zeros(len(rotations), len(centre), dtype=torch.float64)]
    inverse = np.linalg.inv(pair.world)
    for here, there in zip(fixed, moving, strict=True):
        target = inverse[:-1, :-1] @ there + inverse[:-1, -1]
        shifts.append(torch.tensor(target - centre) - rotations @ torch.tensor(here - centre))
    rotations = rotations.repeat(len(shifts), 1, 1)
    steps = torch.tensor(list(product((-0.35, 0.0, 0.35), repeat=len(centre))), dtype=torch.float64)
    sides = torch.tensor(pair.fixed_grid.affine[:-1, :-1] * pair.fixed_grid.shape)
    unturned = torch.eye(len(centre), dtype=torch.float64).expand(len(steps), -1, -1)
    return torch.cat([rotations, unturned]), torch.cat([*shifts, steps @ sides.T])


def turns(dims: int) -> Tensor:
    """Rotations to begin with, (count, d, d): every 30° in 2-D; in 3-D all of a cube, each also tilted by 30° about its
    axes and by 45° about its diagonals."""
    if dims == 2:
        return rotation_matrix(torch.arange(0, 12, dtype=torch.float64)[:, None] * torch.pi / 6)
    quarter = [
        rotation_matrix(torch.tensor([angles], dtype=torch.float64) * torch.pi / 2)[0]
        for angles in product(range(4), repeat=3)
    ]
    cube = torch.stack(quarter).round().unique(dim=0)
    diagonals = torch.tensor([*product((-1.0, 1.0), repeat=3)], dtype=torch.float64) / 3**0.5
    tilts = [torch.eye(3, dtype=torch.float64)]
    for axes, angle in ((torch.cat([torch.eye(3), -torch.eye(3)]).double(), torch.pi / 6), (diagonals, torch.pi / 4)):
        tilts += [rotation_about(axis, angle) for axis in axes]
    return (torch.stack(tilts)[:, None] @ cube).flatten(0, 1)


def middles(image: Tensor, grid: Grid, mask: Tensor | None) -> list[np.ndarray]:
    """The middle of an image, or of its mask, and the centre of mass of what it shows there, in the world."""
    shown = image.mean(1, keepdim=True)
    if mask is None:
        return [grid.centre, _world(grid, torch.tensor(centre_of(shown[0, 0])))]
    shown = torch.where(mask > 0, shown, shown.min())
    return [
        _world(grid, at) for at in (mask[0, 0].nonzero().double().mean(0).cpu(), torch.tensor(centre_of(shown[0, 0])))
    ]


def _world(grid: Grid, voxel: Tensor) -> np.ndarray:
    return grid.to_world(voxel.double()[None])[0].numpy()
