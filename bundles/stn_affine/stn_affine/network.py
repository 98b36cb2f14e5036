"""Affine registration in one pass: a network looks at a moving and a fixed image and predicts a matrix.

Convention: the input is moving and fixed concatenated as channels, the output is [warped | displacement] concatenated
as channels, the displacement in voxels. `matrices` gives the matrix after every pass, see `geometry.affine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.checks import runs_eagerly
from warpzoo.geometry.affine import affine_field, compose_matrices, fit_affine
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.transforms import Affine, Transform
from warpzoo.networks import (
    KeyPoints,
    MinMax,
    Standardise,
    channels_last,
    channels_last_weights,
    check_dims,
    check_pair,
    matrix_head,
    tag_architecture,
    warp_and_concatenate,
)
from warpzoo.networks.affine import PARTS

TRUST_RATE = 100.0
"""How many times as fast as a weight the trust in the key points is learnt."""
REWEIGHTED = 0.1
"""Half of the longest side: a key point that is so far from where the fit takes it counts half."""


class STNAffine(nn.Module):
    """The network of the paper: convolutions of kernel 5 with poolings, then fully connected layers and a head.

    Args:
        spatial_dims: 2 or 3.
        image_size: of the images; the fully connected layers fit no other.
        channels: kernels of the convolutions; after each the image is half as large.
        hidden: neurons of the fully connected layers.
        head: "separate" (shear, scale, rotation and translation each on their own) or "one" (the matrix as a whole).
        parts: of the separate head.
        passes: how often the network looks, each time at the moving image as placed so far.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        image_size: Sequence[int] = (48, 48, 48),
        channels: Sequence[int] = (8, 16, 32, 32),
        hidden: Sequence[int] = (64, 32),
        head: str = "separate",
        parts: Sequence[str] = PARTS,
        passes: int = 1,
    ) -> None:
        super().__init__()
        self.spatial_dims = check_dims(spatial_dims)
        self.image_size = [int(size) for size in image_size]
        if len(self.image_size) != spatial_dims or min(self.image_size) < 2 ** len(channels):
            raise ValueError(
                f"image_size must be {spatial_dims} sides of at least {2 ** len(channels)} voxels, got "
                f"{tuple(image_size)}."
            )
        self.passes = passes
        self.normalise = MinMax()
        layers: list[nn.Module] = []
        width = 2
        for kernels in channels:
            convolution = Conv[Conv.CONV, spatial_dims](width, kernels, 5, padding=2)
            layers += [convolution, nn.ReLU(), Pool[Pool.MAX, spatial_dims](2)]
            width = kernels
        self.localisation = nn.Sequential(*layers)
        width *= prod(size // 2 ** len(channels) for size in self.image_size)
        layers = []
        for neurons in hidden:
            layers += [nn.Linear(width, neurons), nn.ReLU()]
            width = neurons
        self.dense = nn.Sequential(*layers)
        self.head = matrix_head(head, width, spatial_dims, parts)
        tag_architecture(self, "stn", head)
        channels_last_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        return warp_and_concatenate(image, affine_field(self.matrices(image)[-1], list(image.shape[2:])))

    def transform(self, image: Tensor, grid: Grid) -> Transform:
        """What `forward` warps by."""
        return Affine(self.matrices(image)[-1], grid)

    def matrices(self, image: Tensor) -> list[Tensor]:
        """The matrix (batch, dims, dims + 1) after every pass."""
        if not torch.jit.is_scripting():
            check_pair(image, self.spatial_dims)
            if list(image.shape[2:]) != self.image_size and runs_eagerly():
                raise ValueError(f"image must be of size {tuple(self.image_size)}, got {tuple(image.shape[2:])}.")
        image = self.normalise(image)
        matrix = self._estimated(image)
        found = [matrix]
        for _ in range(1, self.passes):
            before = matrix.detach()
            placed = warp(image[:, :1], affine_field(before, list(image.shape[2:])))
            matrix = compose_matrices(self._estimated(torch.cat([placed, image[:, 1:]], 1)), before)
            found.append(matrix)
        return found

    def _estimated(self, image: Tensor) -> Tensor:
        matrix: Tensor = self.head(self.dense(self.localisation(channels_last(image)).flatten(1)))
        return matrix


class KeyPointAffine(nn.Module):
    """Key points in each image by one encoder, and the affine map between them in closed form.

    Each pass looks at the moving image as the ones before have placed it. Before the first, `turns` tries the quarter
    turns of the moving image as well and goes on from what makes the images most alike.

    Args:
        spatial_dims: 2 or 3.
        channels: the encoder's kernels at half the image's resolution and at each coarser level.
        points: how many key points.
        passes: how often the network looks.
        turns: whether to try quarter turns, outside of training.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: list[int] | tuple[int, ...] = (16, 32, 64),
        points: int = 48,
        passes: int = 2,
        turns: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_dims = check_dims(spatial_dims)
        self.passes = passes
        self.reweighted = 0
        self.turns = turns
        self.standardise = Standardise()
        self.down = nn.ModuleList()
        self.across = nn.ModuleList()
        width = 1
        for level, kernels in enumerate(channels):
            self.down.append(_block(spatial_dims, width, kernels, 2))
            if level:
                self.across.insert(0, Conv[Conv.CONV, spatial_dims](kernels, width, 1))
            width = kernels
        self.deepest = _block(spatial_dims, width, width, 1)
        self.last = nn.Sequential(*_convolution(spatial_dims, channels[0], channels[0]))
        self.points = KeyPoints(channels[0], points, stride=2)
        self.trust = nn.Parameter(torch.zeros(()))
        self.register_buffer("turned", _turns(spatial_dims), persistent=False)
        tag_architecture(self, "key_points")
        channels_last_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        return warp_and_concatenate(image, affine_field(self.matrices(image)[-1], list(image.shape[2:])))

    def transform(self, image: Tensor, grid: Grid) -> Transform:
        """What `forward` warps by."""
        return Affine(self.matrices(image)[-1], grid)

    def matrices(self, image: Tensor) -> list[Tensor]:
        """The matrix (batch, dims, dims + 1) after every pass."""
        if not torch.jit.is_scripting():
            check_pair(image, self.spatial_dims)
        image = self.standardise(image)
        moving, fixed = image[:, :1], image[:, 1:]
        shape = list(image.shape[2:])
        batch = image.shape[0]
        points, trusted = self.look(image.transpose(0, 1).flatten(0, 1)[:, None])
        here, confidence = points[batch:], trusted[batch:]
        matrix = self._fitted(here, confidence, points[:batch], trusted[:batch])
        found = [matrix]
        for _ in range(1, self.passes):
            before = matrix.detach()
            placed = warp(moving, affine_field(before, shape))
            points, trusted = self.look(placed)
            matrix = compose_matrices(self._fitted(here, confidence, points, trusted), before)
            found.append(matrix)
        return found

    def look(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The key points of images (batch, 1, *spatial) and how much each is to be trusted."""
        features = channels_last(image)
        seen: list[Tensor] = []
        for stage in self.down:
            features = stage(features)
            seen.append(features)
        features = self.deepest(features)
        for number, stage in enumerate(self.across):
            finer = seen[len(seen) - 2 - number]
            features = finer + F.interpolate(stage(features), finer.shape[2:], mode="nearest")
        return self.points(self.last(features), list(image.shape[2:]))

    def _fitted(self, fixed: Tensor, trusted: Tensor, moving: Tensor, trusted_there: Tensor) -> Tensor:
        weights = trusted * trusted_there
        matrix = fit_affine(fixed, moving, weights)
        for _ in range(self.reweighted):
            dims = fixed.shape[2]
            expected = (matrix[:, None, :, :dims] * fixed[:, :, None]).sum(3) + matrix[:, None, :, dims]
            apart = (expected - moving).square().sum(2)
            matrix = fit_affine(fixed, moving, weights / (1 + apart / REWEIGHTED**2))
        own = torch.eye(self.spatial_dims, self.spatial_dims + 1, device=matrix.device)
        return own + (TRUST_RATE * self.trust).clamp(max=1.0) * (matrix - own)


def _turns(dims: int) -> Tensor:
    """The quarter turns, (4 or 24, dims, dims)."""
    found: list[Tensor] = []
    for order in product(range(dims), repeat=dims):
        if len(set(order)) == dims:
            for signs in product((1.0, -1.0), repeat=dims):
                turn = torch.eye(dims)[list(order)] * torch.tensor(signs)
                if torch.linalg.det(turn) > 0:
                    found.append(turn)
    return torch.stack(found)


def _block(dims: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(dims, inputs, outputs, stride),
        *_convolution(dims, outputs, outputs),
    )


def _convolution(dims: int, inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = Conv[Conv.CONV, dims](inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, Norm[Norm.BATCH, dims](outputs), nn.LeakyReLU(0.2)]
