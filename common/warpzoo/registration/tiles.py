"""A level that is too large to be worked on whole, in tiles that overlap.

Each tile is worked on by itself. Its answer counts in full where no neighbour reaches, and fades out as the neighbour's
fades in, in the middle of what they share: near its edge it has not seen what comes next.

Convention: regions and positions are in voxels of the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from math import ceil, prod
from typing import NamedTuple

import torch
from torch import Tensor

MARGIN = 16
"""Voxels that a tile reaches into each neighbour,"""
UNSURE = 4
"""and those of them, from its edge, where its answer does not count."""

Region = tuple[slice, ...]


def of_region(values: Tensor, region: Region) -> Tensor:
    """What of (batch, channels, *spatial) lies in a region."""
    return values[(slice(None), slice(None), *region)]


class Tile(NamedTuple):
    """What is worked on, and its own part of that, from and to along each axis: half of what tiles share."""

    region: Region
    own: tuple[tuple[float, float], ...]

    def share(self, positions: Sequence[Tensor]) -> Tensor:
        """How much its answer counts at positions along each axis, (*positions): with all others', 1 everywhere."""
        total, fading = torch.ones(()), MARGIN - UNSURE
        for axis, (at, (start, end)) in enumerate(zip(positions, self.own, strict=True)):
            rising, falling = (at - start + fading) / (2 * fading), (end + fading - at) / (2 * fading)
            share = torch.minimum(rising, falling).clamp(0, 1).float()
            total = total * share.view(-1, *[1] * (len(positions) - 1 - axis))
        return total


def plan_tiles(shape: Sequence[int], most: int) -> list[Tile]:
    """Tiles of at most `most` voxels, about as long as wide, that cover a level; one if it has no more itself."""
    counts = [1] * len(shape)
    while prod(_sides(shape, counts)) > most:
        longest = max(range(len(shape)), key=lambda axis: shape[axis] / counts[axis])
        if shape[longest] // counts[longest] <= 4 * MARGIN:
            break  # more would share all that they see
        counts[longest] += 1
    along = [_along(size, count) for size, count in zip(shape, counts, strict=True)]
    return [Tile(tuple(region for region, _ in parts), tuple(own for _, own in parts)) for parts in product(*along)]


def _sides(shape: Sequence[int], counts: Sequence[int]) -> list[int]:
    return [
        size if count == 1 else ceil(size / count) + (1 if count == 2 else 2) * MARGIN
        for size, count in zip(shape, counts, strict=True)
    ]


def _along(size: int, count: int) -> list[tuple[slice, tuple[float, float]]]:
    """The regions and own parts along one axis; the first and the last own all that is beyond the image's ends."""
    cuts = [round(size * number / count) for number in range(count + 1)]
    ends = [-float("inf"), *[cut - 0.5 for cut in cuts[1:-1]], float("inf")]
    regions = [slice(max(0, first - MARGIN), min(size, last + MARGIN)) for first, last in pairwise(cuts)]
    return list(zip(regions, pairwise(ends), strict=True))
