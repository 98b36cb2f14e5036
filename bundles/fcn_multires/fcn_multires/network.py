"""Registration by fully convolutional networks at several resolutions, trained jointly.

Convention: the input is moving and fixed concatenated as channels, the output is [warped | displacement] concatenated
as channels, the displacement in voxels. `levels` gives the displacement of each resolution, finest first, each in
voxels of its own level, on the image padded to whole voxels of the coarsest.
"""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.checks import check_truth
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.transforms import DisplacementField, Transform
from warpzoo.geometry.velocity import VelocityField
from warpzoo.networks import (
    Standardise,
    central_gradient,
    channels_last,
    channels_last_weights,
    check_dims,
    check_pair,
    one_level_finer,
    padded,
    pooled,
    tag_architecture,
    velocity_on,
    warp_and_concatenate,
    zero_initialised,
)

VARIANTS = ("multi_resolution", "coarse", "no_pooling")
SQUARINGS = 5


class MultiResolutionFCN(nn.Module):
    """The network of Li and Fan (2017) with the variants that it is compared with.

    Args:
        spatial_dims: 2 or 3.
        channels: kernels of the convolutions, from the finest level to the coarsest; as many levels as numbers.
        variant: "multi_resolution" (deconvolutions back to the image's size, a displacement at every level), "coarse"
            (the coarsest level's displacement, interpolated) or "no_pooling" (all convolutions at the image's size).
        velocity: whether each level predicts a velocity, whose flow is the displacement.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: list[int] | tuple[int, ...] = (32, 64, 128),
        variant: str = "multi_resolution",
        velocity: bool = False,
    ) -> None:
        super().__init__()
        velocity = check_truth("velocity", velocity)
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}.")
        self.spatial_dims = check_dims(spatial_dims)
        self.variant = variant
        self.velocity = velocity
        self.flow = VelocityField(SQUARINGS)
        self.coarsest = 1 if variant == "no_pooling" else 2 ** (len(channels) - 1)
        self.standardise = Standardise()
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        self.regressors = nn.ModuleList()
        width = 2
        for level, kernels in enumerate(channels):
            layers = _convolution(spatial_dims, width, kernels)
            if level and variant != "no_pooling":
                layers.insert(0, Pool[Pool.MAX, spatial_dims](3, stride=2, padding=1))
            self.encoder.append(nn.Sequential(*layers))
            width = kernels
        self.coarsest_regressor = _regressor(spatial_dims, width)
        if variant == "multi_resolution":
            for level in range(len(channels) - 2, -1, -1):
                layers = _deconvolution(spatial_dims, width, channels[level])
                width = channels[level]
                if level:
                    layers += _convolution(spatial_dims, width, width)
                self.decoder.append(nn.Sequential(*layers))
                self.regressors.append(_regressor(spatial_dims, width))
        tag_architecture(self, variant, "velocity" if velocity else "displacement")
        channels_last_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        return warp_and_concatenate(image, self.levels(image)[0])

    def levels(self, image: Tensor) -> list[Tensor]:
        """The displacement at every resolution, finest first."""
        levels: list[Tensor] = []
        for field in self._fields(image):
            levels.append(self.flow(field) if self.velocity else field)
        if self.variant == "coarse":
            size = 1
            while size < self.coarsest:
                levels = [one_level_finer(levels[0])]
                size *= 2
        return levels

    def transform(self, image: Tensor, grid: Grid) -> Transform:
        """What `forward` warps by, with the velocity where that has the image's resolution."""
        if self.velocity and self.variant != "coarse":
            return velocity_on(self._fields(image)[0], grid, self.coarsest, SQUARINGS)
        return DisplacementField(self.forward(image)[:, 1:].float(), grid)

    def _fields(self, image: Tensor) -> list[Tensor]:
        """The displacement or velocity that each regressor predicts, finest first."""
        if not torch.jit.is_scripting():
            check_pair(image, self.spatial_dims)
        features = channels_last(padded(self.standardise(image), self.coarsest))
        for stage in self.encoder:
            features = stage(features)
        fields = [self.coarsest_regressor(features)]
        for stage, regressor in zip(self.decoder, self.regressors):  # noqa: B905 (not in TorchScript)
            features = stage(features)
            fields.append(regressor(features))
        return fields[::-1]


class WarpingPyramid(nn.Module):
    """The same idea from coarse to fine: each level predicts the displacement that remains after the coarser levels.

    One encoder is applied to each image. At every level the moving image's features, warped by the displacement so far,
    and the fixed image's go through a small estimator, whose input also has the images themselves and the force of one
    step of Thirion's demons. The finest level has voxels of twice the image's.

    With `velocity` both directions are estimated at once: the flow of v warps moving onto fixed, that of −v fixed onto
    moving, and exchanging the images gives exactly the inverse.

    Args:
        spatial_dims: 2 or 3.
        channels: the encoder's kernels at half the image's resolution and at each coarser level.
        estimators: those of each level's estimators.
        velocity: whether to predict a velocity, whose flow is the displacement, or the displacement itself.
        looks: how many estimators a level has, in the same order, 1 if not given; each predicts what the one before has
            left.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: list[int] | tuple[int, ...] = (16, 32, 64),
        estimators: list[int] | tuple[int, ...] = (16, 48, 64),
        velocity: bool = True,
        looks: list[int] | tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        velocity = check_truth("velocity", velocity)
        looks = [1] * len(channels) if looks is None else looks
        if not len(channels) == len(estimators) == len(looks) or min(looks) < 1:
            raise ValueError(
                f"channels, estimators and looks must be numbers for as many levels, got {channels}, {estimators} and "
                f"{looks}."
            )
        self.spatial_dims = check_dims(spatial_dims)
        self.velocity = velocity
        self.flow = VelocityField(SQUARINGS)
        self.coarsest = 2 ** len(channels)
        self.standardise = Standardise()
        self.encoder = nn.ModuleList()
        self.estimators = nn.ModuleList()
        width = 1
        for kernels in channels:
            self.encoder.append(_block(spatial_dims, width, kernels, stride=2))
            width = kernels
        # each estimator's level, 0 the coarsest
        self.level_of = [level for level, count in enumerate(looks[::-1]) for _ in range(count)]
        before = 0
        for look, level in enumerate(self.level_of):
            kernels, features = estimators[-1 - level], channels[-1 - level]
            scale = 1 if level in self.level_of[:look] else 2
            self.estimators.append(_Estimator(spatial_dims, 1 + features, before, kernels, scale))
            before = kernels
        tag_architecture(self, "velocity" if velocity else "displacement")
        channels_last_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        return warp_and_concatenate(image, self.levels(image)[0])

    def levels(self, image: Tensor) -> list[Tensor]:
        """The displacement at every resolution, finest first."""
        coarser, field = self._estimate(image)
        finest = self.flow(field) if self.velocity else field
        return [one_level_finer(finest), finest] + coarser[::-1]

    def transform(self, image: Tensor, grid: Grid) -> Transform:
        """What `forward` warps by, with the velocity at half the image's resolution."""
        if self.velocity:
            return velocity_on(self._estimate(image)[1], grid, self.coarsest, SQUARINGS)
        return DisplacementField(self.forward(image)[:, 1:].float(), grid)

    def _estimate(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The displacement at every coarser level, coarsest first, and the finest one's velocity or displacement."""
        if not torch.jit.is_scripting():
            check_pair(image, self.spatial_dims)
        pair = padded(self.standardise(image), self.coarsest)
        batch = image.shape[0]
        features = channels_last(torch.cat([pair[:, 1:], pair[:, :1]]))
        pyramid: list[Tensor] = []
        images = features
        for stage in self.encoder:
            features = stage(features)
            images = pooled(images)
            pyramid.append(torch.cat([_locally_standardised(images), features], dim=1))
        coarser: list[Tensor] = []
        field = flow = known = features
        for look, estimator in enumerate(self.estimators):
            level = self.level_of[look]
            here = pyramid[len(pyramid) - 1 - level]
            other = torch.cat([here[batch:], here[:batch]])  # the counterpart of each: moving, fixed
            if not self.velocity:
                here, other = here[:batch], other[:batch]
            if look > 0:
                flow = field
                if self.velocity:  # moving onto fixed and fixed onto moving
                    flow = self.flow(torch.cat([field, -field]))
                if level > self.level_of[look - 1]:
                    coarser.append(flow[:batch])
                    field, flow = one_level_finer(field), one_level_finer(flow)
                other = warp(other, flow)
            known = estimator(here, other, known)
            left = estimator.regressor(known)
            if self.velocity:
                left = 0.5 * (left[:batch] - left[batch:])
            field = left if look == 0 else field + left
        return coarser, field


class _Estimator(nn.Module):
    """The two images at a level, each with its features, and the features of the estimator before, whose voxels are
    `scale` times as wide → this one's features."""

    def __init__(self, dims: int, features: int, before: int, kernels: int, scale: int) -> None:
        super().__init__()
        self.scale = float(scale)
        convolution = Conv[Conv.CONV, dims]
        self.compare = convolution(2 * features + dims, kernels, 3, padding=1)
        self.recall = convolution(before, kernels, 1) if before else None
        self.body = nn.Sequential(nn.LeakyReLU(0.2), convolution(kernels, kernels, 3, padding=1), nn.LeakyReLU(0.2))
        self.regressor = _regressor(dims, kernels)

    def forward(self, here: Tensor, other: Tensor, before: Tensor) -> Tensor:
        force = _demons_force(here[:, :1], other[:, :1])
        seen = self.compare(channels_last(torch.cat([here, other, force], dim=1)))
        if self.recall is not None:
            seen = seen + F.interpolate(self.recall(before), scale_factor=self.scale, mode="nearest")
        return self.body(seen)


def _locally_standardised(image: Tensor) -> Tensor:
    """Mean 0 and deviation 1 (less where the image is flat) in windows of 5 voxels a side."""
    mean = _windows_mean(image)
    variance = (_windows_mean(image * image) - mean * mean).clamp_min(0)
    return (image - mean) * (variance + 0.01).rsqrt()


def _windows_mean(image: Tensor) -> Tensor:
    """The mean of 5 voxels a side around each, the edge repeated."""
    for axis in range(2, image.dim()):
        size = image.shape[axis]
        image = F.pad(image, [0, 0] * (image.dim() - 1 - axis) + [2, 2] + [0, 0] * (axis - 2), mode="replicate")
        image = 0.2 * (
            image.narrow(axis, 0, size)
            + image.narrow(axis, 1, size)
            + image.narrow(axis, 2, size)
            + image.narrow(axis, 3, size)
            + image.narrow(axis, 4, size)
        )
    return image


def _demons_force(fixed: Tensor, warped: Tensor) -> Tensor:
    """Thirion's step: the difference along the gradient, normalised, (batch, dims, *spatial)."""
    difference = fixed - warped
    gradient = central_gradient(0.5 * (fixed + warped))
    return difference * gradient / (gradient.square().sum(1, keepdim=True) + difference.square() + 0.01)


def _convolution(dims: int, inputs: int, outputs: int) -> list[nn.Module]:
    convolution = Conv[Conv.CONV, dims](inputs, outputs, 3, padding=1, bias=False)
    return [convolution, Norm[Norm.BATCH, dims](outputs), nn.ReLU()]


def _deconvolution(dims: int, inputs: int, outputs: int) -> list[nn.Module]:
    deconvolution = Conv[Conv.CONVTRANS, dims](inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    return [deconvolution, Norm[Norm.BATCH, dims](outputs), nn.ReLU()]


def _block(dims: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Conv[Conv.CONV, dims](inputs, outputs, 3, stride=stride, padding=1),
        nn.LeakyReLU(0.2),
        Conv[Conv.CONV, dims](outputs, outputs, 3, padding=1),
        nn.LeakyReLU(0.2),
    )


def _regressor(dims: int, inputs: int) -> nn.Module:
    return zero_initialised(Conv[Conv.CONV, dims](inputs, dims, 3, padding=1))
