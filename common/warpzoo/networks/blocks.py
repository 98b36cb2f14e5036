"""What registration networks share: how a pair of images goes in, and how a displacement comes out of a pyramid.

Convention: level 0 is the image's own resolution, level l has voxels 2**l times as large; a displacement or velocity
at a level is in voxels of that level.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import fuse_conv_bn_eval

from warpzoo.checks import runs_eagerly
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


def made_with(network: nn.Module, *choices: str) -> None:
    """Names choices that leave no other trace in a network's weights, by an empty buffer: weights load only where they
    were made with the same ones."""
    network.register_buffer("_".join(["made_with", *choices]), torch.empty(0))


def fold_norms(network: nn.Module) -> nn.Module:
    """The same network, which from now on only predicts: each batch norm is made part of the convolution before it.

    That takes less time, and memory for the largest features once only.
    """
    network.eval()
    for layers in network.modules():
        if isinstance(layers, nn.Sequential):
            for index, (layer, following) in enumerate(pairwise(list(layers))):
                if isinstance(layer, _ConvNd) and isinstance(following, _BatchNorm):
                    layers[index] = fuse_conv_bn_eval(layer, following, layer.transposed)
                    layers[index + 1] = nn.Identity()
    return network


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


def slopes(image: Tensor) -> Tensor:
    """Central differences of a one-channel image along each axis, (batch, dims, *spatial); the edge is repeated."""
    extended = F.pad(image, [1, 1] * (image.dim() - 2), mode="replicate")
    differences: list[Tensor] = []
    for axis in range(2, image.dim()):
        line = extended
        for other in range(2, image.dim()):
            if other != axis:
                line = line.narrow(other, 1, image.shape[other])
        differences.append(0.5 * (line.narrow(axis, 2, image.shape[axis]) - line.narrow(axis, 0, image.shape[axis])))
    return torch.cat(differences, dim=1)


def carried(image: Tensor, displacement: Tensor) -> Tensor:
    """What a registration network returns, [warped | displacement], from its input and a displacement that may be
    larger than the image by some padding."""
    fits = False
    if not torch.jit.is_scripting():
        fits = runs_eagerly() and displacement.shape[2:] == image.shape[2:]
    if not fits:  # on the way back, each cut writes a whole field of zeros
        for axis in range(2, image.dim()):
            displacement = displacement.narrow(axis, 0, image.shape[axis])
    moving = image[:, :1]
    return torch.cat([warp(moving, displacement), displacement.to(moving.dtype)], dim=1)
