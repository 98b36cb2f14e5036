"""Quality of a transform: errors at landmarks, and folds.

Convention: points and displacements are in voxels, component i along spatial axis i.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from warpzoo.checks import check_displacement, check_finite, check_same_device, check_spacing
from warpzoo.geometry.chunks import slabs
from warpzoo.geometry.jacobian import cannot_fold, corner_determinants, jacobian_determinant
from warpzoo.geometry.sampling import precise


def target_registration_error(points: Tensor, reference: Tensor, spacing: float | Sequence[float] = 1.0) -> Tensor:
    """The distance of warped points from their reference positions, (..., points), in the unit of spacing.

    Args:
        points: the points as the transform maps them, (..., points, dims) in voxels of one grid.
        reference: their true positions on that grid, same shape.
        spacing: size of a voxel, per axis or one for all; 1 gives voxels.
    """
    if points.dim() < 2 or points.shape[-1] not in (2, 3):
        raise ValueError(f"points must be (..., points, dims) with dims 2 or 3, got shape {tuple(points.shape)}.")
    if points.shape != reference.shape:
        raise ValueError(
            f"points and reference must have the same shape, got {tuple(points.shape)} and {tuple(reference.shape)}."
        )
    check_same_device("points", points, "reference", reference)
    check_finite("points", points)
    check_finite("reference", reference)
    sides = check_spacing("spacing", spacing, points.shape[-1])
    difference = precise(points) - precise(reference)
    return torch.linalg.vector_norm(difference * difference.new_tensor(sides), dim=-1)


class Folding(NamedTuple):
    """The fraction of the image where a displacement folds, each (batch,)."""

    central: Tensor
    """Of the inner voxels, those whose determinant by central differences is ≤ 0: the count that papers report."""
    forward: Tensor
    """Of the cells between voxels, those with a determinant ≤ 0 by one-sided differences at any of their corners."""


def folding(displacement: Tensor) -> Folding:
    """The folds of a displacement (batch, dims, *spatial), at least three voxels on every axis.

    `central` is blind to displacements that alternate from voxel to voxel: a saw-tooth that folds 53 % of the cells has
    0 % there; rely on `forward`. The outermost voxels have no central difference and are not in `central`.
    """
    dims = check_displacement("displacement", displacement)
    if min(displacement.shape[2:]) < 3:
        raise ValueError(
            f"displacement must have three voxels or more on every axis, got shape {tuple(displacement.shape)}."
        )
    planes, inner = displacement.shape[2], [size - 2 for size in displacement.shape[2:]]
    central = forward = torch.zeros(len(displacement), device=displacement.device)
    for first, last in slabs(displacement.shape[2:], displacement.device):
        low, high = max(first - 1, 0), min(last + 1, planes)
        if cannot_fold(displacement[:, :, low:high]):
            continue
        cells = displacement[:, :, first : last + 1]
        if cells.shape[2] > 1:
            forward = forward + (corner_determinants(cells) <= 0).any(dim=1).flatten(1).sum(1)
        if high - low > 2:
            determinant = jacobian_determinant(displacement[:, :, low:high])
            for axis in range(2, 2 + dims):
                determinant = determinant.narrow(axis, 1, determinant.shape[axis] - 2)
            central = central + (determinant <= 0).flatten(1).sum(1)
    return Folding(central / prod(inner), forward / prod(size + 1 for size in inner))
