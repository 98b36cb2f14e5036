"""A Wiener filter of the noisy image with a network's result as the pilot estimate.

A blind-spot network predicts a pixel without seeing it; the information in the pixel itself is lost. The filter
recovers it: in every window it scales each cosine wave of the noisy image by the signal's share of its power, which is
estimated from the network's result. It is the second step of BM3D (Dabov et al. 2007) with the network as the first
step, and without the search for similar blocks.

Convention: noisy image and pilot are (batch, 1, *spatial), in the same units, whatever these are.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from scipy import fft
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 40
"""Number of equally large groups of pixels, from dark to bright, in which the noise's variance is measured."""
NOISELESS = 1e-4
"""Fraction of the largest variance below which a group counts as free of noise, such as a border added to the image."""


class WienerFilter(nn.Module):
    """Multiplies every cosine wave in every window of `window` pixels a side by signal / (signal + noise).

    The pilot's squared coefficient estimates the signal's power. The noise's variance (photon and read-out noise) is a
    linear function of the pilot that `fit` estimates. A window's mean is kept. A pixel is the mean over all windows
    that contain it, weighted by the inverse of their remaining noise. The result is `share` times this and the rest the
    pilot: with much more noise than image, the pilot alone may be better. Before `fit` and `choose_share` are called
    the pilot is returned unchanged.

    A pixel depends on others up to `reach` pixels away; beyond the edge the outermost pixels are repeated. Volumes are
    filtered slice by slice.
    """

    def __init__(self, window: int = 8) -> None:
        super().__init__()
        if window < 2:
            raise ValueError(f"window must be 2 pixels or more, got {window}.")
        self.reach = window - 1
        waves = torch.from_numpy(fft.dct(np.eye(window), norm="ortho", axis=0)).float()
        self.waves: Tensor
        self.ones: Tensor
        self.noisy_waves: Tensor
        self.register_buffer("waves", waves[:, None, :, None], False)
        self.register_buffer("ones", torch.ones(1, 1, window, window), False)
        self.register_buffer("noisy_waves", (torch.arange(window**2) > 0).float().view(1, -1, 1, 1), False)
        self.slope: Tensor
        self.offset: Tensor
        self.least: Tensor
        self.share: Tensor
        for name in ("slope", "offset", "least", "share"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, noisy: Tensor, pilot: Tensor) -> Tensor:
        return pilot + self.share * (self.filtered(noisy, pilot) - pilot)

    def filtered(self, noisy: Tensor, pilot: Tensor) -> Tensor:
        """The result of the filter alone, which `forward` blends with the pilot."""
        if noisy.dim() == 4:
            return self._planes(noisy, pilot)
        if torch.jit.is_tracing():  # a graph for any number of slices
            planes = [image.transpose(1, 2).flatten(0, 1) for image in (noisy, pilot)]
            result = self._planes(planes[0], planes[1])
            return result.view(noisy.shape[0], -1, 1, noisy.shape[3], noisy.shape[4]).transpose(1, 2)
        slices: list[Tensor] = []
        for index in range(noisy.shape[2]):
            slices.append(self._planes(noisy[:, :, index], pilot[:, :, index]))
        return torch.stack(slices, dim=2)

    def variance(self, pilot: Tensor) -> Tensor:
        """The variance of the noise at every pixel."""
        return (pilot * self.slope + self.offset).maximum(self.least.clamp(min=1e-12))

    def _planes(self, noisy: Tensor, pilot: Tensor) -> Tensor:
        reach = self.reach
        noisy = F.pad(noisy, [reach, reach, reach, reach], mode="replicate")
        pilot = F.pad(pilot, [reach, reach, reach, reach], mode="replicate")
        noise = F.avg_pool2d(self.variance(pilot), reach + 1, 1)
        signal = self._analysed(pilot).square_().add_(1e-12)
        gain = signal.div_(torch.addcmul(signal, self.noisy_waves, noise))
        weight = 1 / (noise * gain.square().sum(dim=1, keepdim=True))
        kept = self._analysed(noisy).mul_(gain).mul_(weight)
        result = self._composed(kept) / F.conv_transpose2d(weight, self.ones)
        return result[..., reach:-reach, reach:-reach]

    def _analysed(self, image: Tensor) -> Tensor:
        """(batch, 1, rows, columns) → the waves in every window, (batch, window · window, …): down, then across."""
        down = F.conv2d(image, self.waves).flatten(0, 1)[:, None]
        return F.conv2d(down, self.waves.transpose(2, 3)).view(
            image.shape[0], -1, down.shape[2], down.shape[3] - self.reach
        )

    def _composed(self, waves: Tensor) -> Tensor:
        """The transpose of `_analysed`: the sum of all windows at their positions."""
        across = waves.view(-1, self.reach + 1, waves.shape[2], waves.shape[3])
        down = F.conv_transpose2d(across, self.waves.transpose(2, 3))
        return F.conv_transpose2d(down.view(waves.shape[0], -1, down.shape[2], down.shape[3]), self.waves)

    @torch.no_grad()
    def fit(self, noisy: Tensor, pilot: Tensor) -> None:
        """Estimates the noise from the squared difference of image and pilot, as a function of brightness."""
        level, order = pilot.flatten().double().sort()
        error = (noisy - pilot).flatten().double()[order].square()
        level, variance = (torch.stack([p.mean() for p in values.chunk(LEVELS)]).cpu() for values in (level, error))
        noise = variance > NOISELESS * variance.max()
        level, variance = level[noise], variance[noise]
        if not len(variance):
            return
        lines = torch.stack([level, torch.ones_like(level)], dim=1) / variance[:, None]
        slope, offset = torch.linalg.lstsq(lines, torch.ones_like(lines[:, :1]), driver="gelsd").solution[:, 0]
        for stored, value in ((self.slope, slope), (self.offset, offset), (self.least, 0.5 * variance.min())):
            stored.fill_(float(value))

    @torch.no_grad()
    def choose_share(self, samples: Iterable[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]) -> None:
        """Sets `share` in [0, 1] to the one with the least mean squared error by Stein's unbiased risk estimate (SURE).

        The estimate needs the divergence of each result with respect to the noise: `probe` is a random ±1 for every
        pixel, and the two changes are those of the filter's result and of the pilot, per unit, when the probe is added
        to the noisy image (Ramani et al. 2008).

        Args:
            samples: (noisy, pilot, filtered, probe · change of filtered, probe · change of pilot) of parts of an image.
        """
        above = below = 0.0
        for noisy, pilot, filtered, filtered_follows, pilot_follows in samples:
            step = (filtered - pilot).double()
            follows = (filtered_follows - pilot_follows).double() * self.variance(pilot)
            above += float((step * (noisy - pilot)).sum() - follows.sum())
            below += float(step.square().sum())
        self.share.fill_(min(1.0, max(0.0, above / below)) if below > 0 else 0.0)

    def extra_repr(self) -> str:
        return f"window={self.reach + 1}"
