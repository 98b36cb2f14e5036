"""A second look at the noisy image, once a network has told what lies in it.

A blind-spot network learns to tell a pixel without looking at it; what the pixel itself knows is lost. A Wiener filter
brings it back: in every window it keeps of the noisy image's waves what the network's result holds of them, relative to
the noise. It is the last step of BM3D (Dabov et al. 2007) with the network in the place of the first, and without the
search for similar blocks.

Convention: noisy image and pilot are (batch, 1, *spatial), in the same units, whatever these are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 40
"""Parts of equal size, from dark to bright, that the noise's variance is measured in."""


class WienerFilter(nn.Module):
    """Keeps signal / (signal + noise) of every cosine wave in every window of `window` pixels a side.

    The pilot's squared coefficient is taken for the signal's power. The noise's variance is a straight line in the
    pilot, photons and read-out together, that `fit` finds; until then the pilot passes as it is. A window's mean is
    kept. A pixel becomes the mean over all windows it lies in, weighted by how little noise they leave. A pixel
    sees `reach` pixels far; beyond the edge the outermost ones go on. Volumes are filtered slice by slice.
    """

    def __init__(self, window: int = 8) -> None:
        super().__init__()
        if window < 2:
            raise ValueError(f"window is {window}; it wants 2 pixels or more.")
        self.reach = window - 1
        place = torch.arange(window)
        waves = torch.cos(math.pi / window * (place + 0.5) * place[:, None]) * math.sqrt(2 / window)
        waves[0] /= math.sqrt(2)
        self.waves: Tensor
        self.ones: Tensor
        self.noisy_waves: Tensor
        self.register_buffer("waves", torch.einsum("ai,bj->abij", waves, waves).flatten(0, 1)[:, None], False)
        self.register_buffer("ones", torch.ones(1, 1, window, window), False)
        self.register_buffer("noisy_waves", (torch.arange(window**2) > 0).float().view(1, -1, 1, 1), False)
        self.slope: Tensor
        self.offset: Tensor
        self.least: Tensor
        for name in ("slope", "offset", "least"):  # variance = slope · pilot + offset, and not below the least
            self.register_buffer(name, torch.zeros(()))

    def forward(self, noisy: Tensor, pilot: Tensor) -> Tensor:
        if noisy.dim() == 5:
            slices = [image.transpose(1, 2).flatten(0, 1) for image in (noisy, pilot)]
            filtered = self._planes(slices[0], slices[1])
            return filtered.view(noisy.shape[0], -1, 1, noisy.shape[3], noisy.shape[4]).transpose(1, 2)
        return self._planes(noisy, pilot)

    def _planes(self, noisy: Tensor, pilot: Tensor) -> Tensor:
        reach = self.reach
        noisy = F.pad(noisy, [reach, reach, reach, reach], mode="replicate")
        edged = F.pad(pilot, [reach, reach, reach, reach], mode="replicate")
        variance = (edged * self.slope + self.offset).maximum(self.least.clamp(min=1e-12))
        noise = F.avg_pool2d(variance, reach + 1, 1)
        signal = F.conv2d(edged, self.waves).square()
        share = (signal + 1e-12) / (signal + self.noisy_waves * noise + 1e-12)
        weight = 1 / (noise * share.square().sum(dim=1, keepdim=True))
        kept = F.conv2d(noisy, self.waves) * share * weight
        filtered = F.conv_transpose2d(kept, self.waves) / F.conv_transpose2d(weight, self.ones)
        return torch.where(self.least > 0, filtered[..., reach:-reach, reach:-reach], pilot)

    @torch.no_grad()
    def fit(self, noisy: Tensor, pilot: Tensor) -> None:
        """Measures the noise: the squared difference of image and pilot, from dark to bright."""
        level, order = pilot.flatten().double().sort()
        error = (noisy - pilot).flatten().double()[order].square()
        level, variance = (torch.stack([p.mean() for p in values.chunk(LEVELS)]).cpu() for values in (level, error))
        variance.clamp_(min=1e-9 * float(variance.max()))
        lines = torch.stack([level, torch.ones_like(level)], dim=1) / variance[:, None]
        slope, offset = torch.linalg.lstsq(lines, torch.ones_like(lines[:, :1]), driver="gelsd").solution[:, 0]
        for stored, value in ((self.slope, slope), (self.offset, offset), (self.least, 0.5 * variance.min())):
            stored.fill_(float(value))

    def extra_repr(self) -> str:
        return f"window={self.reach + 1}"
