"""Pixels that become channels: what a network has to compute at the finest scale, where a blurred image has little
detail, falls to a quarter."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def folded(image: Tensor, fold: int) -> Tensor:
    """Cells of fold × fold pixels in rows and columns → one, its pixels as channels; volumes slice by slice."""
    if image.dim() == 4:
        return F.pixel_unshuffle(image, fold)
    slices = image.transpose(1, 2)
    cells = F.pixel_unshuffle(slices.flatten(0, 1), fold)  # of five axes it cannot be exported
    return cells.reshape(list(slices.shape[:2]) + list(cells.shape[1:])).transpose(1, 2)


def unfolded(features: Tensor, fold: int) -> Tensor:
    """The inverse of `folded`, smoothed to avoid a pattern with the period of the cells."""
    margins = [fold - 1] * 4
    if features.dim() == 4:
        return _smoothed(F.pad(F.pixel_shuffle(features, fold), margins, mode="replicate"), fold)
    slices = features.transpose(1, 2)
    pixels = F.pixel_shuffle(slices.flatten(0, 1), fold)
    volume = pixels.reshape(list(slices.shape[:2]) + list(pixels.shape[1:])).transpose(1, 2)
    return _smoothed(F.pad(volume, margins + [0, 0], mode="replicate"), fold)


def _smoothed(image: Tensor, fold: int) -> Tensor:
    """The means of fold × fold pixels of the means of fold × fold pixels, by sums along rows and columns: pooling is
    slower."""
    for axis in (image.dim() - 2, image.dim() - 1):
        for _ in range(2):
            size = image.shape[axis] - fold + 1
            total = image.narrow(axis, 0, size)
            for shift in range(1, fold):
                total = total + image.narrow(axis, shift, size)
            image = total
    return image / fold**4
