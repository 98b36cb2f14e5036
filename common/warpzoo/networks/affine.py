"""How a network ends in a matrix: heads on pooled features, key points, and passes that go on from one another.

Convention: a matrix (batch, dims, dims + 1) and the coordinates of points are as in `geometry.affine`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from warpzoo.checks import check_truth
from warpzoo.geometry.affine import DIMS_BY_WIDTH, compose_affine
from warpzoo.geometry.sampling import axis_coordinates, precise
from warpzoo.networks.weights import zero_initialised

PARTS = ("shear", "scale", "rotation", "translation")
SMALLEST_VOLUME = 0.2
"""The determinant of `SeparateMatrices` is above that, and below its reciprocal."""


SHARPNESS = 3.0
"""The deviation of an untrained map's logarithm: high enough for its key point to lie somewhere."""


class OneMatrix(nn.Module):
    """Features (batch, count) → the entries of the matrix, `scale` times what its layer gives; untrained the
    identity."""

    def __init__(self, features: int, spatial_dims: int, scale: float = 1.0) -> None:
        super().__init__()
        self.spatial_dims, self.scale = spatial_dims, scale
        self.entries = zero_initialised(nn.Linear(features, spatial_dims * (spatial_dims + 1)))

    def forward(self, features: Tensor) -> Tensor:
        entries = precise(self.entries(features)).unflatten(1, (self.spatial_dims, self.spatial_dims + 1))
        return self.scale * entries + torch.eye(self.spatial_dims, self.spatial_dims + 1, device=entries.device)


class SeparateMatrices(nn.Module):
    """Features (batch, count) → shear → scale → rotation → translation, each of `parts` from a layer of its own.

    A part that is left out is the identity, and so is everything untrained. Scales are bounded so that the volume never
    falls below `SMALLEST_VOLUME`, after as many `passes` as it is asked: an image cannot collapse to a point.
    """

    def __init__(self, features: int, spatial_dims: int, parts: Sequence[str] = PARTS, passes: int = 1) -> None:
        super().__init__()
        unknown = [part for part in parts if part not in PARTS]
        if unknown or not parts or len(set(parts)) < len(parts):
            raise ValueError(f"parts must be some of {', '.join(PARTS)}, each once, got {list(parts)}.")
        self.most = -math.log(1.01 * SMALLEST_VOLUME) / (spatial_dims * passes)  # a hundredth for rounding
        self.dims = spatial_dims
        self.layers = nn.ModuleDict(
            {
                part: zero_initialised(nn.Linear(features, width))
                for part in parts
                for width, dims in DIMS_BY_WIDTH[part].items()
                if dims == spatial_dims
            }
        )

    def forward(self, features: Tensor) -> Tensor:
        found: dict[str, Tensor] = {}
        for part, layer in self.layers.items():
            found[part] = precise(layer(features))
        scale = torch.zeros(features.shape[0], self.dims, device=features.device)
        if "scale" in found:
            scale = self.most * torch.tanh(found["scale"] / self.most)
        return compose_affine(found.get("shear"), scale, found.get("rotation"), found.get("translation"))


def matrix_head(
    head: str, features: int, spatial_dims: int, parts: Sequence[str] = PARTS, passes: int = 1
) -> nn.Module:
    """`OneMatrix` for "one", `SeparateMatrices` for "separate"."""
    if head == "one":
        return OneMatrix(features, spatial_dims)
    if head == "separate":
        return SeparateMatrices(features, spatial_dims, parts, passes)
    raise ValueError(f"head must be 'one' or 'separate', got {head!r}.")


def gated(matrix: Tensor, gate: Tensor) -> Tensor:
    """The identity where the gate is 0, which is before anything is learnt, and the matrix from 1 on."""
    own = torch.eye(matrix.shape[1], matrix.shape[2], device=matrix.device)
    return own + gate.clamp(max=1.0) * (matrix - own)


def unit_places(features: Tensor, shape: list[int], strides: list[int], shift: float = 0.5) -> Tensor:
    """Where the voxels of feature maps are in an image of that shape, in the coordinates of a matrix, (places, dims).

    They are `strides` voxels of the image apart; the first one lies in the middle of those that it covers, or, with a
    `shift` of 0, on the image's first.
    """
    dims = len(shape)
    places: list[Tensor] = []
    halves: list[Tensor] = []
    for axis in range(dims):
        ramp = axis_coordinates(features.shape[2 + axis], axis, dims, torch.float32, features.device)
        first = shift * (strides[axis] - 1)
        places.append((strides[axis] * ramp + first - 0.5 * (shape[axis] - 1)).expand(features.shape[2:]))
        halves.append(0.5 * axis_coordinates(shape[axis], axis, dims, torch.float32, features.device).max())
    half = torch.stack(halves).max().clamp_min(0.5)  # `half_longest_side` for sizes that may be dynamic
    return torch.stack(places, -1).flatten(0, -2) / half


class KeyPoints(nn.Module):
    """Feature maps → points (batch, count, dims) and how much each is to be trusted, (batch, count), above 0.

    A point is the centre of mass of a map that sums to 1: it moves along with what the map answers to. `stride` is how
    many voxels of the image the maps' voxels are apart, along all axes or each; the first ones coincide, or, if a map's
    voxel is `pooled` of the image's, lie in the middle of these.
    """

    def __init__(self, features: int, count: int, stride: int | Sequence[int], pooled: bool = False) -> None:
        super().__init__()
        self.strides = [stride] * 3 if isinstance(stride, int) else list(stride)
        self.shift = 0.5 if check_truth("pooled", pooled) else 0.0
        self.maps = nn.Linear(features, count)
        nn.init.normal_(self.maps.weight, std=SHARPNESS / features**0.5)
        self.trust = nn.Parameter(torch.zeros(count, features))

    def forward(self, features: Tensor, shape: list[int], factors: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """`shape` is the image's, (*spatial); the maps are of one that was pooled by `factors` along the axes."""
        strides = self.strides
        if factors is not None:
            strides = [stride * factor for stride, factor in zip(self.strides, factors)]  # noqa: B905
        where = unit_places(features, shape, strides, self.shift)
        if torch.jit.is_scripting():
            return self._found(features, where)
        with torch.autocast(features.device.type, enabled=False):  # it would round positions to a few digits
            return self._found(features, where)

    def _found(self, features: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        values = features.flatten(2).transpose(1, 2).float()
        mass = self.maps(values).transpose(1, 2).softmax(2)
        trusted = torch.sigmoid((torch.matmul(mass, values) * self.trust).sum(2))
        return torch.matmul(mass, where), trusted


class Moments(nn.Module):
    """Feature maps → the mean, and the first and second spatial moments, of each: (batch, features · (1 + d + d²…)).

    `gap` leaves only the means, which hardly know where things are.
    """

    def __init__(self, spatial_dims: int, gap: bool = False) -> None:
        super().__init__()
        self.dims = spatial_dims
        self.gap = check_truth("gap", gap)
        self.width = 1 if self.gap else 1 + spatial_dims + spatial_dims * (spatial_dims + 1) // 2

    def forward(self, features: Tensor) -> Tensor:
        features = precise(features)
        found = [features.flatten(2).mean(2)]
        if not self.gap:
            shape = list(features.shape[2:])
            ramps: list[Tensor] = []
            for axis in range(self.dims):
                ramp = axis_coordinates(shape[axis], axis, self.dims, features.dtype, features.device)
                ramps.append((2 * ramp + 1) / shape[axis] - 1)
            for axis in range(self.dims):
                along = features * ramps[axis]
                found.append(along.flatten(2).mean(2))
                for other in range(axis, self.dims):
                    found.append((along * ramps[other]).flatten(2).mean(2))
        return torch.cat(found, 1)
