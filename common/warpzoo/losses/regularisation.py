"""What a plausible displacement field costs little in: smoothness, invertibility, consistency with its inverse.

Fields are (batch, dims, *spatial) in voxels and so are all differences: one voxel along an axis is a distance of one.
The smoothness terms sum over the axes of differentiation and take the mean over components, voxels and batch. The same
field on a grid of half the resolution costs as much in total variation and diffusion and four times as much in bending
energy; in millimetres, with cubic voxels of h mm, the first two stay and the last is divided by h^2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, check_same_shape
from warpzoo.geometry.jacobian import corner_determinants
from warpzoo.geometry.sampling import precise, warp


def _check(displacement: Tensor, smallest: int) -> None:
    check_displacement("displacement", displacement)
    if min(displacement.shape[2:]) < smallest:
        raise ValueError(
            f"displacement has spatial shape {tuple(displacement.shape[2:])}; it wants at least {smallest} voxels "
            f"along each axis."
        )


def _forward_differences(displacement: Tensor) -> list[Tensor]:
    field = precise(displacement)
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


class FoldingPenalty(nn.Module):
    """Mean of max(0, -det J) over the corners of all grid cells: 0 wherever no cell is turned inside out.

    Each cell's determinants come from its own edges (forward and backward differences in all combinations), so a
    saw-tooth field, which central differences find flawless, is penalised. In 2-D no penalty means that bilinear
    interpolation of the field folds nowhere. Determinants are the same in voxels and in millimetres.
    """

    def forward(self, displacement: Tensor) -> Tensor:
        _check(displacement, 2)
        return (-corner_determinants(displacement)).relu().mean()


class InverseConsistency(nn.Module):
    """Mean squared length of u(x) + v(x + u(x)), in voxels^2: 0 where v undoes u.

    v is read linearly; where u leads out of the image, v is that of the edge.
    """

    def forward(self, displacement: Tensor, inverse_displacement: Tensor) -> Tensor:
        check_displacement("displacement", displacement)
        check_displacement("inverse_displacement", inverse_displacement)
        check_same_shape("displacement", displacement, "inverse_displacement", inverse_displacement)
        forward, backward = precise(displacement), precise(inverse_displacement)
        return (forward + warp(backward, forward)).square().sum(dim=1).mean()
