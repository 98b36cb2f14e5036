"""Parts of a volume that are worked on one at a time: enough to keep the cores busy, few enough for their caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch

CHUNK_VOXELS = {"cpu": 2**18}
CHUNK_VOXELS_ELSEWHERE = 2**25


def chunk_voxels(device: torch.device) -> int:
    return CHUNK_VOXELS.get(device.type, CHUNK_VOXELS_ELSEWHERE)


def slabs(shape: Sequence[int], device: torch.device) -> Iterator[tuple[int, int]]:
    """The first and the last plane (exclusive) of each of the slabs along the first axis."""
    depth = max(1, chunk_voxels(device) // prod(shape[1:]))
    for first in range(0, shape[0], depth):
        yield first, min(first + depth, shape[0])
