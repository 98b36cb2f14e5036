"""The inverse of a map x ↦ x + u(x), found point by point: exact at any point, on no grid.

Convention: points and displacements are (batch, count, dims) in voxels of one grid. The inverse y ↦ y + v(y) takes
points of the moving space to the fixed space: v = −u(y + v).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Of an inverse, in voxels."""
ITERATIONS = 50


def search_inverse(
    displace: Callable[[Tensor], Tensor],
    points: Tensor,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The v (batch, count, dims) with v = −u(y + v) at points y, and the residual |v + u(y + v)|, (batch, count, 1).

    The search begins at v = `start`, (batch, count, dims), or at 0.

    Broyden's method at each point separately: the first step is that of the fixed-point iteration, and each step,
    whether it reduces the residual or not, updates the inverse Jacobian along its direction. It therefore converges
    for expansion as well as for contraction. The v with the smallest residual is returned: where u folds, or where no
    point is mapped to y, the residual stays above `tolerance`. The tolerance is not below the points' own precision.
    """
    miss = displace(points) if start is None else start + displace(points + start)
    found = torch.zeros_like(miss) if start is None else start
    points = points.expand_as(miss)
    if points.numel():
        tolerance = max(tolerance, 2 * torch.finfo(points.dtype).eps * float(points.detach().abs().max()))
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
        # a slope near or below zero belongs to a fold: shorten the step instead of following the secant
        usable = (along > 0.02 * squared) & (squared > 0)
        row = _times(slope.transpose(-1, -2), step) / torch.where(usable, along, torch.ones_like(along))
        secant = slope + (step - change).unsqueeze(-1) * row.unsqueeze(-2)
        slope = torch.where(usable[..., None], secant, torch.where(nearer[..., None], slope, 0.5 * slope))
        found, miss = torch.where(nearer, found + step, found), torch.where(nearer, trial_miss, miss)
        distance = torch.where(nearer, trial_distance, distance)
        result, residual = result.index_copy(1, left, found), residual.index_copy(1, left, distance)
    return result, residual


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    # not a matmul: autocast would round it
    return (matrices * vectors.unsqueeze(-2)).sum(-1)
