"""A large image in overlapping tiles: what a network or filter does to the whole image, in a tile's memory.

Each tile is read with a halo as wide as the method's sight, and only its core is kept. Windows never reach beyond the
image: at its edge a method sees the edge, as on the whole image. Tiles begin at multiples of `alignment`, where pooling
falls into the same cells.
"""

from __future__ import annotations

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


def plan_tiles(shape: tuple[int, ...], tile: int, halo: int, alignment: int = 1) -> list[Tile]:
    """Tiles of about `tile` pixels a side without their halo, over every frame of (frames, *spatial)."""
    tile, halo = (-(-length // alignment) * alignment for length in (max(tile, 1), halo))
    ranges = [[(start, min(start + tile, size)) for start in range(0, size, tile)] for size in shape[1:]]
    return [
        Tile(
            frame,
            tuple(slice(max(0, a - halo), min(size, b + halo)) for (a, b), size in zip(cell, shape[1:], strict=True)),
            tuple(slice(a, b) for a, b in cell),
        )
        for frame in range(shape[0])
        for cell in product(*ranges)
    ]


class Tiles(Dataset):
    """The tiles of a stack as items {"image": (1, *tile), "index": …}; `tiles[index]` says where the tile lies.

    `data` is the stack, under the name that MONAI gives a dataset's source.
    """

    def __init__(self, data: Stack, halo: int, alignment: int = 1, size: int = 512) -> None:
        self.data = data
        self.tiles = plan_tiles(data.shape, size, halo, alignment)

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        tile = self.tiles[index]
        return {"image": torch.from_numpy(self.data.read(tile.frame, tile.read))[None], "index": index}
