"""Affine registration in one pass: a network looks at a moving and a fixed image and predicts a matrix.

Convention: the input is moving and fixed concatenated as channels, the output is [warped | displacement] concatenated
as channels, the displacement in voxels. `matrices` gives the matrix after every pass, see `geometry.affine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from math import prod

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.checks import check_count, check_truth, runs_eagerly
from warpzoo.geometry.affine import (
    affine_field,
    compose_matrices,
    fit_affine,
    inverse_of_small,
)
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import axis_coordinates, sample_unchecked, voxel_coordinates, warp
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
from warpzoo.networks.affine import PARTS, gated

TRUST_RATE = 100.0
"""How many times as fast as a weight the trust in the key points is learnt."""
PLAIN = 0.3
"""Of what the best turn lacks to a correlation of 1 it must be ahead of none: bodies look much the same from behind."""
PLAINS = 2
"""Matrices of images as they are: from the fixed to the moving one, and back."""
CANDIDATES = 5
"""These and the best of the turned ones, which all passes go on from."""
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
        check_count("passes", passes)
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
        self.head = matrix_head(head, width, spatial_dims, parts, passes)
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
    turns of either image as well and goes on from what makes the images most alike.

    Args:
        spatial_dims: 2 or 3.
        channels: the encoder's kernels at half the image's resolution and at each coarser level.
        points: how many key points; their maps are at a quarter of the resolution.
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
        check_count("passes", passes)
        self.passes = passes
        self.reweighted, self.far, self.plain, self.rate = 0, REWEIGHTED, PLAIN, TRUST_RATE
        self.turns = check_truth("turns", turns)
        self.standardise = Standardise()
        self.first = nn.Sequential(*_convolution(spatial_dims, 1, channels[0], 2))
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        width = channels[0]
        for number, kernels in enumerate(channels[1:]):
            self.down.append(_block(spatial_dims, width, kernels, 2))
            if number:
                self.up.insert(0, Conv[Conv.CONV, spatial_dims](kernels, width, 1))
            width = kernels
        self.deepest = nn.Sequential(*_convolution(spatial_dims, width, width))
        self.last = nn.Sequential(*_convolution(spatial_dims, channels[1], channels[1]))
        self.points = KeyPoints(channels[1], points, stride=4)
        self.trust = nn.Parameter(torch.zeros(()))
        self.candidates, self.plains = CANDIDATES, PLAINS
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
        batch = image.shape[0]
        turning = self.turns and not self.training
        points, trusted = self.look(torch.cat([fixed, moving]))
        matrix = self._fitted(points[:batch], trusted[:batch], points[batch:], trusted[batch:])
        backwards = torch.zeros(batch, dtype=torch.bool, device=image.device)
        if turning:
            fixed, moving, matrix, backwards = self._candidates(fixed, moving, points, trusted)
        found = [matrix]
        for _ in range(1, self.passes):
            before = matrix.detach()
            placed, continued, _ = placed_and_continued(moving, fixed, before)
            points, trusted = self.look(torch.cat([placed, continued]))
            count = placed.shape[0]
            fitted = self._fitted(points[count:], trusted[count:], points[:count], trusted[:count])
            matrix = compose_matrices(fitted, before)
            found.append(matrix)
        if turning:
            alike = _alike(fixed, moving, matrix).reshape(self.candidates, batch)
            best = self._in_favour(alike).argmax(0) * batch + torch.arange(batch, device=alike.device)
            found = [_forwards(one.index_select(0, best), backwards.index_select(0, best)) for one in found]
        return found

    def _candidates(
        self, fixed: Tensor, moving: Tensor, points: Tensor, trusted: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fixed and moving images, the plain matrices both ways and, of those that the key points give once one image
        is turned, the ones by which the images are most alike, and which of them are backwards, from the moving to the
        fixed image: (candidates · batch, …) each.

        The image that is turned is the moving one of a pair, whichever it is: least squares forgive errors of its
        points, and what the network has learnt from is fixed images that lie as they should.
        """
        count, batch = self.turned.shape[0], fixed.shape[0]
        turn = self.turned[:, None].repeat(1, 2 * batch, 1, 1).flatten(0, 1)
        fixed, moving = torch.cat([fixed, moving]), torch.cat([moving, fixed])
        others = torch.cat([points[batch:], points[:batch]]), torch.cat([trusted[batch:], trusted[:batch]])
        plain = self._fitted(points, trusted, others[0], others[1])
        turned = warp(_repeated(moving, count), affine_field(turn, list(fixed.shape[2:])))
        there, trusted_there = self.look(turned)
        fitted = self._fitted(_repeated(points, count), _repeated(trusted, count), there, trusted_there)
        matrix = self._trusted(compose_matrices(fitted, turn))
        alike = _alike(_repeated(fixed, count), _repeated(moving, count), matrix).reshape(2 * count, batch)
        rows = alike.topk(self.candidates - self.plains, 0)[1]
        best = (rows * batch + torch.arange(batch, device=alike.device)).flatten()
        pair = torch.cat([torch.arange(2 * batch, device=alike.device), best % (2 * batch)])
        matrix = torch.cat([plain, matrix.index_select(0, best)])
        return fixed.index_select(0, pair), moving.index_select(0, pair), matrix, pair >= batch

    def _in_favour(self, alike: Tensor) -> Tensor:
        """Of the plain matrices, which come first, (candidates, batch)."""
        ahead = self.plain * (1 - alike.max(0, keepdim=True)[0]).clamp(min=0)
        return torch.cat([alike[: self.plains] + ahead, alike[self.plains :]])

    def look(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The key points of images (batch, 1, *spatial) and how much each is to be trusted."""
        features = self.first(channels_last(image))
        seen: list[Tensor] = []
        for stage in self.down:
            features = stage(features)
            seen.append(features)
        features = self.deepest(features)
        for number, stage in enumerate(self.up):
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
            matrix = fit_affine(fixed, moving, weights / (1 + apart / self.far**2))
        return self._trusted(matrix)

    def _trusted(self, matrix: Tensor) -> Tensor:
        return gated(matrix, self.rate * self.trust)


def placed_and_continued(moving: Tensor, fixed: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The moving image placed by a matrix, the fixed one continued beyond what the moving one shows as that is by its
    edge, so that what is not there does not tell the two apart, and the share of the fixed image that is there."""
    shape = list(fixed.shape[2:])
    dims = len(shape)
    there = affine_field(matrix, shape) + voxel_coordinates(shape, matrix.dtype, matrix.device)
    within: list[Tensor] = []
    last: list[Tensor] = []
    for axis in range(dims):
        last.append(axis_coordinates(shape[axis], axis, dims, matrix.dtype, matrix.device).max())
        within.append(torch.minimum(there[:, axis].clamp(min=0), last[axis]))
    seen = (torch.stack(within, 1) - there).abs().amax(1).lt(0.5).to(there.dtype).flatten(1).mean(1)
    there = torch.stack(within, 1)
    middle = 0.5 * torch.stack(last)[:, None]
    unit = middle.max().clamp_min(0.5)
    from_middle = (there.flatten(2) - middle) / unit - matrix[:, :, dims:]
    back = torch.matmul(inverse_of_small(matrix[:, :, :dims]), from_middle) * unit + middle
    return sample_unchecked(moving, there), sample_unchecked(fixed, back.view_as(there)), seen


def _turns(dims: int) -> Tensor:
    """The quarter turns but the one that turns nothing, (3 or 23, dims, dims + 1)."""
    found: list[Tensor] = []
    for order in permutations(range(dims)):
        for signs in product((1.0, -1.0), repeat=dims):
            turn = torch.diag(torch.tensor(signs))[list(order)]
            if torch.linalg.det(turn) > 0 and not torch.equal(turn, torch.eye(dims)):
                found.append(torch.cat([turn, torch.zeros(dims, 1)], 1))
    return torch.stack(found)


def _forwards(matrix: Tensor, backwards: Tensor) -> Tensor:
    """The inverse of those matrices that are backwards."""
    dims = matrix.shape[1]
    linear = inverse_of_small(matrix[:, :, :dims])
    back = torch.cat([linear, -torch.matmul(linear, matrix[:, :, dims:])], 2)
    return torch.where(backwards[:, None, None], back, matrix)


def _repeated(one: Tensor, count: int) -> Tensor:
    return one.repeat([count] + [1] * (one.dim() - 1))


def _alike(fixed: Tensor, moving: Tensor, matrix: Tensor) -> Tensor:
    """The correlation of the images as a matrix places them, (batch,); less if less than half of the fixed image is in
    the moving one's view."""
    placed, continued, seen = placed_and_continued(moving, fixed, matrix)
    one, other = continued.flatten(1), placed.flatten(1)
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    power = one.square().mean(1) * other.square().mean(1)
    return (one * other).mean(1) / power.clamp_min(1e-12).sqrt() * (2 * seen).clamp(max=1.0)


def _block(dims: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(dims, inputs, outputs, stride),
        *_convolution(dims, outputs, outputs),
    )


def _convolution(dims: int, inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = Conv[Conv.CONV, dims](inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, Norm[Norm.BATCH, dims](outputs), nn.LeakyReLU(0.2)]
