"""Stationary velocity fields, and what is done to displacements as maps: composition and inversion.

Convention: a velocity is in voxels per unit time, (batch, dims, *spatial); its flow over unit time is the displacement
exp(velocity), and exp(−velocity) is the inverse. `compose(first, second)` is the displacement of x ↦ second(first(x)).
Beyond the grid a field keeps its value at the border.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, check_same_shape
from warpzoo.geometry.sampling import displacement_at, precise, voxel_coordinates, warp

SQUARINGS = 7


def integrate_velocity(velocity: Tensor, squarings: int = SQUARINGS) -> Tensor:
    """The displacement after unit time, by scaling and squaring: 2**squarings steps, error halved by each squaring."""
    if not torch.jit.is_scripting():
        check_displacement("velocity", velocity)
        if squarings < 0:
            raise ValueError(f"squarings is {squarings}; it wants 0 or more.")
    displacement = precise(velocity) * 0.5**squarings
    for _ in range(squarings):
        displacement = displacement + warp(displacement, displacement)
    return displacement


def compose(first: Tensor, second: Tensor) -> Tensor:
    """One displacement for two: a point goes through `first`, then through `second`."""
    if not torch.jit.is_scripting():
        check_displacement("first", first)
        check_same_shape("first", first, "second", second)
    return first + warp(second, first)


def invert(displacement: Tensor, iterations: int = 50, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
    """The inverse displacement v = −u(x + v) at every voxel, and its residual.

    The residual |v(x) + u(x + v(x))|, (batch, 1, *spatial) in voxels, is below `tolerance` where the search arrived.
    Elsewhere v is the best that was found. Folds do not show: there several v do, and one of them is found; count
    foldings by `corner_determinants`.
    """
    check_displacement("displacement", displacement)
    shape = displacement.shape[2:]
    voxels = voxel_coordinates(list(shape), precise(displacement).dtype, displacement.device).flatten(1).t()
    inverse, residual = search_inverse(
        lambda points: displacement_at(displacement, points),
        voxels.expand(displacement.shape[0], -1, -1),
        tolerance,
        iterations,
    )
    inverse, residual = (found.transpose(1, 2).unflatten(2, shape) for found in (inverse, residual))
    return inverse, residual


def search_inverse(
    displace: Callable[[Tensor], Tensor], points: Tensor, tolerance: float, iterations: int = 50
) -> tuple[Tensor, Tensor]:
    """The v (batch, count, dims) with v = −u(y + v) at points y, and how far each misses, (batch, count, 1).

    Broyden's method, each point for itself: the first step is that of the fixed point, and each step, be it nearer or
    not, teaches the next the slope along it. So expansion is inverted as well as contraction; the nearest v is kept.
    """
    miss = displace(points)
    found = torch.zeros_like(miss)
    points = points.expand_as(miss)
    distance = torch.linalg.vector_norm(miss, dim=-1, keepdim=True)
    slope = torch.eye(miss.shape[-1], dtype=miss.dtype, device=miss.device).expand(*miss.shape, -1)
    result, residual, left = found.clone(), distance.clone(), torch.arange(miss.shape[1], device=miss.device)
    for _ in range(iterations):
        searching = (distance.detach() >= tolerance).any(0).squeeze(-1)
        if not bool(searching.any()):
            break
        points, found, miss, distance, slope = (x[:, searching] for x in (points, found, miss, distance, slope))
        left = left[searching]
        step = -_times(slope, miss)
        trial_miss = found + step + displace(points + found + step)
        change = _times(slope, trial_miss - miss)
        trial_distance = torch.linalg.vector_norm(trial_miss, dim=-1, keepdim=True)
        nearer = trial_distance < distance
        along, squared = (step * change).sum(-1, keepdim=True), (step * step).sum(-1, keepdim=True)
        # a slope near or below zero is a fold's: no secant to follow, only shorter steps
        learnt = (along > 0.02 * squared) & (squared > 0)
        row = _times(slope.transpose(-1, -2), step) / torch.where(learnt, along, torch.ones_like(along))
        secant = slope + (step - change).unsqueeze(-1) * row.unsqueeze(-2)
        slope = torch.where(learnt[..., None], secant, torch.where(nearer[..., None], slope, 0.5 * slope))
        found, miss = torch.where(nearer, found + step, found), torch.where(nearer, trial_miss, miss)
        distance = torch.where(nearer, trial_distance, distance)
        result, residual = result.index_copy(1, left, found), residual.index_copy(1, left, distance)
    return result, residual


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    # no matmul: autocast would take its digits
    return (matrices * vectors.unsqueeze(-2)).sum(-1)


class VelocityField(nn.Module):
    """Velocity → displacement, for networks."""

    def __init__(self, squarings: int = SQUARINGS) -> None:
        super().__init__()
        self.squarings = squarings

    def forward(self, velocity: Tensor) -> Tensor:
        return integrate_velocity(velocity, self.squarings)
