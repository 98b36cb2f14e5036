"""Images brought to one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import Compose, ResizeWithPadOrCropd


class PadOrCrop(Compose):
    """A `transform` that brings image and label map to one size about their centre; beyond an image's edge the edge is
    repeated, beyond a label map's there is no label."""

    def __init__(self, size: Sequence[int]) -> None:
        self.size = tuple(size)
        image = ResizeWithPadOrCropd("image", size, mode="edge")
        super().__init__([image, ResizeWithPadOrCropd("label", size, allow_missing_keys=True)])


def pad_or_crop(size: Sequence[int] | None) -> PadOrCrop | None:
    """`PadOrCrop`, or nothing if images are to keep their sizes."""
    return None if size is None else PadOrCrop(size)


def size_of(transform: Any) -> tuple[int, ...] | None:
    """The size that a transform brings images to, as far as it says so."""
    inside = [transform, *getattr(transform, "transforms", ())]
    return next((one.size for one in inside if isinstance(one, PadOrCrop)), None)
