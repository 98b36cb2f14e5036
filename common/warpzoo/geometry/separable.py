"""Linear maps of an image that act along one axis after the other: resizing, smoothing, splines on a grid."""

from __future__ import annotations

import torch
from torch import Tensor


def along_axes(image: Tensor, matrices: list[Tensor]) -> Tensor:
    """The image (batch, channels, *spatial) multiplied by one matrix (new, old) along each spatial axis."""
    for axis in range(len(matrices)):
        if axis == len(matrices) - 1:
            image = image @ matrices[axis].t()
        else:
            before, after = list(image.shape[: 2 + axis]), list(image.shape[3 + axis :])
            image = torch.matmul(matrices[axis], image.flatten(3 + axis)).reshape(before + [-1] + after)
    return image


def linear_weights(positions: Tensor, count: int) -> Tensor:
    """The weights (positions, count) of linear interpolation between `count` points; the outermost are repeated."""
    at = positions.clamp(0, count - 1)
    return (1 - (at[:, None] - torch.arange(count, dtype=at.dtype, device=at.device)).abs()).clamp_min(0)
