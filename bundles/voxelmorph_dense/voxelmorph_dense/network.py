"""VoxelMorph: a U-Net predicts a dense displacement or velocity from a moving and a fixed image.

Convention: the input is moving and fixed concatenated as channels, the output is [warped | displacement] concatenated
as channels, the displacement in voxels. The backbone is MONAI's, all geometry is `warpzoo.geometry`.
"""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets import VoxelMorphUNet
from torch import Tensor, nn

from warpzoo.checks import check_truth
from warpzoo.geometry.composition import composed
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.transforms import DisplacementField, Transform
from warpzoo.geometry.velocity import VelocityField, compose
from warpzoo.networks import (
    Standardise,
    channels_last,
    channels_last_weights,
    check_dims,
    check_pair,
    one_level_finer,
    padded,
    tag_architecture,
    velocity_on,
    warp_and_concatenate,
    zero_initialised,
)

SQUARINGS = 5


class VoxelMorphDense(nn.Module):
    """The dense networks of Balakrishnan et al. (2019, displacement) and Dalca et al. (2019, velocity).

    With `velocity`, the network is applied to each pair in both orders, and v is half the difference: the flow of v
    warps moving onto fixed, that of −v fixed onto moving.

    Args:
        spatial_dims: 2 or 3.
        channels: of the U-Net, in pairs of an encoder's and a decoder's level, as in MONAI's `VoxelMorphUNet`.
        features: kernels of the U-Net's last convolution, and of each of `convolutions` after it.
        convolutions: number of convolutions after the U-Net.
        half_resolution: whether to predict at half the image's resolution, which costs an eighth in 3-D.
        velocity: whether to predict a velocity, whose flow is the displacement, or the displacement itself.
        passes: number of registrations, each of the moving image as warped by the previous ones.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: list[int] | tuple[int, ...] = (16, 32, 64, 64),
        features: int = 16,
        convolutions: int = 1,
        half_resolution: bool = True,
        velocity: bool = True,
        passes: int = 1,
    ) -> None:
        super().__init__()
        half_resolution = check_truth("half_resolution", half_resolution)
        velocity = check_truth("velocity", velocity)
        if len(channels) < 2 or len(channels) % 2:
            raise ValueError(f"channels must be one or more pairs of numbers, got {channels}.")
        if passes < 1:
            raise ValueError(f"passes must be 1 or more, got {passes}.")
        self.spatial_dims = check_dims(spatial_dims)
        self.half_resolution = half_resolution
        self.velocity = velocity
        self.passes = passes
        self.coarsest = 2 ** (len(channels) // 2 + int(half_resolution))
        self.standardise = Standardise()
        convolution = Conv[Conv.CONV, spatial_dims]
        width = 16 if half_resolution else 2
        self.stem = (
            nn.Sequential(convolution(2, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2))
            if half_resolution
            else nn.Identity()
        )
        self.unet = VoxelMorphUNet(spatial_dims, width, features, list(channels), [features] * convolutions)
        self.flow = VelocityField(SQUARINGS)
        zero_initialised([layer for layer in self.unet.modules() if isinstance(layer, convolution)][-1])
        tag_architecture(self, "velocity" if velocity else "displacement", f"{passes}_passes")
        channels_last_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        return warp_and_concatenate(image, self._register(image)[0])

    def transform(self, image: Tensor, grid: Grid) -> Transform:
        """What `forward` warps by: a velocity for each pass, or the displacement."""
        if not self.velocity:
            return DisplacementField(self.forward(image)[:, 1:].float(), grid)
        fields = self._register(image)[1]
        return composed(*[velocity_on(field, grid, self.coarsest, SQUARINGS) for field in fields])

    def _register(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The displacement on the padded image, and the velocity or displacement of each pass, the last pass first."""
        if not torch.jit.is_scripting():
            check_pair(image, self.spatial_dims)
        pair = padded(self.standardise(image), self.coarsest)
        fields = [self._field(pair)]
        displacement = self._displacement(fields[0])
        for _ in range(self.passes - 1):
            so_far = torch.cat([warp(pair[:, :1], displacement), pair[:, 1:]], dim=1)
            fields.insert(0, self._field(so_far))
            displacement = compose(self._displacement(fields[0]), displacement)
        return displacement, fields

    def _field(self, pair: Tensor) -> Tensor:
        if not self.velocity:
            return self.unet(self.stem(channels_last(pair)))
        field = self.unet(self.stem(channels_last(torch.cat([pair, pair.flip(1)]))))
        batch = pair.shape[0]
        return 0.5 * (field[:batch] - field[batch:])

    def _displacement(self, field: Tensor) -> Tensor:
        if self.velocity:
            field = self.flow(field)
        return one_level_finer(field) if self.half_resolution else field
