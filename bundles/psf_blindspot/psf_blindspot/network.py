"""Blind-spot U-Net with a point-spread function: a U-Net predicts the phantom z, whose blur is the denoised image s.

A Wiener filter with s as its pilot estimate then recovers what the noisy image itself contains.

Convention: the input is one noisy image (batch, 1, *spatial), the output the denoised one, in the same units. The
normalisation of the training data is part of the weights, and so are PSF, noise and what a hot pixel is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.denoising.hot_pixels import HotPixels
from warpzoo.denoising.psf import GaussianPSF
from warpzoo.denoising.wiener import WienerFilter
from warpzoo.networks import channels_last_weights, check_dims, folded, padded, unfolded, zero_initialised

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
POOLS = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class PSFBlindSpot(nn.Module):
    """Hot pixels replaced → U-Net → phantom z → PSF → s → Wiener filter of the noisy image with s as its pilot.

    No layer depends on an image's statistics, so a tile with a margin of `halo` pixels that begins at a multiple of
    `alignment` gives the same result as the whole image.

    Args:
        spatial_dims: 2 or 3.
        channels: of the first level, doubled at each further level.
        levels: number of resolutions of the U-Net, each half of the previous one.
        fold: pixels a side, in rows and columns, that become channels of one cell at the finest level: a blurred image
            has little detail at the finest scale, and the cost falls to a quarter. 1 for a plain U-Net.
        blurs: standard deviations, in pixels, of Gaussians (0: the image itself); the phantom is a mixture of the
            blurred images, with weights at every pixel that the U-Net predicts, plus its other output. An untrained
            network is then a Gaussian filter; empty for a plain U-Net.
        psf: blurs the phantom; a module that preserves shapes (default: none, plain Noise2Void).
        window: side, in pixels, of the Wiener filter's windows; 0 for no filter, so that s is the result.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        channels: int = 24,
        levels: int = 3,
        fold: int = 2,
        blurs: Sequence[float] = (0, 1, 2, 4),
        psf: nn.Module | None = None,
        window: int = 8,
    ) -> None:
        super().__init__()
        check_dims(spatial_dims)
        if min(channels, levels, fold) < 1:
            raise ValueError(f"channels, levels and fold must be 1 or more, got {channels}, {levels} and {fold}.")
        kernel = getattr(psf, "kernel", None)
        if kernel is not None and kernel.dim() != spatial_dims + 2:
            raise ValueError(f"psf must have the network's {spatial_dims} axes, got {kernel.dim() - 2}.")
        widths = [channels * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            [_block(spatial_dims, *pair) for pair in zip([fold**2, *widths[:-1]], widths, strict=True)]
        )
        self.up = nn.ModuleList(
            [
                _block(spatial_dims, below + width, width)
                for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
            ]
        )
        self.pool = POOLS[spatial_dims](2)
        self.blurs = nn.ModuleList([GaussianPSF(spatial_dims, side) if side else nn.Identity() for side in blurs])
        self.fold = fold
        self.last = CONVOLUTIONS[spatial_dims](channels, (1 + len(blurs)) * fold**2, 1)
        self.hot = HotPixels()
        self.psf = nn.Identity() if psf is None else psf
        self.wiener = WienerFilter(window) if window else None
        if blurs:
            zero_initialised(self.last)  # an untrained network is the plain mean of the blurred images
        self.alignment = fold * 2 ** (levels - 1)
        # two 3-convolutions before and after on every level, one step of pooling or nearest neighbours between levels
        sight = sum(4 * 2**level + 2**level for level in range(levels - 1)) + 2 * 2 ** (levels - 1)
        blurred = max([getattr(blur, "reach", 0) for blur in self.blurs], default=0)
        self.halo = max(fold * sight + 2 * (fold - 1), blurred) + getattr(self.psf, "reach", 0) + self.hot.reach
        if self.wiener is not None:
            self.halo += self.wiener.reach
        channels_last_weights(self)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("background", torch.zeros(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 1, *spatial) → the denoised image of the same shape, in the same units."""
        if not torch.jit.is_scripting():
            self._check(image)
        noisy = self.normalise(self.hot(image))
        denoised = self.psf(self.phantom(noisy))
        if self.wiener is not None:
            denoised = self.wiener(noisy, denoised)
        return self.restore(denoised)

    def normalise(self, image: Tensor) -> Tensor:
        return (image.to(self.mean.dtype) - self.mean) / self.deviation

    def restore(self, normalised: Tensor) -> Tensor:
        return normalised * self.deviation + (self.mean + self.shift)

    def phantom(self, image: Tensor) -> Tensor:
        """The phantom of a normalised image, normalised; of any size, padded at its far ends for the pooling."""
        features = folded(padded(image, self.alignment), self.fold)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level > 0:
                features = self.pool(features)
            features = block(features)
            skips.append(features)
        skips.pop()
        for block in self.up:
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(torch.cat([features, skips.pop()], dim=1))
        outputs = unfolded(self.last(features), self.fold)
        for axis, size in enumerate(image.shape[2:]):
            outputs = outputs.narrow(axis + 2, 0, size)
        phantom = outputs[:, :1]
        blurred: list[Tensor] = []
        for blur in self.blurs:
            blurred.append(blur(image))
        if len(blurred) > 0:
            phantom = phantom + (outputs[:, 1:].softmax(dim=1) * torch.cat(blurred, dim=1)).sum(dim=1, keepdim=True)
        return phantom

    def _check(self, image: Tensor) -> None:
        dims = self.last.weight.dim() - 2
        if image.dim() != dims + 2 or image.shape[1] != 1:
            raise ValueError(
                f"image must be (batch, 1, *spatial) with {dims} spatial axes for this {dims}-D network, got shape "
                f"{tuple(image.shape)}."
            )


def _block(dims: int, inputs: int, outputs: int) -> nn.Sequential:
    convolution = CONVOLUTIONS[dims]
    return nn.Sequential(
        convolution(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        convolution(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )
