"""What a plausible displacement field costs little in: smoothness, invertibility, consistency with its inverse.

Fields are (batch, dims, *spatial) in voxels and so are all differences: one voxel along an axis is a distance of one.
The smoothness terms sum over the axes of differentiation and take the mean over components, voxels and batch. The same
field on a grid of half the resolution costs as much in total variation and diffusion and four times as much in bending
energy; in millimetres, with cubic voxels of h mm, the first two stay and the last is divided by h^2.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, check_same_shape
from warpzoo.geometry.sampling import warp


def _check(displacement: Tensor, smallest: int) -> None:
    check_displacement("displacement", displacement)
    if min(displacement.shape[2:]) < smallest:
        raise ValueError(
            f"displacement has spatial shape {tuple(displacement.shape[2:])}; it wants at least {smallest} voxels "
            f"along each axis."
        )


def _at_least_float32(displacement: Tensor) -> Tensor:
    return displacement.to(torch.promote_types(displacement.dtype, torch.float32))


def _forward_differences(displacement: Tensor) -> list[Tensor]:
    field = _at_least_float32(displacement)
    return [field.diff(dim=axis) for axis in range(2, field.dim())]


class TotalVariation(nn.Module):
    """Mean absolute forward difference, summed over the axes: jumps are as cheap as slopes."""

    def forward(self, displacement: Tensor) -> Tensor:
        _check(displacement, 2)
        return torch.stack([d.abs().mean() for d in _forward_differences(displacement)]).sum()


class Diffusion(nn.Module):
    """Mean squared forward difference, summed over the axes. A checkerboard costs, as it does not to central ones."""

    def forward(self, displacement: Tensor) -> Tensor:
        _check(displacement, 2)
        return torch.stack([d.square().mean() for d in _forward_differences(displacement)]).sum()


class BendingEnergy(nn.Module):
    """Mean squared second difference, summed over all pairs of axes (mixed ones twice); affine fields cost nothing."""

    def forward(self, displacement: Tensor) -> Tensor:
        _check(displacement, 3)
        first = _forward_differences(displacement)
        energy = []
        for i, difference in enumerate(first):
            energy.append(difference.diff(dim=i + 2).square().mean())
            energy.extend(2 * difference.diff(dim=j + 2).square().mean() for j in range(i + 1, len(first)))
        return torch.stack(energy).sum()


def _corner_determinants(displacement: Tensor) -> list[Tensor]:
    """det J of x + u(x) at the corners of every grid cell, from the cell's own edges: 2^dims of (batch, *cells)."""
    dims = displacement.shape[1]
    edges = _forward_differences(displacement)
    determinants = []
    for corner in product((0, 1), repeat=dims):
        columns = []
        for axis, edge in enumerate(edges):
            for other in range(dims):
                if other != axis:  # the edge along `axis` that meets this corner of the cell
                    edge = edge.narrow(other + 2, corner[other], edge.shape[other + 2] - 1)
            identity = torch.zeros(dims, dtype=edge.dtype, device=edge.device)
            identity[axis] = 1.0
            columns.append(edge + identity.view(1, dims, *[1] * dims))
        if dims == 2:
            (a, b), (c, d) = columns[0].unbind(1), columns[1].unbind(1)
            determinants.append(a * d - b * c)
        else:
            determinants.append((columns[0] * torch.linalg.cross(columns[1], columns[2], dim=1)).sum(dim=1))
    return determinants


class FoldingPenalty(nn.Module):
    """Mean of max(0, -det J) over the corners of all grid cells: 0 wherever no cell is turned inside out.

    Each cell's determinants come from its own edges (forward and backward differences in all combinations), so a
    saw-tooth field, which central differences find flawless, is penalised. In 2-D no penalty means that bilinear
    interpolation of the field folds nowhere. Determinants are the same in voxels and in millimetres.
    """

    def forward(self, displacement: Tensor) -> Tensor:
        _check(displacement, 2)
        return torch.stack([(-det).relu().mean() for det in _corner_determinants(displacement)]).mean()


class InverseConsistency(nn.Module):
    """Mean squared length of u(x) + v(x + u(x)), in voxels^2: 0 where v undoes u.

    v is read linearly; where u leads out of the image, v is that of the edge.
    """

    def forward(self, displacement: Tensor, inverse_displacement: Tensor) -> Tensor:
        check_displacement("displacement", displacement)
        check_displacement("inverse_displacement", inverse_displacement)
        check_same_shape("displacement", displacement, "inverse_displacement", inverse_displacement)
        forward, backward = _at_least_float32(displacement), _at_least_float32(inverse_displacement)
        return (forward + warp(backward, forward)).square().sum(dim=1).mean()
