"""How alike two images are: correlation (global and in windows), mutual information, mean squared error.

Functions take (fixed, warped), each (batch, channels, *spatial), and return one similarity per batch item (more is
more alike); the modules return the scalar to minimise. They compute in float32 at least, whatever the images' type.
A mask is (batch or 1, 1, *spatial): voxels above 0 count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_image, check_mask, check_same_shape

# An image, or a window of it, is flat when its standard deviation is below this many round-offs of its values:
# interpolating a constant background leaves about one.
FLAT_ROUND_OFFS = 8.0


def _check_pair(fixed: Tensor, warped: Tensor, mask: Tensor | None) -> int:
    dims = check_image("fixed", fixed)
    check_image("warped", warped)
    check_same_shape("fixed", fixed, "warped", warped)
    if mask is not None:
        check_mask("mask", mask, "fixed", fixed)
    return dims


def _working_dtype(fixed: Tensor, warped: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(fixed.dtype, warped.dtype), torch.float32)


def _mean(image: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the (masked) voxels of (batch, channels, voxels), the last axis kept."""
    if mask is None:
        return image.mean(dim=-1, keepdim=True)
    return (image * mask).sum(dim=-1, keepdim=True) / mask.sum(dim=-1, keepdim=True)


def _flatten(image: Tensor, mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return image.flatten(2).to(dtype), None if mask is None else (mask > 0).flatten(2).to(dtype)


def normalised_cross_correlation(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson's correlation over all (masked) voxels, (batch,), in [-1, 1].

    Channels are averaged; one that is constant in both images does not count, constant in one it counts as 0. Nothing
    but constant channels gives 0 with a zero gradient.
    """
    _check_pair(fixed, warped, mask)
    dtype = _working_dtype(fixed, warped)
    with torch.autocast(fixed.device.type, enabled=False):
        centred, spread, varies = [], [], []
        for image in (fixed, warped):
            values, weights = _flatten(image, mask, dtype)
            mean = _mean(values, weights)
            values = values - mean
            values = values - _mean(values, weights)  # what the rounding of a large mean left behind
            variance = _mean(values.square(), weights)
            flat = variance <= (FLAT_ROUND_OFFS * torch.finfo(dtype).eps * mean).square()
            centred.append(values)
            spread.append(variance.masked_fill(flat, 1.0).sqrt())
            varies.append(~flat)
        both, either = varies[0] & varies[1], varies[0] | varies[1]
        covariance = _mean(centred[0] * centred[1], weights)
        correlation = (covariance / spread[0] / spread[1]).masked_fill(~both, 0.0)
        return correlation.sum(dim=(1, 2)) / either.sum(dim=(1, 2)).clamp(min=1)


class MSELoss(nn.Module):
    """Mean squared difference over the (masked) voxels of each image, averaged over channels and batch."""

    def forward(self, fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
        _check_pair(fixed, warped, mask)
        dtype = _working_dtype(fixed, warped)
        with torch.autocast(fixed.device.type, enabled=False):
            difference, weights = _flatten(fixed.to(dtype) - warped.to(dtype), mask, dtype)
            return _mean(difference.square(), weights).mean()


class NCCLoss(nn.Module):
    """Minus the global normalised cross-correlation, averaged over the batch: -1 for images alike up to gain > 0."""

    def forward(self, fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
        return -normalised_cross_correlation(fixed, warped, mask).mean()
