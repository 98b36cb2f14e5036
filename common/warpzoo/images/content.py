"""What an image shows: the range of its intensities and where it lies, whatever noise and outliers there are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SATURATED = 0.01
"""Share of voxels at the data type's maximum above which bright parts count as cut off."""
OUTLYING = 1000
"""How many times as far as the others reach a value lies from them that is an error."""
FEW_VALUES = 40
"""Different whole numbers, at most, in an image that is more likely a label map."""


def window(*images: Tensor, highest: float = 99.0) -> tuple[float, float]:
    """The intensities to show as black and white: 0.5th and `highest` percentile of all images together.

    Sparse images whose percentiles coincide get their whole range; values that are not finite do not count.
    """
    drawn = torch.cat([thinned(image, 500_000) for image in images])
    values = drawn[drawn.isfinite()].numpy()
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, highest))
    if high <= low:
        low, high = values.min(), values.max()
    return float(low), float(high if high > low else low + 1)


def centre_of(image: Tensor) -> list[int]:
    """The voxel at the centre of mass of what an image shows; the middle if it shows nothing.

    Mass is the windowed intensity where it is above a tenth: noise of the background would draw it to the middle.
    """
    step = max(1, round((image.numel() / 50_000) ** (1 / image.dim())))
    coarse = image.detach()[(slice(None, None, step),) * image.dim()].float().cpu()
    low, high = window(image)
    weights = ((coarse - low) / (high - low)).nan_to_num(0).clamp(0, 1)
    weights *= weights > 0.1
    centre = []
    for axis, size in enumerate(image.shape):
        along = weights.sum([other for other in range(image.dim()) if other != axis])
        positions = torch.arange(len(along)) * step
        mass = float(along.sum())
        centre.append(min(size - 1, round(float((along * positions).sum()) / mass)) if mass > 0 else size // 2)
    return centre


def thinned(image: Tensor, count: int) -> Tensor:
    """About `count` of the image's values, evenly drawn, as float32 on the CPU."""
    values = image.detach().flatten()
    return values[:: max(1, values.numel() // count)].float().cpu()


def outlying(image: Tensor) -> tuple[float, float] | None:
    """The largest value and that below which nearly all lie, if it is so far from them that the rest is nothing beside
    it."""
    values = thinned(image, 500_000).numpy()
    low, high = np.percentile(values, (0.1, 99.9))
    largest = float(image.max())
    return (largest, float(high)) if high > low and largest - high > OUTLYING * (high - low) else None


def finite(array: Tensor) -> Tensor:
    """With the least finite value in place of those that are not finite."""
    known = array.isfinite()
    return torch.where(known, array, array[known].min() if known.any() else array.new_zeros(()))


def whole_numbers(image: Tensor, dtype: np.dtype) -> int:
    """How many different values an image has that was stored in this type, or more than `FEW_VALUES` of them; 0 if
    it is none of whole numbers."""
    if dtype.kind not in "iub":
        return 0
    values = thinned(image, 500_000)
    some = len(values[:: max(1, len(values) // 1000)].unique())
    return some if some > FEW_VALUES else len(values.unique())
