"""Image files open for reading, whole or a part at a time, so that memory need not grow with the file.

Convention: a source's axes are told by letters, x first: "XY", "XYZ", "XYZT", "XYCZT"; S are the samples of a colour.
In the files x is the fastest axis: `stored` has the same axes the other way round, and `Source` turns them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import torch

from warpzoo.files import FileError, reading
from warpzoo.images.image import Header, by, flip_lps, write_image

Index = tuple[int | slice, ...]

KEPT_BYTES = 2**31
"""Of files that were unpacked as a whole, what is kept to read more of them from."""
IN_MEMORY = 2**26
"""Bytes of a compressed file above which what is read in parts comes from an unpacked copy on disk."""
SHORTEST = 1e-12
"""Millimetres that a voxel's side must have; squares of shorter ones may vanish."""
DEFLATE_RATIO = 1032
"""No file compressed by deflate unpacks to more than this many times its size."""
MOST_PACKED = 2**16
"""Nor by any other method in use: zstd packs a constant 32,768 to 1, and parts that are zero may be left out."""
UNITS = {"us": 1e-6, "µs": 1e-6, "micro": 1e-6, "ms": 1e-3, "milli": 1e-3, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds by how the name or the symbol of a unit begins; what is none of these is seconds."""


class Stored(Protocol):
    """The values of a file by an index of all its axes, the slowest first."""

    def __getitem__(self, index: Any) -> np.ndarray: ...


class OnDisk:
    """The values of an uncompressed file, mapped anew for every part: a mapping that lives on keeps what it read.

    `file` is an open file that they are in instead, such as a temporary one; `path` is what messages call it.
    """

    def __init__(
        self, path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...], file: IO[bytes] | None = None
    ) -> None:
        self.path, self.dtype, self.offset, self.shape, self.file = path, dtype, offset, shape, file

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> np.ndarray:
        with reading(self.path, "an image"):
            return np.asarray(np.memmap(self.file or self.path, self.dtype, "r", self.offset, self.shape)[index])

    def __setitem__(self, index: Any, values: np.ndarray) -> None:
        mapped = np.memmap(self.file or self.path, self.dtype, "r+", self.offset, self.shape)
        mapped[index] = values


_kept: OrderedDict[tuple[Path, int], np.ndarray | OnDisk] = OrderedDict()


class Unpacked:
    """The values of a file that can only be read as a whole: unpacked by `unpack(path)` when they are needed.

    The files used last are kept unpacked, up to KEPT_BYTES of them; what is read at once (`[...]`) is not. Parts are
    read from an unpacked copy, which is made by `copy(path)` if that is given: on disk for instance.
    """

    def __init__(
        self, path: Path, unpack: Callable[[Path], np.ndarray], copy: Callable[[Path], OnDisk] | None = None
    ) -> None:
        self.path, self.unpack, self.changed = path, unpack, path.stat().st_mtime_ns
        self.copy = copy or unpack

    def __getitem__(self, index: Any) -> np.ndarray:
        if index is Ellipsis:
            return self.unpack(self.path)
        key = (self.path, self.changed)
        if key not in _kept:
            _kept[key] = self.copy(self.path)
            while len(_kept) > 1 and sum(values.nbytes for values in _kept.values()) > KEPT_BYTES:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        return _kept[key][index]


class PixelSize(NamedTuple):
    """Along x, y and z, and the unit: a length of which a microscope's file speaks, though it is in pixels here."""

    x: float
    y: float
    z: float
    unit: str


@dataclass(frozen=True)
class Source:
    """An image file: all its axes, and its values where they are indexed.

    Attributes:
        header: of one image of it.
        axes: a capital letter for each axis, x first.
        shape: of all axes, x first.
        spatial: which axes are x, y[, z], in this order.
        stored: the values as they lie in the file.
        details: for formats that are written part by part, what they need beside the header to write another like it.
        pixel: the size of a pixel, where the file says so.
        images: how many the file has, of which this is the first.
        channel_names: of its channels, where the file names them all.
        seconds: from one time point to the next, where the file says so.
    """

    header: Header
    axes: str
    shape: tuple[int, ...]
    spatial: tuple[int, ...]
    stored: Stored
    details: Any = None
    seconds: float | None = None
    pixel: PixelSize | None = None
    images: int = 1
    channel_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        path, linear = self.header.path, self.header.affine[:-1, :-1]
        if min(self.shape) < 1:
            raise FileError(f"{path} must have sides of 1 voxel or more, got {by(self.shape)}.")
        with np.errstate(all="ignore"):
            volume, sides = abs(np.linalg.det(linear)), np.linalg.norm(linear, axis=0)
            invertible = sides.min() > SHORTEST and 1e-6 * np.prod(sides) < volume < np.inf
        if not invertible or not np.isfinite(self.header.affine).all():
            raise FileError(
                f"{path} has a header whose matrix from voxels to millimetres cannot be inverted; "
                f"repair its spacing and directions."
            )

    def read(self, index: Index) -> np.ndarray:
        """The part at an index of all axes, x first; a whole number takes its axis away."""
        return np.asarray(self.stored[index[::-1]]).T

    def frame(self, time: int | None = None, channel: int | None = None) -> np.ndarray:
        """One image, (x, y[, z]). `time` and `channel` count from 0, and must be given where there are several."""
        for name, letters, place in (("time", "T", time), ("channel", "CS", channel)):
            count = max(size if axis in letters else 1 for axis, size in zip(self.axes, self.shape, strict=True))
            if place is not None and not 0 <= place < count:
                raise FileError(f"{self.header.path}: {name} must be in [0, {count - 1}], got {place}.")
        chosen = {"T": time, "C": channel, "S": channel}
        index: list[int | slice] = []
        for number, (axis, size) in enumerate(zip(self.axes, self.shape, strict=True)):
            if number in self.spatial or (axis == "S" and size > 1 and channel is None):
                index.append(slice(None))
            elif size > 1 and chosen.get(axis) is None:
                raise several(self.header.path, self.shape)
            else:
                index.append(chosen.get(axis) or 0)
        kept = [number for number, one in enumerate(index) if isinstance(one, slice)]
        if any(number not in kept and size > 1 for number, size in enumerate(self.shape)):
            values = self.read(tuple(index))
        else:
            values = np.asarray(self.stored[...]).T[tuple(index)]
        if len(kept) > len(self.spatial):
            samples = next(place for place, number in enumerate(kept) if number not in self.spatial)
            if (values != values.take([0], samples)).any():
                raise colour(self.header.path)
            values = values.take(0, samples)
            del kept[samples]
        return values.transpose([kept.index(number) for number in self.spatial])

    def channels(self) -> np.ndarray:
        """All channels of one image, (channels, x, y[, z]): what its one axis beside the spatial ones has, if any."""
        others = [number for number, size in enumerate(self.shape) if number not in self.spatial and size > 1]
        if len(others) > 1:
            raise several(self.header.path, self.shape)
        kept = [*others, *self.spatial]
        index = tuple(slice(None) if number in kept else 0 for number in range(len(self.shape)))
        values = np.asarray(self.stored[...]).T[index].transpose(np.argsort(np.argsort(kept)))
        return values if others else values[None]


def in_pixels(
    path: Path,
    axes: str,
    shape: Sequence[int],
    dtype: np.dtype,
    stored: Stored,
    details: Any,
    seconds: float | None = None,
    pixel: PixelSize | None = None,
) -> Source:
    """A source without a place in the world; `axes` and `shape` are those of the file, the slowest first.

    An axis that is neither time, channel nor sample and has more than one place is the third of space.
    """
    if len(axes) != len(shape):
        raise FileError(f"{path} must have as many axes as its values, got {axes} of {by(shape)}.")
    axes, shape = axes[::-1], tuple(shape)[::-1]
    spatial = [number for letter in "XY" if (number := axes.find(letter)) >= 0]
    if len(spatial) < 2:
        raise FileError(f"{path} must have rows (Y) and columns (X), got the axes {axes[::-1]} of {by(shape[::-1])}.")
    stacked = [number for number, axis in enumerate(axes) if axis not in "XYTCS" and shape[number] > 1]
    if len(stacked) == 1:
        spatial += stacked
    sides = tuple(shape[number] for number in spatial)
    header = Header(path, sides, flip_lps(len(sides)), dtype.newbyteorder("="), pixels=True)
    return Source(header, axes, shape, tuple(spatial), stored, details, seconds, pixel)


@contextmanager
def create_like(source: Source, path: Path, dtype: np.dtype) -> Iterator[Any]:
    """Zeros to be overwritten by an index of the file's axes, the slowest first, with the source's axes and metadata.

    The file is at `path` when the block ends well. NIfTI, TIFF and OME-Zarr are written on disk part by part; values of
    other formats wait in memory, as float32, until then.
    """
    from warpzoo.images.formats import format_of

    own = format_of(source.header.path)
    if source.details is not None or (hasattr(own, "created") and format_of(path) is own):
        with own.created(source, path, dtype) as stored:
            yield stored
        return
    if len(source.shape) > len(source.spatial):
        raise several(source.header.path, source.shape)
    memory = np.zeros(source.shape[::-1], np.float32)
    yield memory
    write_image(path, torch.from_numpy(np.ascontiguousarray(memory.T))[None], source.header, dtype)


class _DiscardedError(Exception):
    """Ends the writing of a file that is only tried."""


def check_output(source: Source, path: Path, dtype: np.dtype) -> None:
    """Finds out what `create_like` cannot write: writes an empty file and discards it."""
    if source.details is not None:
        with suppress(_DiscardedError), create_like(source, path, dtype):
            raise _DiscardedError
    else:
        with TemporaryDirectory() as folder, create_like(source, Path(folder) / path.name, dtype):
            pass


def duration(value: float, unit: str) -> float | None:
    """A time step in seconds, from a number and the unit's name or symbol; None if it is none."""
    begun = (seconds for begins, seconds in UNITS.items() if unit.strip().lower().startswith(begins))
    return value * next(begun, 1.0) if 0 < value < float("inf") else None


def several(path: Path, shape: Sequence[int]) -> FileError:
    """A file of several images where one is needed."""
    return FileError(
        f"{path} is a series or has several channels ({by(shape)}); it must be one volume or image: "
        f"save the frame or channel that you need as a file of its own (warpzoo register takes all, with --channels)."
    )


def colour(path: Path) -> FileError:
    """A picture of colours where one value per pixel is needed."""
    return FileError(
        f"{path} is a colour image; it must be greyscale: save it, or one of its channels, as grey (warpzoo register "
        f"takes colours, with --channels)."
    )


def check_size(
    path: Path, shape: Sequence[int], dtype: np.dtype, offset: int = 0, ratio: int = 1, size: int | None = None
) -> None:
    """That the file can hold what its header declares, before memory is taken for it; `ratio` is the compression's.

    `size` is that of the values where they are in other files.
    """
    size = path.stat().st_size if size is None else size
    declared = int(np.prod(shape, dtype=object)) * dtype.itemsize + offset
    if declared > ratio * size:
        values, total = (str(one) if len(str(one)) < 40 else "too many" for one in (by(shape), declared))
        raise FileError(
            f"{path} is incomplete or has a wrong header: it declares {values} {dtype.name} values ({total} "
            f"bytes), the file has {size} bytes: copy or export it again."
        )
