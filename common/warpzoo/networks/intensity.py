"""Intensity normalisation as part of a network, so that training, inference and deployment cannot differ in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.geometry.sampling import precise


class Standardise(nn.Module):
    """Every channel of every image to zero mean and unit variance over its voxels; a constant one becomes 0."""

    def forward(self, image: Tensor) -> Tensor:
        mean, deviation = mean_and_deviation(image)
        return (precise(image) - mean) / deviation


def mean_and_deviation(image: Tensor) -> tuple[Tensor, Tensor]:
    """Of every channel of every image, (batch, channels, 1, 1[, 1]) each; the deviation of a constant one is 1."""
    values = precise(image).flatten(2)
    mean = values.mean(2, keepdim=True)
    deviation = (values - mean).square().mean(2, keepdim=True).sqrt()
    shape = list(image.shape[:2]) + [1] * (image.dim() - 2)
    return mean.reshape(shape), torch.where(deviation > 0, deviation, torch.ones_like(deviation)).reshape(shape)


def match_histogram(image: Tensor, reference: Tensor, knots: int = 64) -> Tensor:
    """The image with the histogram of the reference, each item and channel on its own: quantiles become those of the
    reference, and what lies between two of them is interpolated."""
    levels = torch.linspace(0, 1, knots, device=image.device, dtype=image.dtype)
    values, goals = image.flatten(2), reference.flatten(2).to(image.dtype)
    here = torch.quantile(values, levels, dim=2).movedim(0, 2)
    there = torch.quantile(goals, levels, dim=2).movedim(0, 2)
    above = torch.searchsorted(here.contiguous(), values.contiguous()).clamp(1, knots - 1)
    low, high = here.gather(2, above - 1), here.gather(2, above)
    part = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return torch.lerp(there.gather(2, above - 1), there.gather(2, above), part).reshape(image.shape)


class MinMax(nn.Module):
    """Every channel of every image from 0, its lowest value, to 1, its highest; a constant one becomes 0."""

    def forward(self, image: Tensor) -> Tensor:
        values = precise(image).flatten(2)
        lowest = values.amin(2, keepdim=True)
        extent = values.amax(2, keepdim=True) - lowest
        return ((values - lowest) / torch.where(extent > 0, extent, torch.ones_like(extent))).reshape(image.shape)
