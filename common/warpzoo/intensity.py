"""Intensity normalisation that is part of a network, so that training, inference and deployment cannot differ in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import runs_eagerly
from warpzoo.geometry.sampling import precise


class Standardise(nn.Module):
    """Every channel of every image to zero mean and unit variance over its voxels; a constant one becomes 0.

    With `compress`, a number stored with the weights, the values go through asinh(compress · x) / compress, which keeps
    contrast around the mean and bends down the tails of bright outliers such as fat or vessels.
    """

    def __init__(self, compress: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("compress", torch.tensor(float(compress)))

    def forward(self, image: Tensor) -> Tensor:
        values = precise(image).flatten(2)
        centred = values - values.mean(2, keepdim=True)
        deviation = centred.square().mean(2, keepdim=True).sqrt()
        standard = centred / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        bends = True
        if not torch.jit.is_scripting():
            bends = not runs_eagerly() or bool(self.compress > 0)  # a graph cannot look: it holds both ways
        if bends:
            factor = torch.where(self.compress > 0, self.compress, torch.ones_like(self.compress))
            standard = torch.where(self.compress > 0, torch.asinh(standard * factor) / factor, standard)
        return standard.reshape(image.shape)
