"""Input and output of a registration network: moving and fixed as channels in, [warped | displacement] out."""

from __future__ import annotations

import torch
from torch import Tensor

from warpzoo.checks import runs_eagerly
from warpzoo.geometry.sampling import warp


def check_dims(spatial_dims: int) -> int:
    """Requires 2 or 3 spatial axes; returns their number."""
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}.")
    return spatial_dims


def check_pair(image: Tensor, dims: int) -> None:
    """Requires (batch, 2, *spatial) with `dims` spatial axes."""
    if image.dim() != dims + 2 or image.shape[1] != 2:
        raise ValueError(
            f"image must be (batch, 2, *spatial) with {dims} spatial axes for this {dims}-D network (moving and fixed, "
            f"one channel each), got shape {tuple(image.shape)}."
        )


def warp_and_concatenate(image: Tensor, displacement: Tensor) -> Tensor:
    """The output of a registration network, [warped | displacement], from its input and a displacement that may be
    larger than the image by some padding."""
    fits = False
    if not torch.jit.is_scripting():
        fits = runs_eagerly() and displacement.shape[2:] == image.shape[2:]
    if not fits:  # only where needed: in the backward pass each crop writes a whole field of zeros
        for axis in range(2, image.dim()):
            displacement = displacement.narrow(axis, 0, image.shape[axis])
    moving = image[:, :1]
    return torch.cat([warp(moving, displacement), displacement.to(moving.dtype)], dim=1)
