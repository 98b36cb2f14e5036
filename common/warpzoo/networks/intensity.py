"""Intensity normalisation as part of a network, so that training, inference and deployment cannot differ in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.geometry.sampling import precise


class Standardise(nn.Module):
    """Every channel of every image to zero mean and unit variance over its voxels; a constant one becomes 0."""

    def forward(self, image: Tensor) -> Tensor:
        values = precise(image).flatten(2)
        centred = values - values.mean(2, keepdim=True)
        deviation = centred.square().mean(2, keepdim=True).sqrt()
        return (centred / torch.where(deviation > 0, deviation, torch.ones_like(deviation))).reshape(image.shape)


class MinMax(nn.Module):
    """Every channel of every image from 0, its lowest value, to 1, its highest; a constant one becomes 0."""

    def forward(self, image: Tensor) -> Tensor:
        values = precise(image).flatten(2)
        lowest = values.amin(2, keepdim=True)
        extent = values.amax(2, keepdim=True) - lowest
        return ((values - lowest) / torch.where(extent > 0, extent, torch.ones_like(extent))).reshape(image.shape)
