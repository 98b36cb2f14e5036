"""Frames as methods see them: as they are, denoised by a network of the chain, or smoothed; kept as long as they are
likely to be looked at again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from warpzoo.images.image import Image
from warpzoo.images.series import Series
from warpzoo.registration.alignment import Levels
from warpzoo.registration.pair import Method

SMOOTHING = 1.0
"""Voxels, the standard deviation with which frames are smoothed for matrices alone to be found: noise that is on the
voxels of both images, or of a mean and its frames, would draw them onto or off each other's voxels, as interpolation
smooths it between them (SPM and MCFLIRT smooth for the same reason)."""
SMOOTHED = ("rigid", "affine", "align")
"""The methods that it is done for."""
KEPT, KEPT_VOXELS = 6, 2**23
"""Frames that are kept as they were cleaned, which takes long: so many at least, and as many as have so many voxels
together."""


@dataclass(frozen=True)
class Seen:
    """An image as it is, and as methods see it that come after a network which denoises."""

    raw: Image
    clean: Image

    @cached_property
    def levels(self) -> Levels:
        """Of the clean image."""
        return Levels(self.clean.array)


class Cleaning:
    """What the methods of a chain are given of images.

    raw: how many of the methods are given images as they are, the first ones.
    """

    def __init__(self, series: Series, methods: Sequence[Method]) -> None:
        self.series, self.raw = series, 0
        self.clean: Callable[[Image], Image] | None = None
        self.kept: OrderedDict[int, Seen] = OrderedDict()
        for number, method in enumerate(methods, 1):
            if getattr(method, "denoises", False):
                self.raw, self.clean = number, method.denoised  # type: ignore[attr-defined]
        if self.clean is None and all(method.name in SMOOTHED for method in methods):
            self.clean = smoothed

    @property
    def denoises(self) -> bool:
        return self.raw > 0

    def __call__(self, image: Image) -> Seen:
        return Seen(image, image if self.clean is None else self.clean(image))

    def frame(self, number: int) -> Seen:
        if number not in self.kept:
            seen = self.kept[number] = self(self.series[number])
            if len(self.kept) > max(KEPT, KEPT_VOXELS // seen.raw.array.numel()):
                self.kept.popitem(last=False)
        self.kept.move_to_end(number)
        return self.kept[number]


def smoothed(image: Image) -> Image:
    from scipy.ndimage import gaussian_filter  # slow to import

    smooth = gaussian_filter(image.array.numpy(), [0.0, *[SMOOTHING] * image.grid.dims], mode="nearest")
    return replace(image, array=torch.from_numpy(smooth))
