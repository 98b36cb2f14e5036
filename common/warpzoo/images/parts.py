"""A file that several processes write at once, each parts of its own: whole chunks, so that no chunk is written by two.

Convention: a part is an index of all axes of the file, x first as in `Source`, each a slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import lcm, prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from warpzoo.files import FileError
from warpzoo.images.formats import format_of
from warpzoo.images.stacks import Layout, Stack, Window, Written

LARGEST = {2: 2048, 3: 256}
"""Side, in pixels, of the tiles that are recommended at most, in 2-D and 3-D."""


@dataclass(frozen=True)
class Part:
    """Some chunks of a file, beside one another."""

    layout: Layout
    index: tuple[slice, ...]

    @property
    def window(self) -> Window:
        return tuple(self.index[axis] for axis in reversed(self.layout.spatial))

    @property
    def frames(self) -> list[int]:
        layout = self.layout
        places = product(*(range(self.index[axis].start, self.index[axis].stop) for axis in layout.frames))
        return [_number(place, [layout.sizes[axis] for axis in layout.frames]) for place in places]

    @property
    def channels(self) -> range:
        """Those of the file that it shows; 0 alone if there is no axis of channels."""
        if self.layout.channels is None:
            return range(1)
        return range(self.index[self.layout.channels].start, self.index[self.layout.channels].stop)

    def __str__(self) -> str:
        return f"[{', '.join(f'{one.start}:{one.stop}' for one in reversed(self.index))}]"


def _number(place: tuple[int, ...], sizes: list[int]) -> int:
    return int(np.ravel_multi_index(place, sizes)) if sizes else 0


@dataclass(frozen=True)
class Parts:
    """All parts of a file, by number.

    units: the sides of its chunks, or of what holds several of them, along all axes.
    tile: what a part has at least along each axis of space, if the file has so much.
    """

    layout: Layout
    units: tuple[int, ...]
    tile: int

    @property
    def sides(self) -> tuple[int, ...]:
        spatial = self.layout.spatial
        return tuple(-(-self.tile // unit) * unit if axis in spatial else unit for axis, unit in enumerate(self.units))

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(-(-size // side) for size, side in zip(self.layout.sizes, self.sides, strict=True))

    def __len__(self) -> int:
        return prod(self.counts)

    def __getitem__(self, number: int) -> Part:
        places = np.unravel_index(number, self.counts[::-1])[::-1]
        index = (
            slice(int(place) * side, min((int(place) + 1) * side, size))
            for place, side, size in zip(places, self.sides, self.layout.sizes, strict=True)
        )
        return Part(self.layout, tuple(index))

    def times(self) -> float:
        """How often each tile is denoised, in the mean: more than once if it is seen by several parts."""
        times = 1.0
        for axis in self.layout.spatial:
            size, side = self.layout.sizes[axis], self.sides[axis]
            ends = ((start, min(start + side, size)) for start in range(0, size, side))
            times *= sum(-(-stop // self.tile) - start // self.tile for start, stop in ends) / -(-size // self.tile)
        return times

    def better_tile(self, alignment: int) -> int | None:
        """A tile that is denoised once, if there is one of a size that fits into memory."""
        tile = lcm(alignment, *(self.units[axis] for axis in self.layout.spatial))
        return tile if tile <= LARGEST[len(self.layout.spatial)] else None


def units_of(stack: Stack) -> tuple[int, ...]:
    """The sides of what is written at once of a file like the stack's, along all axes."""
    found: tuple[int, ...] = _shared_format(stack).units(stack.source)
    return found


def check_shared(stack: Stack) -> None:
    """That several processes can write a file like the stack's."""
    _shared_format(stack)


def begin(stack: Stack, path: Path, dtype: np.dtype) -> None:
    """Zeros to write parts into, with the stack's axes and metadata."""
    _shared_format(stack).begun(stack.source, path, dtype)


@contextmanager
def written_at_once(stack: Stack, path: Path, part: Part) -> Iterator[Written]:
    """Where windows of a part go, in memory until the block ends well; then its chunks are written, each as a whole."""
    stored = _shared_format(stack).reopened(path)
    place = part.index[::-1]
    values = np.zeros([one.stop - one.start for one in place], stored.dtype)
    yield Written(_Moved(values, tuple(one.start for one in place)), part.layout)
    stored[place] = values


def end(stack: Stack, path: Path, final: Path) -> None:
    """Gives the file its name when all of its parts are written."""
    check_free(final)
    _shared_format(stack).completed(path)
    path.rename(final)


def check_free(path: Path) -> None:
    """That the name is free."""
    if path.exists():
        raise FileError(f"{path} is there already; remove it or choose another name.")


class _Moved:
    """An array that begins elsewhere."""

    def __init__(self, values: np.ndarray, begins: tuple[int, ...]) -> None:
        self.values, self.begins, self.dtype = values, begins, values.dtype

    def __setitem__(self, index: Any, values: Any) -> None:
        moved = (
            slice(one.start - begin, one.stop - begin) if isinstance(one, slice) else one - begin
            for one, begin in zip(index, self.begins, strict=True)
        )
        self.values[tuple(moved)] = values


def _shared_format(stack: Stack) -> ModuleType:
    own = format_of(stack.path)
    if not hasattr(own, "begun"):
        raise FileError(
            f"{stack.path} must be an OME-Zarr (.zarr) to be denoised by a cluster: several processes cannot write one "
            f"file of another kind; without --cluster, one process does."
        )
    return own
