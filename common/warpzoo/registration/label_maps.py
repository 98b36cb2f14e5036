"""Label maps that are registered themselves, as images of several channels.

Convention: a label map is an `Image` of whole numbers, a mask one of 0 and 1; 0 is the background.
"""

from __future__ import annotations

import torch
from torch import Tensor

from warpzoo.images.image import Image

MOST_CHANNELS = 8


def are_labels(*images: Image) -> bool:
    return not any(image.array.is_floating_point() for image in images)


def as_channels(fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """Two label maps (1, *spatial) as images (channels, *spatial) of 0 and 1.

    Up to `MOST_CHANNELS` labels have a channel each. Of more, each channel is a digit of the labels' binary numbers:
    any two differ somewhere, and a hundred labels take seven channels.
    """
    present = torch.cat([fixed.unique(), moving.unique()]).unique()
    present = present[present != 0]
    digits = len(present).bit_length()

    def coded(labels: Tensor) -> Tensor:
        number = (torch.searchsorted(present, labels) + 1).masked_fill(labels == 0, 0)
        if len(present) <= MOST_CHANNELS:
            parts = [number == one for one in range(1, len(present) + 1)]
        else:
            parts = [(number >> digit) % 2 == 1 for digit in range(digits)]
        return torch.cat(parts).float()

    return coded(fixed), coded(moving)
