"""How features of two images become the matrix between them: three heads, each with `forward` for one image's features
and `compare` for what that gives of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.geometry.affine import fit_affine
from warpzoo.geometry.sampling import precise
from warpzoo.networks import KeyPoints, Moments, OneMatrix, gated, unit_places

SCALE = 0.1
"""Of the numbers that the dense layers give, so that they are small before they are learnt (the paper's)."""
DESCRIPTOR = 32
"""Numbers that describe a place for the head "matches"."""
TRUST_RATE = 100.0
"""How many times as fast as a weight the trust in the key points is learnt."""


class MatchHead(nn.Module):
    """Features → for every place of their maps its position, how much it is to be trusted and a description, (batch,
    places, dims + 1 + count); two of these → a matrix.

    The maps are those of the last block but one, with what the last block says of the surroundings.
    """

    def __init__(self, spatial_dims: int, finer: int, coarser: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.dims, self.rate, self.strides = spatial_dims, TRUST_RATE, list(strides)
        self.surroundings = Conv[Conv.CONV, spatial_dims](coarser, finer, 1)
        self.joined = nn.Sequential(*convolution(spatial_dims, finer, finer))
        self.described = Conv[Conv.CONV, spatial_dims](finer, DESCRIPTOR + 1, 1)
        self.sharpness = nn.Parameter(torch.tensor(2.0))
        self.reach = nn.Parameter(torch.tensor(-1.0))
        self.trust = nn.Parameter(torch.zeros(()))

    def forward(self, seen: list[Tensor], shape: list[int], factors: list[int]) -> Tensor:
        features = seen[len(seen) - 2]
        surroundings = F.interpolate(self.surroundings(seen[len(seen) - 1]), scale_factor=2.0, mode="nearest")
        described = precise(self.described(self.joined(features + surroundings))).flatten(2).transpose(1, 2)
        strides = [stride * factor for stride, factor in zip(self.strides, factors)]  # noqa: B905
        places = unit_places(features, shape, strides)[None].expand(described.shape[0], -1, -1)
        return torch.cat([places, torch.sigmoid(described[:, :, :1]), F.normalize(described[:, :, 1:], dim=2)], 2)

    def compare(self, moving: Tensor, fixed: Tensor) -> Tensor:
        dims = self.dims
        here, there = fixed[:, :, :dims], moving[:, :, :dims]
        alike = torch.matmul(fixed[:, :, dims + 1 :], moving[:, :, dims + 1 :].transpose(1, 2)) * self.sharpness.exp()
        apart = (here[:, :, None] - there[:, None]).square().sum(3)
        share = (alike - 0.5 * apart * (-2 * self.reach).exp()).softmax(2)
        weights = fixed[:, :, dims] * torch.matmul(share, moving[:, :, dims : dims + 1])[:, :, 0]
        return self.opened(fit_affine(here, torch.matmul(share, there), weights))

    def opened(self, matrix: Tensor) -> Tensor:
        """The matrix, or what is left of it before the head has learnt anything."""
        return gated(matrix, self.rate * self.trust)


class KeyPointHead(nn.Module):
    """Features → key points and how much each is to be trusted, (batch, points, dims + 1); two of these → a matrix.

    The maps are those of the last block but one, with what the last block says of the surroundings.
    """

    def __init__(self, spatial_dims: int, finer: int, coarser: int, points: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.dims, self.rate = spatial_dims, TRUST_RATE
        self.surroundings = Conv[Conv.CONV, spatial_dims](coarser, finer, 1)
        self.joined = nn.Sequential(*convolution(spatial_dims, finer, finer))
        self.points = KeyPoints(finer, points, strides, pooled=True)
        self.trust = nn.Parameter(torch.zeros(()))

    def forward(self, seen: list[Tensor], shape: list[int], factors: list[int]) -> Tensor:
        features = seen[len(seen) - 2]
        surroundings = F.interpolate(self.surroundings(seen[len(seen) - 1]), scale_factor=2.0, mode="nearest")
        points, trusted = self.points(self.joined(features + surroundings), shape, factors)
        return torch.cat([points, trusted[:, :, None]], 2)

    def compare(self, moving: Tensor, fixed: Tensor) -> Tensor:
        weights = moving[:, :, self.dims] * fixed[:, :, self.dims]
        return self.opened(fit_affine(fixed[:, :, : self.dims], moving[:, :, : self.dims], weights))

    def opened(self, matrix: Tensor) -> Tensor:
        """The matrix, or what is left of it before the head has learnt anything."""
        return gated(matrix, self.rate * self.trust)


class PooledHead(nn.Module):
    """Features → means or moments of the last block's maps, (batch, count); two of these → a matrix by dense layers."""

    def __init__(self, spatial_dims: int, features: int, hidden: Sequence[int], gap: bool) -> None:
        super().__init__()
        self.pool = Moments(spatial_dims, gap)
        width = 2 * features * self.pool.width
        layers: list[nn.Module] = []
        for neurons in hidden:
            layers += [nn.Linear(width, neurons), nn.LayerNorm(neurons), nn.ReLU()]
            width = neurons
        self.dense = nn.Sequential(*layers)
        self.entries = OneMatrix(width, spatial_dims, SCALE)

    def forward(self, seen: list[Tensor], shape: list[int], factors: list[int]) -> Tensor:
        numbers: Tensor = self.pool(seen[len(seen) - 1])
        return numbers

    def compare(self, moving: Tensor, fixed: Tensor) -> Tensor:
        matrix: Tensor = self.entries(self.dense(torch.cat([moving, fixed], 1)))
        return matrix

    def opened(self, matrix: Tensor) -> Tensor:
        """No turn is tried for it."""
        return matrix


def convolution(dims: int, inputs: int, outputs: int) -> list[nn.Module]:
    """A 3-convolution, normalised, and what is above 0 of it."""
    convolution = Conv[Conv.CONV, dims](inputs, outputs, 3, padding=1, bias=False)
    return [convolution, Norm[Norm.BATCH, dims](outputs), nn.ReLU()]
