"""Linear maps of an image that act along one axis after the other: resizing, smoothing, splines on a grid."""

from __future__ import annotations

import torch
from torch import Tensor


def along_axis(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """The image (batch, channels, *spatial) multiplied by a matrix (new, old) along one spatial axis."""
    if axis == image.dim() - 3:
        return image @ matrix.t()
    before, after = list(image.shape[: 2 + axis]), list(image.shape[3 + axis :])
    return torch.matmul(matrix, image.flatten(3 + axis)).reshape(before + [-1] + after)


def along_axes(image: Tensor, matrices: list[Tensor]) -> Tensor:
    """The image (batch, channels, *spatial) multiplied by one matrix (new, old) along each spatial axis."""
    for axis in range(len(matrices)):
        image = along_axis(image, matrices[axis], axis)
    return image


def linear_weights(positions: Tensor, count: int) -> Tensor:
    """The weights (positions, count) of linear interpolation between `count` points; the outermost are repeated."""
    at = positions.clamp(0, count - 1)
    return (1 - (at[:, None] - torch.arange(count, dtype=at.dtype, device=at.device)).abs()).clamp_min(0)
