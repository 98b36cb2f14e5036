"""Regularity of displacement fields: smoothness, invertibility, consistency with an inverse.

Fields are (batch, dims, *spatial) in voxels and so are all differences: one voxel along an axis is a distance of one.
The smoothness terms sum over the axes of differentiation and take the mean over components, voxels and batch. The same
field on a grid of half the resolution costs as much in total variation and diffusion and four times as much in bending
energy; in millimetres, with cubic voxels of h mm, the first two are the same and the last is divided by h^2.
"""

from __future__ import annotations

from itertools import combinations_with_replacement, product

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, check_same_shape
from warpzoo.geometry.chunks import chunk_voxels
from warpzoo.geometry.jacobian import corner_determinants
from warpzoo.geometry.sampling import precise, warp
from warpzoo.losses.with_gradient import WithGradient


def _check(displacement: Tensor, smallest: int) -> None:
    check_displacement("displacement", displacement)
    if min(displacement.shape[2:]) < smallest:
        raise ValueError(
            f"displacement must have {smallest} voxels or more along each axis, got spatial shape "
            f"{tuple(displacement.shape[2:])}."
        )


def _forward_differences(displacement: Tensor) -> list[Tensor]:
    field = precise(displacement)
    return [field.diff(dim=axis) for axis in range(2, field.dim())]


class TotalVariation(nn.Module):
    """Mean absolute forward difference, summed over the axes: jumps cost as much as slopes."""

    def forward(self, displacement: Tensor) -> Tensor:
        _check(displacement, 2)
        return torch.stack([d.abs().mean() for d in _forward_differences(displacement)]).sum()


class Diffusion(nn.Module):
    """Mean squared forward difference, summed over the axes. Unlike central ones they penalise a checkerboard."""

    def forward(self, displacement: Tensor) -> Tensor:
        _check(displacement, 2)
        return torch.stack([d.square().mean() for d in _forward_differences(displacement)]).sum()


class BendingEnergy(nn.Module):
    """Mean squared second difference, summed over all pairs of axes (mixed ones twice); affine fields cost nothing."""

    def forward(self, displacement: Tensor) -> Tensor:
        _check(displacement, 3)
        field = precise(displacement)
        differentiable = torch.is_grad_enabled() and displacement.requires_grad
        with torch.no_grad(), torch.autocast(field.device.type, enabled=False):
            energy, gradient = _bending(field.detach(), differentiable)
        return WithGradient.apply(energy, field, gradient).mean()


def _bending(field: Tensor, differentiable: bool) -> tuple[Tensor, Tensor | None]:
    """The energy of each field of a batch and its gradient, the adjoint of the weighted differences."""
    energies = field.new_zeros(len(field))
    gradients = torch.zeros_like(field) if differentiable else None
    group = max(1, chunk_voxels(field.device) // field[0, 0].numel())
    for first in range(0, len(field), group):
        items = slice(first, first + group)
        for i, j in combinations_with_replacement(range(2, field.dim()), 2):
            difference = field[items].diff(dim=i).diff(dim=j)
            weight = (1 if i == j else 2) / difference[0].numel()
            energies[items] += weight * difference.square().flatten(1).sum(1)
            if gradients is None:
                continue
            for above_i, above_j in product((False, True), repeat=2):
                source = gradients[items]
                for axis, size in enumerate(difference.shape[2:], start=2):
                    source = source.narrow(axis, above_i * (axis == i) + above_j * (axis == j), size)
                source.add_(difference, alpha=2 * weight if above_i == above_j else -2 * weight)
    return energies, gradients


class FoldingPenalty(nn.Module):
    """Mean of max(0, -det J) over the corners of all grid cells: 0 wherever no cell folds.

    Each cell's determinants come from its own edges (forward and backward differences in all combinations), so a
    saw-tooth field, to which central differences are blind, is penalised. In 2-D no penalty means that the bilinearly
    interpolated field folds nowhere. Determinants are the same in voxels and in millimetres.
    """

    def forward(self, displacement: Tensor) -> Tensor:
        _check(displacement, 2)
        return (-corner_determinants(displacement)).relu().mean()


class InverseConsistency(nn.Module):
    """Mean squared length of u(x) + v(x + u(x)), in voxels^2: 0 where v is the inverse of u.

    v is interpolated linearly; where u leads out of the image, v at the edge is used.
    """

    def forward(self, displacement: Tensor, inverse_displacement: Tensor) -> Tensor:
        check_displacement("displacement", displacement)
        check_displacement("inverse_displacement", inverse_displacement)
        check_same_shape("displacement", displacement, "inverse_displacement", inverse_displacement)
        forward, backward = precise(displacement), precise(inverse_displacement)
        return (forward + warp(backward, forward)).square().sum(dim=1).mean()
