"""VoxelMorph: a U-Net looks at a moving and a fixed image and predicts a dense displacement or velocity.

Convention: the input is moving and fixed concatenated as channels, the output is [warped | displacement] concatenated
as channels, the displacement in voxels. The backbone is MONAI's, all geometry is `warpzoo.geometry`.
"""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets import VoxelMorphUNet
from torch import Tensor, nn

from warpzoo.geometry.sampling import warp
from warpzoo.geometry.velocity import VelocityField, compose
from warpzoo.networks.blocks import (
    carried,
    channels_last,
    channels_last_weights,
    check_pair,
    made_with,
    one_level_finer,
    padded,
)
from warpzoo.networks.intensity import Standardise

SQUARINGS = 5


class VoxelMorphDense(nn.Module):
    """The dense networks of Balakrishnan et al. (2019, displacement) and Dalca et al. (2019, velocity).

    With `velocity`, the network sees each pair both ways round and takes half the difference: the flow of v carries
    moving onto fixed, that of −v fixed onto moving.

    Args:
        spatial_dims: 2 or 3.
        channels: of the U-Net, in pairs of an encoder's and a decoder's level, as in MONAI's `VoxelMorphUNet`.
        features: kernels of the U-Net's last convolution, and of each of `convolutions` after it.
        convolutions: how many follow the U-Net.
        half_resolution: whether to predict at half the image's resolution, which costs an eighth in 3-D.
        velocity: whether to predict a velocity, whose flow is the displacement, or the displacement itself.
        passes: how often to register, each time what the passes before have made of the moving image.
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
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {spatial_dims!r}; it wants 2 or 3.")
        if len(channels) < 2 or len(channels) % 2:
            raise ValueError(f"channels is {channels}; it wants a pair of numbers, or several.")
        if passes < 1:
            raise ValueError(f"passes is {passes}; it wants 1 or more.")
        self.spatial_dims = spatial_dims
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
        last = [layer for layer in self.unet.modules() if isinstance(layer, convolution)][-1]
        nn.init.zeros_(last.weight)  # an untrained network predicts the identity
        nn.init.zeros_(last.bias)
        made_with(self, "velocity" if velocity else "displacement", f"{passes}_passes")
        channels_last_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        if not torch.jit.is_scripting():
            check_pair(image, self.spatial_dims)
        pair = padded(self.standardise(image), self.coarsest)
        displacement = self._displacement(pair)
        for _ in range(self.passes - 1):
            so_far = torch.cat([warp(pair[:, :1], displacement), pair[:, 1:]], dim=1)
            displacement = compose(self._displacement(so_far), displacement)
        return carried(image, displacement)

    def _displacement(self, pair: Tensor) -> Tensor:
        if self.velocity:
            field = self.unet(self.stem(channels_last(torch.cat([pair, pair.flip(1)]))))
            batch = pair.shape[0]
            field = self.flow(0.5 * (field[:batch] - field[batch:]))
        else:
            field = self.unet(self.stem(channels_last(pair)))
        return one_level_finer(field) if self.half_resolution else field
