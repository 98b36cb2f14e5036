"""The local change of volume: determinants of the Jacobian of x ↦ x + displacement(x).

Convention: displacements in voxels, component i along spatial axis i. The determinant is a ratio of volumes (1: volume
kept, 0.5: halved, below 0: folded), so it is the same in voxels and in millimetres: spacing and orientation cancel.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from warpzoo.checks import check_displacement, has_values
from warpzoo.geometry.sampling import precise


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """The determinant at every voxel, (batch, 1, *spatial): central differences inside, one-sided at the borders.

    Central differences are blind to a field that alternates from voxel to voxel: count folds by `corner_determinants`.
    """
    dims = check_displacement("displacement", displacement)
    _check_sides(displacement)
    gradients = torch.gradient(precise(displacement), dim=list(range(2, 2 + dims)))
    return _determinant(list(gradients))[:, None]


def corner_determinants(displacement: Tensor) -> Tensor:
    """The determinants at the corners of every cell, (batch, 2**dims, *(spatial − 1)), by one-sided differences.

    A cell lies between 2**dims neighbouring voxels; the determinant at a corner uses the edges of the cell that meet
    there, so a voxel gets every combination of forward and backward differences from the cells around it. In 2-D the
    interpolated map of a cell folds nowhere if all four are positive; in 3-D that is necessary. Corner c, read as a
    binary number with the first axis as its highest digit, lies at the far end of the axes whose digit is 1.
    """
    dims = check_displacement("displacement", displacement)
    _check_sides(displacement)
    displacement = precise(displacement)
    differences = [displacement.diff(dim=2 + axis) for axis in range(dims)]
    corners = []
    for corner in product((0, 1), repeat=dims):
        edges = []
        for axis, difference in enumerate(differences):
            for other in range(dims):
                if other != axis:
                    difference = difference.narrow(2 + other, corner[other], displacement.shape[2 + other] - 1)
            edges.append(difference)
        corners.append(_determinant(edges))
    return torch.stack(corners, dim=1)


def cannot_fold(displacement: Tensor) -> bool:
    """Whether no determinant can be 0 or less, of whatever differences between neighbouring voxels: a quick yes spares
    counting them.

    A matrix whose diagonal is everywhere greater than the other entries of its row taken together has a positive
    determinant; here the least of the one are held against the greatest of the others.
    """
    dims = check_displacement("displacement", displacement)
    if not has_values(displacement):
        return False
    differences = [precise(displacement).diff(dim=2 + axis) for axis in range(dims)]
    for row in range(dims):
        others = [differences[axis][:, row].abs().max() for axis in range(dims) if axis != row]
        if not bool(1 + differences[row][:, row].min() > torch.stack(others).sum()):
            return False
    return True


def _determinant(gradients: list[Tensor]) -> Tensor:
    """det(I + gradient), (batch, *any), of the displacement's derivatives (batch, dims, *any) along each axis."""
    a = gradients[0]
    b = gradients[1]
    if len(gradients) == 2:
        return (1 + a[:, 0]) * (1 + b[:, 1]) - a[:, 1] * b[:, 0]
    c = gradients[2]
    return (
        (1 + a[:, 0]) * ((1 + b[:, 1]) * (1 + c[:, 2]) - b[:, 2] * c[:, 1])
        - a[:, 1] * (b[:, 0] * (1 + c[:, 2]) - b[:, 2] * c[:, 0])
        + a[:, 2] * (b[:, 0] * c[:, 1] - (1 + b[:, 1]) * c[:, 0])
    )


def _check_sides(displacement: Tensor) -> None:
    if min(displacement.shape[2:]) < 2:
        raise ValueError(
            f"displacement must have two voxels or more on every axis, got shape {tuple(displacement.shape)}."
        )
