"""Images as frames of two or three axes, read and written a window at a time from files of any size.

Convention: a stack is (frames, *spatial), rows before columns and slices before rows, as networks for denoising are
trained; the files' axes, x first everywhere else, are turned round here, in `Stack.read` and `Written.put`, and nowhere
else. An image is a stack of one frame; in 2-D the slices of a volume are frames too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warpzoo.files import FileError
from warpzoo.images import source as images
from warpzoo.images.image import by, open_image, to_dtype
from warpzoo.images.source import Index, Source, in_pixels

ZARR = ".zarr"
COPIED_ROWS = 1024

Window = tuple[slice, ...]
"""Start and stop along each spatial axis, (slices,) rows, columns; what lies outside the image is its mirror image."""


@dataclass(frozen=True)
class Layout:
    """Which of a file's axes are space, and which one holds the channels; all others count frames.

    sizes: of all axes, x first as in `Source`.
    spatial: the numbers of the axes that are space, in that order.
    channels: the number of the channels' axis.
    channel: which of them is read and written.
    """

    sizes: tuple[int, ...]
    spatial: tuple[int, ...]
    channels: int | None = None
    channel: int = 0

    @property
    def frames(self) -> tuple[int, ...]:
        """The numbers of the other axes, the one that changes slowest first."""
        return tuple(axis for axis in reversed(range(len(self.sizes))) if axis not in (*self.spatial, self.channels))

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, *spatial)"""
        return (prod(self.sizes[axis] for axis in self.frames), *(self.sizes[axis] for axis in reversed(self.spatial)))

    def index(self, frame: int, window: Window, channel: int | None = None) -> Index:
        """Of the file's axes, x first; the window lies inside the image."""
        places = np.unravel_index(frame, [self.sizes[axis] for axis in self.frames]) if self.frames else ()
        index: dict[int, int | slice] = dict(zip(reversed(self.spatial), window, strict=True))
        index |= {axis: int(place) for axis, place in zip(self.frames, places, strict=True)}
        if self.channels is not None:
            index[self.channels] = self.channel if channel is None else channel
        return tuple(index[axis] for axis in range(len(self.sizes)))


@dataclass(frozen=True)
class Stack:
    """An image, volume or series to read from: a file, and how its axes are seen."""

    source: Source
    layout: Layout

    @property
    def path(self) -> Path:
        return self.source.header.path

    @property
    def dtype(self) -> np.dtype:
        return self.source.header.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, *spatial)"""
        return self.layout.shape

    @property
    def dims(self) -> int:
        return len(self.layout.spatial)

    def read(self, frame: int, window: Window) -> np.ndarray:
        """float32 values of a window, which may reach beyond the image: it is mirrored at its edges."""
        inside = tuple(
            slice(max(0, one.start), min(size, one.stop)) for one, size in zip(window, self.shape[1:], strict=True)
        )
        margins = [(two.start - one.start, one.stop - two.stop) for one, two in zip(window, inside, strict=True)]
        values = self.source.read(self.layout.index(frame, inside)).T.astype(np.float32)
        return np.pad(values, margins, mode="symmetric") if any(map(any, margins)) else values


def stack_of(
    values: np.ndarray, spatial_dims: int = 2, time_axis: int | None = None, dtype: np.dtype | None = None
) -> Stack:
    """An array of (rows, columns), after slices or frames if there are any, seen as frames of `spatial_dims` axes.

    `dtype` is the type of its values as they were, if the array holds them as another.
    """
    if values.ndim < 2 or values.ndim > 5 or values.dtype.kind not in "iuf":
        raise ValueError(
            f"image must be an array of real numbers with 2 to 5 axes, rows and columns last, got {values.dtype} of "
            f"shape {values.shape}."
        )
    named = "TZYX" if values.ndim == 4 and spatial_dims == 3 else "QPZYX"[-values.ndim :]
    source = in_pixels(Path("image"), named, values.shape, values.dtype if dtype is None else dtype, values, None)
    return Stack(source, layout_of(source, spatial_dims, None, time_axis))


def open_stack(
    path: str | Path | Stack, spatial_dims: int = 2, channel: int | None = None, time_axis: int | None = None
) -> Stack:
    """A TIFF, OME-TIFF, OME-Zarr, NIfTI, MetaImage, NRRD or PNG, seen as frames of `spatial_dims` axes.

    Args:
        path: the file, or the folder of an OME-Zarr; or a stack that is open already.
        spatial_dims: 2, or 3 for volumes.
        channel: which one, counted from 0; needed where there are several.
        time_axis: which axis is time, counted from 0, the slowest first, where the file does not say so: it is no axis
            of a volume then.
    """
    if isinstance(path, Stack):
        return path
    source = open_image(path)
    if source.header.dtype.kind not in "iuf":
        raise FileError(f"{path} must hold one real number per pixel, got {source.header.dtype} values.")
    return Stack(source, layout_of(source, spatial_dims, channel, time_axis))


@contextmanager
def create_like(
    stack: Stack, path: str | Path | np.ndarray | Written, dtype: np.dtype | str | None = None
) -> Iterator[Written]:
    """A file to write windows into, of the same shape, axes and metadata; other channels are copied.

    Values are rounded and clipped to `dtype` (the input's own by default). The file is there when the block ends well.
    `path` may be an array of the stack's axes, the slowest first, to write into instead; or what is open already.
    """
    if isinstance(path, Written):
        yield path
        return
    if isinstance(path, np.ndarray):
        written = Written(path, stack.layout)
        _copy_other_channels(stack, written)
        yield written
        return
    with images.create_like(stack.source, Path(path), np.dtype(dtype or stack.dtype)) as stored:
        written = Written(stored, stack.layout)
        _copy_other_channels(stack, written)
        yield written


def check_output(stack: Stack, path: str | Path, dtype: str | None = None) -> None:
    """Writes an empty file like the stack's to throw away, to find out before a long computation what will not go."""
    path = Path(path)
    if path.is_dir() and not path.name.lower().endswith(ZARR):
        raise FileError(f"{path} is a folder; it must be a file name, such as {stack.path.name}.")
    images.check_output(stack.source, path, result_dtype(stack, dtype))


def result_dtype(stack: Stack, dtype: str | None = None) -> np.dtype:
    """The data type of that name, which must be one of real numbers; the stack's own if none is named."""
    try:
        kept = np.dtype(dtype or stack.dtype)
    except TypeError:
        kept = np.dtype(bool)
    if kept.kind not in "iuf":
        raise ValueError(f"dtype must be a type of real numbers, such as uint16 or float32, got {dtype!r}.")
    return kept


@dataclass(frozen=True)
class Written:
    """Where windows go: `put(frame, window, values)`, rounded and clipped to the file's type."""

    stored: Any
    layout: Layout

    def put(self, frame: int, window: Window, values: np.ndarray, channel: int | None = None) -> None:
        index = self.layout.index(frame, window, channel)
        self.stored[index[::-1]] = to_dtype(torch.from_numpy(values), self.stored.dtype)


def _copy_other_channels(stack: Stack, written: Written) -> None:
    layout = stack.layout
    if layout.channels is not None:
        whole = tuple(slice(0, size) for size in layout.shape[1:])
        copy_channels(stack, written, range(layout.shape[0]), whole, range(layout.sizes[layout.channels]))


def copy_channels(
    stack: Stack, written: Written, frames: Iterable[int], window: Window, channels: Iterable[int]
) -> None:
    """Copies a window of some frames, of all those channels that are not the stack's own."""
    layout, (rows, *others) = stack.layout, window
    for channel, frame, start in product(channels, frames, range(rows.start, rows.stop, COPIED_ROWS)):
        if channel != layout.channel:
            some = (slice(start, min(start + COPIED_ROWS, rows.stop)), *others)
            values = stack.source.read(layout.index(frame, some, channel)).T
            written.put(frame, some, values.astype(values.dtype.newbyteorder("=")), channel)


def layout_of(source: Source, dims: int, channel: int | None, time_axis: int | None) -> Layout:
    """Of a file whose axes have one capital letter each: Y and X, perhaps Z, T, C (channels), S (colours), others."""
    path, axes, sizes = source.header.path, source.axes, source.shape
    axes_in_words = f"{path} has the axes {axes[::-1]} of {by(sizes[::-1])}"
    if dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {dims}.")
    if time_axis is not None and not 0 <= time_axis < len(axes):
        raise FileError(f"{axes_in_words}; time_axis must be in [0, {len(axes) - 1}], got {time_axis}.")
    time = None if time_axis is None else len(axes) - 1 - time_axis
    if time in (axes.find("Y"), axes.find("X")):
        raise FileError(f"{axes_in_words}; time_axis must not be rows (Y) or columns (X), got {time_axis}.")
    named = [axis for axis in reversed(range(len(axes))) if axes[axis] in "CS" and axis != time]
    channels = next((axis for axis in named if sizes[axis] > 1), named[0] if named else None)
    count = 1 if channels is None else sizes[channels]
    if channel is None and count > 1:
        what = "is a colour image" if axes[channels or 0] == "S" else f"has {count} channels"
        raise FileError(f"{path} {what}; choose one by channel, 0 to {count - 1}: the others are copied.")
    if channel is not None and not 0 <= channel < count:
        raise FileError(f"{path}: channel must be in [0, {count - 1}], counted from 0, got {channel}.")
    spatial = [axes.index("Y"), axes.index("X")]
    if dims == 3:
        stacked = [axis for axis in range(len(axes)) if axis not in (*spatial, channels, time)]
        stacked = [axis for axis in stacked if axes[axis] != "T" or time is not None]
        candidates = [axis for axis in stacked if axes[axis] == "Z"] or [axis for axis in stacked if sizes[axis] > 1]
        if len(candidates) != 1:
            raise FileError(f"{axes_in_words}; it has no axis of slices for a volume: choose 2-D (spatial_dims 2).")
        spatial.append(candidates[0])
    return Layout(tuple(sizes), tuple(sorted(spatial)), channels, channel or 0)
