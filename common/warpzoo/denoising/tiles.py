"""A large image in overlapping tiles: what a network or filter does to the whole image, in a tile's memory.

Each tile is read with a halo as wide as the method's sight, and only its core is kept. Windows never reach beyond the
image: at its edge a method sees the edge, as on the whole image. Tiles begin at multiples of `alignment`, where pooling
falls into the same cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from warpzoo.images.stacks import Stack, Window


class Tile(NamedTuple):
    """Which frame; what to read, what to keep of it, in the image's coordinates."""

    frame: int
    read: Window
    keep: Window

    def core(self, values: Any) -> Any:
        """What to keep of the result (..., *spatial) for what was read."""
        inner = tuple(
            slice(keep.start - read.start, keep.stop - read.start)
            for read, keep in zip(self.read, self.keep, strict=True)
        )
        return values[(..., *inner)]


def plan_tiles(
    shape: tuple[int, ...],
    tile: int,
    halo: int,
    alignment: int = 1,
    frames: Iterable[int] | None = None,
    window: Window | None = None,
) -> list[Tile]:
    """Tiles of about `tile` pixels a side without their halo, over every frame of (frames, *spatial).

    With `frames` or a `window`, those that show some of them: what is read of each is the same, and only what lies in
    the window is kept.
    """
    tile, halo = aligned(max(tile, 1), alignment), aligned(halo, alignment)
    sizes, window = shape[1:], window or tuple(slice(0, size) for size in shape[1:])
    ranges = [range(part.start // tile * tile, part.stop, tile) for part in window]
    return [
        Tile(
            frame,
            tuple(slice(max(0, a - halo), min(size, a + tile + halo)) for a, size in zip(cell, sizes, strict=True)),
            tuple(slice(max(a, part.start), min(a + tile, part.stop)) for a, part in zip(cell, window, strict=True)),
        )
        for frame in (range(shape[0]) if frames is None else frames)
        for cell in product(*ranges)
    ]


def aligned(length: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-length // alignment) * alignment


class Tiles(Dataset):
    """The tiles of a stack as items {"image": (1, *tile), "index": …}; `tiles[index]` says where the tile lies.

    `data` is the stack, under the name that MONAI gives a dataset's source.
    """

    def __init__(self, data: Stack, halo: int, alignment: int = 1, size: int = 512) -> None:
        self.data, self.halo, self.alignment, self.size = data, halo, alignment, aligned(size, alignment)

    @cached_property
    def tiles(self) -> list[Tile]:
        return self.within()

    def within(self, frames: Iterable[int] | None = None, window: Window | None = None) -> list[Tile]:
        return plan_tiles(self.data.shape, self.size, self.halo, self.alignment, frames, window)

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        tile = self.tiles[index]
        return {"image": torch.from_numpy(self.data.read(tile.frame, tile.read))[None], "index": index}
