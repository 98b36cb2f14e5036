"""Images resampled on the grid of another one, as they are written.

Convention: a transform takes points of the target's world to the image's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from warpzoo.geometry.transforms import Transform, resample
from warpzoo.images.image import Image

INTERPOLATIONS = ("linear", "cubic", "nearest")


@dataclass(frozen=True)
class Resampling:
    """How images are interpolated, and what lies beyond their edges; label maps (whole numbers) are always taken from
    the nearest voxel.

    interpolation: "linear", "cubic" (B-spline, as in ITK) or "nearest".
    outside: the value beyond the edge; None for an image's least value and a label map's 0.

    Example:
        >>> on_fixed = Resampling("cubic")(moving, transform, fixed)
    """

    interpolation: str = "linear"
    outside: float | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}.")
        if self.outside is not None and isinstance(self.outside, str):
            raise ValueError(f"outside must be a number, got {self.outside!r}.")

    def check(self, dtype: np.dtype) -> None:
        """That images of a type can have the value beyond the edge."""
        if self.outside is not None and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if not limits.min <= self.outside <= limits.max:
                raise ValueError(
                    f"outside must be in [{limits.min}, {limits.max}], the values that {dtype.name} of the images can "
                    f"have, got {self.outside:g}."
                )

    def __call__(self, image: Image, transform: Transform, target: Image) -> Image:
        """The image on the target's grid."""
        labels = not image.array.is_floating_point()
        mode, least = ("nearest", 0.0) if labels else (self.interpolation, float(image.array.min()))
        value = least if self.outside is None else float(self.outside)
        with torch.no_grad():
            array = resample(image.array[None], image.grid, transform, target.grid, mode=mode, value=value)[0]
        return image.on(target, array)
