"""What registration networks share: how a pair of images goes in, and how a displacement comes out of a pyramid.

Convention: level 0 is the image's own resolution, level l has voxels 2**l times as large; a displacement or velocity
at a level is in voxels of that level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.geometry.sampling import warp


def check_pair(image: Tensor, dims: int) -> None:
    """That an image is (batch, 2, *spatial) with `dims` spatial axes."""
    if image.dim() != dims + 2 or image.shape[1] != 2:
        raise ValueError(
            f"image has shape {tuple(image.shape)}; this {dims}-D network wants (batch, 2, *spatial): moving and "
            f"fixed, one channel each, with {dims} spatial axes."
        )


def padded(image: Tensor, multiple: int) -> Tensor:
    """The image with its last voxels repeated until every side is a multiple of `multiple`."""
    padding: list[int] = []
    for size in image.shape[2:]:
        padding = [0, -size % multiple] + padding
    return F.pad(image, padding, mode="replicate")


def channels_last(features: Tensor) -> Tensor:
    """In the layout in which convolutions and pooling run 1.5 times faster, forward and backward."""
    if torch.jit.is_tracing():
        return features  # the tracing ONNX exporter knows no layouts
    if features.dim() == 4:
        return features.contiguous(memory_format=torch.channels_last)
    return features.contiguous(memory_format=torch.channels_last_3d)


def channels_last_weights(network: nn.Module) -> None:
    """Keeps a network in that layout, also after a convolution of a single channel, which has none to tell it by."""
    for parameter in network.parameters():
        if parameter.dim() in (4, 5):
            parameter.data = channels_last(parameter.data)


def resized(features: Tensor, factor: float) -> Tensor:
    """Interpolated linearly; the outer edges of the voxels stay where they are."""
    mode = "bilinear" if features.dim() == 4 else "trilinear"
    return F.interpolate(features, scale_factor=factor, mode=mode, align_corners=False)


def one_level_finer(field: Tensor) -> Tensor:
    """A displacement or velocity with twice as many voxels along each axis, half as large."""
    return 2 * resized(field, 2.0)


def pooled(image: Tensor) -> Tensor:
    """The image one level coarser."""
    return F.avg_pool2d(image, 2) if image.dim() == 4 else F.avg_pool3d(image, 2)


def carried(image: Tensor, displacement: Tensor) -> Tensor:
    """What a registration network returns, [warped | displacement], from its input and a displacement that may be
    larger than the image by some padding."""
    for axis in range(2, image.dim()):
        displacement = displacement.narrow(axis, 0, image.shape[axis])
    moving = image[:, :1]
    return torch.cat([warp(moving, displacement), displacement.to(moving.dtype)], dim=1)
