"""The inverse of any transform at any points, found point by point: exact wherever one exists, on no grid.

Convention: as in `geometry.transforms`; the inverse takes points of the moving space to the fixed space.
"""

from __future__ import annotations

import torch
from torch import Tensor

from warpzoo.geometry.transforms import Affine, Composition, Transform, Velocity

ITERATIONS = 100


def inverted(transform: Transform, tolerance: float = 1e-4) -> Transform:
    """The inverse, to `tolerance` voxels: exact for affine and velocity transforms, by search for the others."""
    if isinstance(transform, Composition):
        return Composition(*[inverted(part, tolerance) for part in reversed(transform.parts)], grid=transform.grid)
    if isinstance(transform, (Affine, Velocity)):
        return transform.inverse()
    return SearchedInverse(transform, tolerance)


class SearchedInverse(Transform):
    """Looks for the v with v = −u(y + v) by fixed point; a point's step is halved whenever it leads away.

    Where the transform folds, or where nothing is taken to y, v is the nearest that was found.
    """

    def __init__(self, forward: Transform, tolerance: float) -> None:
        super().__init__(forward.grid)
        self.forward_transform = forward
        self.tolerance = tolerance

    def displace(self, points: Tensor) -> Tensor:
        result = torch.zeros_like(points)
        miss = self.forward_transform.displace(points)
        distance = torch.linalg.vector_norm(miss, dim=-1, keepdim=True)
        found, step, left = result, torch.ones_like(distance), torch.arange(points.shape[1], device=points.device)
        for _ in range(ITERATIONS):
            searching = (distance >= self.tolerance).any(0).squeeze(-1)
            if not bool(searching.any()):
                break
            points, found, miss, distance, step = (part[:, searching] for part in (points, found, miss, distance, step))
            left = left[searching]
            trial = found - step * miss
            trial_miss = trial + self.forward_transform.displace(points + trial)
            trial_distance = torch.linalg.vector_norm(trial_miss, dim=-1, keepdim=True)
            nearer = trial_distance < distance
            found, miss = torch.where(nearer, trial, found), torch.where(nearer, trial_miss, miss)
            distance = torch.where(nearer, trial_distance, distance)
            step = torch.where(nearer, step, 0.5 * step)
            result[:, left] = found
        return result
