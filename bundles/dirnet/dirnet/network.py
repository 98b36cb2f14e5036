"""DIRNet: a ConvNet predicts, from corresponding patches of a moving and a fixed image, the control points of a spline
that warps the moving image onto the fixed one.

Convention: the input is moving and fixed concatenated as channels, the output is [warped | displacement] concatenated
as channels, the displacement in voxels. Control points are `spacing` voxels apart for any image size.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from warpzoo.geometry.bspline import BSplineField
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.thin_plate_spline import ThinPlateField, control_grid
from warpzoo.geometry.transforms import BSpline, ThinPlateSpline, Transform
from warpzoo.networks import (
    Standardise,
    central_gradient,
    channels_last,
    channels_last_weights,
    check_dims,
    check_pair,
    padded,
    tag_architecture,
    warp_and_concatenate,
    zero_initialised,
)

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMALISATIONS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS = {("average", 2): nn.AvgPool2d, ("average", 3): nn.AvgPool3d, ("max", 2): nn.MaxPool2d, ("max", 3): nn.MaxPool3d}

ACTIVATIONS = {"elu": partial(nn.ELU, inplace=True), "leaky_relu": partial(nn.LeakyReLU, 0.3, inplace=True)}


class DIRNet(nn.Module):
    """The network of de Vos et al. (2017) with the variants of its table.

    Args:
        spatial_dims: 2 or 3.
        channels: kernels per convolution; one number for all, or one for each of the `convolutions`.
        spacing: voxels between control points, a power of two; one downsampling for each factor of two.
        convolutions: number of 3-convolutions of the regressor; those beyond the downsamplings follow the last one.
        downsampling: "average" (the paper's), "max" (A1) or "stride" (A2: strided convolutions).
        transformer: "cubic" (the paper's), "quadratic" (B1) or "thin_plate" (B2).
        view: the receptive field of a control point. "patch" is the paper's baseline, "overlapping" (C1) adds a
            3-convolution before and after the last downsampling, "image" (C2) has fully connected layers over the
            whole image.
        image_size: the size of the images, for view "image" only.
        hidden: width of the fully connected layers of view "image".
        activation: "elu" (the paper's) or "leaky_relu" (0.3 below zero), which is faster.
        refinement_steps: how often the control points are corrected, each time from the moving image as warped so far
            and the fixed one (0 in the paper).
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        channels: int | list[int] = 16,
        spacing: int = 16,
        convolutions: int = 4,
        downsampling: str = "average",
        transformer: str = "cubic",
        view: str = "patch",
        image_size: list[int] | None = None,
        hidden: int = 1024,
        activation: str = "elu",
        refinement_steps: int = 0,
    ) -> None:
        super().__init__()
        check_dims(spatial_dims)
        for name, value, allowed in (
            ("downsampling", downsampling, ("average", "max", "stride")),
            ("transformer", transformer, ("cubic", "quadratic", "thin_plate")),
            ("view", view, ("patch", "overlapping", "image")),
            ("activation", activation, tuple(ACTIVATIONS)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")
        if not isinstance(spacing, int) or spacing < 2 or spacing & (spacing - 1):
            raise ValueError(f"spacing must be a power of two, 2 or more, got {spacing!r}.")
        levels = spacing.bit_length() - 1
        if convolutions < levels:
            raise ValueError(f"convolutions must be {levels} or more for spacing {spacing}, got {convolutions}.")
        if (view == "image") != (image_size is not None):
            raise ValueError(f"image_size must be given for view 'image' alone, got {image_size} with view {view!r}.")
        if not isinstance(refinement_steps, int) or refinement_steps < 0:
            raise ValueError(f"refinement_steps must be a whole number, 0 or more, got {refinement_steps!r}.")
        self.spacing = spacing
        self.image_size = image_size
        self.standardise = Standardise()

        widths = [channels] * convolutions if isinstance(channels, int) else list(channels)
        if len(widths) != convolutions:
            raise ValueError(
                f"channels must be one number, or {convolutions} for as many convolutions, got {channels}."
            )

        layers: list[nn.Module] = []
        width = 2
        for index in range(convolutions):
            if view == "overlapping" and index == levels - 1:
                layers += _convolution(spatial_dims, width, widths[index], 3, activation)
                width = widths[index]
            strided = index < levels and downsampling == "stride"
            layers += _convolution(spatial_dims, width, widths[index], 3, activation, stride=2 if strided else 1)
            width = widths[index]
            if index < levels and not strided:
                layers.append(POOLS[downsampling, spatial_dims](2))
            if view == "overlapping" and index == levels - 1:
                layers += _convolution(spatial_dims, width, width, 3, activation)
        if image_size is None:
            for _ in range(2):
                layers += _convolution(spatial_dims, width, width, 1, activation)
            layers.append(zero_initialised(CONVOLUTIONS[spatial_dims](width, spatial_dims, 1)))
        else:
            layers += _whole_image_layers(
                spatial_dims, width, hidden, [-(-size // spacing) for size in image_size], activation
            )
        self.regressor = nn.Sequential(*layers)
        self.transformer = (
            ThinPlateField(spacing, spatial_dims)
            if transformer == "thin_plate"
            else BSplineField(spacing, order={"quadratic": 2, "cubic": 3}[transformer], spatial_dims=spatial_dims)
        )
        steps = [_RefinementStep(spatial_dims, spacing, width, activation) for _ in range(refinement_steps)]
        self.looks = nn.ModuleList(steps)  # the name in the weights' files
        tag_architecture(self, downsampling, transformer, activation)
        channels_last_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        return warp_and_concatenate(image, self.transformer(self._control_points(image), image))

    def transform(self, image: Tensor, grid: Grid) -> Transform:
        """What `forward` warps by: the spline with its control points."""
        control, spacing = self._control_points(image), self.transformer.spacing
        if isinstance(self.transformer, BSplineField):
            return BSpline(control, grid, spacing, self.transformer.order)
        places = control_grid(list(control.shape[2:]), spacing, control.device).to(control.dtype)
        return ThinPlateSpline(places[None], control.flatten(2).transpose(1, 2), grid)

    def _control_points(self, image: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            self._check(image)
        pair = padded(self.standardise(image), self.spacing)
        control = self.regressor(channels_last(pair))
        for step in self.looks:
            warped = warp(pair[:, :1], self.transformer(control.detach(), pair))
            control = control + step(warped, pair[:, 1:], control)
        return control

    def _check(self, image: Tensor) -> None:
        check_pair(image, len(self.transformer.spacing))
        if self.image_size is not None and list(image.shape[2:]) != list(self.image_size):
            raise ValueError(
                f"image must have size {tuple(self.image_size)} for this network, got {tuple(image.shape[2:])}."
            )


class _RefinementStep(nn.Module):
    """The moving image as warped so far, the fixed one and the control points → a correction of the control points.

    Its input are means over cells of half the control points' spacing: of both images and of the terms of a step of
    Lucas and Kanade, the products of the difference and the gradient with themselves and with each other.
    """

    def __init__(self, dims: int, spacing: int, width: int, activation: str) -> None:
        super().__init__()
        terms, half = 2 + (dims + 1) * (dims + 2) // 2, max(1, width // 2)
        self.cells = POOLS["average", dims](spacing // 2)
        self.norm = NORMALISATIONS[dims](terms)
        self.near = nn.Sequential(*_convolution(dims, terms, half, 3, activation), POOLS["average", dims](2))
        self.around = nn.Sequential(
            *_convolution(dims, half + dims, width, 3, activation),
            *_convolution(dims, width, width, 3, activation),
            zero_initialised(CONVOLUTIONS[dims](width, dims, 1)),
        )

    def forward(self, warped: Tensor, fixed: Tensor, control: Tensor) -> Tensor:
        factors = torch.cat([fixed - warped, central_gradient(warped)], dim=1)
        terms = [self.cells(warped), self.cells(fixed)]
        for index in range(factors.shape[1]):
            terms.append(self.cells(factors[:, index : index + 1] * factors[:, index:]))
        seen = self.near(channels_last(self.norm(torch.cat(terms, dim=1))))
        return self.around(torch.cat([seen, control], dim=1))


def _convolution(
    dims: int, inputs: int, outputs: int, kernel: int, activation: str, stride: int = 1
) -> list[nn.Module]:
    return [
        CONVOLUTIONS[dims](inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        NORMALISATIONS[dims](outputs),
        ACTIVATIONS[activation](),
    ]


def _whole_image_layers(dims: int, channels: int, hidden: int, control: list[int], activation: str) -> list[nn.Module]:
    """One more 3-convolution and downsampling, two hidden layers, and all control points at once."""
    features, outputs = channels, dims
    for size in control:
        features, outputs = features * (size // 2), outputs * size
    pool = POOLS["average", dims]
    layers: list[nn.Module] = [*_convolution(dims, channels, channels, 3, activation), pool(2), nn.Flatten()]
    for inputs in (features, hidden):
        layers += [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), ACTIVATIONS[activation]()]
    return [*layers, zero_initialised(nn.Linear(hidden, outputs)), nn.Unflatten(1, [dims, *control])]
