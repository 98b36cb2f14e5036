"""How good a transform is by itself: where it takes points, and whether it folds.

Convention: points and displacements are in voxels, component i along spatial axis i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from warpzoo.checks import check_displacement, check_finite, check_same_device, check_spacing
from warpzoo.geometry.jacobian import corner_determinants, jacobian_determinant
from warpzoo.geometry.sampling import precise


def target_registration_error(points: Tensor, reference: Tensor, spacing: float | Sequence[float] = 1.0) -> Tensor:
    """How far carried points lie from where they belong, (..., points), in the unit of spacing.

    Args:
        points: the points as the transform carries them, (..., points, dims) in voxels of one grid.
        reference: where they belong on that grid, same shape.
        spacing: size of a voxel, per axis or one for all; 1 gives voxels.
    """
    if points.dim() < 2 or points.shape[-1] not in (2, 3):
        raise ValueError(f"points has shape {tuple(points.shape)}; it wants (..., points, dims) with dims 2 or 3.")
    if points.shape != reference.shape:
        raise ValueError(
            f"points has shape {tuple(points.shape)} and reference has {tuple(reference.shape)}; they want the same."
        )
    check_same_device("points", points, "reference", reference)
    check_finite("points", points)
    check_finite("reference", reference)
    sides = check_spacing("spacing", spacing, points.shape[-1])
    difference = precise(points) - precise(reference)
    return torch.linalg.vector_norm(difference * difference.new_tensor(sides), dim=-1)


class Folding(NamedTuple):
    """Which part of the image a displacement folds, between 0 and 1, each (batch,)."""

    central: Tensor
    """Part of the inner voxels whose determinant by central differences is ≤ 0: the count that papers report."""
    forward: Tensor
    """Part of the cells between voxels with a determinant ≤ 0 by one-sided differences at any of their corners."""


def folding(displacement: Tensor) -> Folding:
    """Counts foldings of a displacement (batch, dims, *spatial), at least three voxels on every axis.

    `central` is blind to displacements that alternate from voxel to voxel: a saw-tooth that folds 53 % of the cells has
    0 % there. `forward` is the one to trust. The outermost voxels have no central difference and are not in `central`.
    """
    dims = check_displacement("displacement", displacement)
    if min(displacement.shape[2:]) < 3:
        raise ValueError(
            f"displacement has shape {tuple(displacement.shape)}; central differences want three voxels on every axis."
        )
    determinant = jacobian_determinant(displacement)
    for axis in range(2, 2 + dims):
        determinant = determinant.narrow(axis, 1, determinant.shape[axis] - 2)
    return Folding(
        central=(determinant <= 0).flatten(1).float().mean(1),
        forward=(corner_determinants(displacement) <= 0).any(dim=1).flatten(1).float().mean(1),
    )
