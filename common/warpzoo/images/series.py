"""Images with time: a file seen as images of one grid, read and written one frame at a time.

Convention: frames count from 0. Every frame is an `Image`; where they lie in the file is the `Stack`'s business, which
denoising reads in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from warpzoo.errors import nearest
from warpzoo.files import FileError
from warpzoo.geometry.grid import Grid
from warpzoo.images import source as images
from warpzoo.images.formats import SUFFIXES as OF_FORMAT
from warpzoo.images.formats import format_of, tiff
from warpzoo.images.formats.numbered import files_of, open_folder
from warpzoo.images.image import Header, Image, by, flip_lps, open_image, to_dtype, to_tensor
from warpzoo.images.source import Source, several
from warpzoo.images.stacks import Layout, Stack, layout_of

STREAMED = (*OF_FORMAT["tiff"], *OF_FORMAT["ome_zarr"])
"""Of formats that are written like their input; all others become NIfTI."""
SUFFIXES = (".nii.gz", *STREAMED, *(f".ome{suffix}" for suffix in STREAMED))
"""That a series may be written with."""


@dataclass(frozen=True)
class Series:
    """Images of one grid, one after the other in time.

    path: what messages call it.
    count: how many there are.
    grid, header: of every one of them.
    read: gives one of them.
    seconds: from one to the next, where that is known.
    stack: the file that they are in, if it can be written part by part.
    """

    path: Path
    count: int
    grid: Grid
    header: Header
    read: Callable[[int], Image]
    seconds: float | None = None
    stack: Stack | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, frame: int) -> Image:
        if not 0 <= frame < self.count:
            raise IndexError(f"frame must be in [0, {self.count - 1}], got {frame}.")
        return self.read(frame)

    def written_like(self, target: Image) -> bool:
        """Whether frames on the target's grid make a file with all that this one has beside its values: a TIFF or an
        OME-Zarr, or a NIfTI on its own grid."""
        if self.stack is None or target.header.shape != self.header.shape:
            return False
        streamed = self.path.name.lower().endswith(STREAMED)
        return target.header.pixels if streamed else target.grid == self.grid and self.header.nifti is not None

    def name(self, stem: str, target: Image, ome: bool = False) -> str:
        """What a file of frames on the target's grid is called: `stem.tif` for a TIFF, else `stem.nii.gz`; with `ome`
        it is an OME-TIFF or an OME-Zarr whatever it was, if it is in pixels."""
        own = self.path.name.lower()
        if ome and self.stack is not None and target.header.pixels and target.header.shape == self.header.shape:
            return f"{stem}.ome{'.zarr' if own.endswith('.zarr') else '.tif'}"
        suffix = next((suffix for suffix in STREAMED if own.endswith(suffix)), None)
        if suffix is None or not self.written_like(target):
            return f"{stem}.nii.gz"
        return f"{stem}{'.ome' if own.endswith(f'.ome{suffix}') else ''}{suffix}"


def has_time(path: str | Path) -> bool:
    """Whether a file has an axis of time with more than one place, or is a folder of numbered files; a folder of DICOM
    files, which is read as a whole, has none."""
    if Path(path).is_dir() and not str(path).lower().endswith(OF_FORMAT["ome_zarr"]):
        return len(files_of(Path(path))) > 1
    source = open_image(path)
    return any(axis == "T" and size > 1 for axis, size in zip(source.axes, source.shape, strict=True))


def open_timed(path: str | Path, labels: bool = False, channels: bool = False) -> Source:
    """A file with time, or a folder of numbered files, of which each is a time point."""
    if files_of(Path(path)) and not str(path).lower().endswith(OF_FORMAT["ome_zarr"]):
        return open_folder(Path(path), labels, channels)
    return open_image(path, labels, channels)


def channel_number(source: Source, channel: int | str | None) -> int | None:
    """A channel by its number, counted from 0, or by the name that it has in the file."""
    if channel is None or (isinstance(channel, int) and not isinstance(channel, bool)):
        return channel
    names = source.channel_names
    if channel not in names:
        known = f"one of {', '.join(names)}, or a number" if names else "a number, as the file names no channels"
        raise FileError(f"{source.header.path}: channel must be {known}, got {channel!r}{nearest(channel, names)}.")
    return names.index(str(channel))


def open_series(
    path: str | Path | Source,
    labels: bool = False,
    channels: bool = False,
    time_axis: int | None = None,
    flat: bool = True,
    channel: int | None = None,
) -> Series:
    """The frames of a NIfTI, TIFF, OME-TIFF, OME-Zarr, MetaImage or NRRD with time, or of a folder of numbered files.

    Args:
        path: the file, the folder of an OME-Zarr or of the files, or what is open already.
        labels: whether it holds label maps.
        channels: whether frames have several channels, which are all read.
        time_axis: which of the file's axes is time, counted from 0, the slowest first (for NIfTI: from the last one),
            where the file does not say so.
        flat: frames of one slice become 2-D, in the plane's own millimetres.
        channel: which of several channels, counted from 0, the frames are of.
    """
    source = path if isinstance(path, Source) else open_timed(path, labels, channels or channel is not None)
    path, axes, sizes = source.header.path, source.axes, source.shape
    named = f"{path} has the axes {axes[::-1]} of {by(sizes[::-1])}"
    time = axes.find("T") if time_axis is None else len(axes) - 1 - time_axis
    if time_axis is not None and not 0 <= time < len(axes):
        raise FileError(f"{named}; time_axis must be in [0, {len(axes) - 1}], got {time_axis}.")
    more = [name for name, size in zip(axes, sizes, strict=True) if name not in "XYCS" and size > 1]
    if time < 0 and more:
        raise FileError(f"{named}, and none of them is time (T): if one is, say which by time_axis, counted from 0.")
    if time < 0 or sizes[time] < 2:
        raise FileError(f"{named}: it has one frame; a series must have two or more.")
    count = max([1, *(sizes[axis] for axis in range(len(axes)) if axes[axis] in "CS" and axis != time)])
    if channel is not None and not 0 <= channel < count:
        raise FileError(f"{path}: channel must be in [0, {count - 1}], counted from 0, got {channel}.")
    if count > 1 and channel is None and not channels:
        called = f" ({', '.join(source.channel_names)})" if source.channel_names else ""
        raise FileError(
            f"{path} has {count} channels{called}; choose one to register by, such as --channel 0 of warpzoo "
            f"sequence, which takes the others along, or all together, --channels of warpzoo register."
        )
    deep = [axis for axis, size in enumerate(sizes) if axes[axis] not in "XYCS" and axis != time and size > 1]
    if deep and axes[deep[0]] not in "XYZT":
        raise FileError(
            f"{named}: beside time, the axis of {sizes[deep[0]]} must have a name, such as Z for slices (OME-TIFF and "
            f"ImageJ TIFF say it)."
        )
    if len(deep) > 1:
        raise several(source.header.path, sizes)
    layout = layout_of(source, 2 + len(deep), 0 if count > 1 else None, time_axis)
    if layout.shape[0] != sizes[time]:
        raise several(source.header.path, sizes)
    grid, header = _frame_header(source, time, deep).place(flat)

    chosen = range(count) if channel is None else [channel]

    def read(frame: int) -> Image:
        values = np.stack([source.read(_index(layout, frame, one)) for one in chosen])
        return Image(to_tensor(header.path, values, labels).reshape(-1, *grid.shape), grid, header)

    stack = Stack(source, layout) if source.details is not None or header.nifti is not None else None
    return Series(header.path, sizes[time], grid, header, read, source.seconds, stack)


def _frame_header(source: Source, time: int, deep: list[int]) -> Header:
    """Of one frame; an axis of space may be time, and the one called time then that of slices (`deep`)."""
    header = source.header
    if time not in source.spatial:
        return header
    place = source.spatial.index(time)
    sides = [size for axis, size in enumerate(header.shape) if axis != place]
    sides += [source.shape[axis] for axis in deep if axis not in source.spatial]
    if header.pixels:
        return replace(header, shape=tuple(sides), affine=flip_lps(len(sides)))
    return replace(header, shape=(*header.shape[:place], 1, *header.shape[place + 1 :]))


def _index(layout: Layout, frame: int, channel: int) -> images.Index:
    """Of a whole frame, of a file's axes, x first."""
    window = tuple(slice(0, size) for size in layout.shape[1:])
    return layout.index(frame, window, None if layout.channels is None else channel)


@dataclass(frozen=True)
class WrittenSeries:
    """Where frames go: `put(frame, image)`, rounded and clipped to the file's type."""

    stored: Any
    layout: Layout

    def put(self, frame: int, image: Image) -> None:
        sides = [self.layout.sizes[axis] for axis in self.layout.spatial]
        for channel, values in enumerate(to_dtype(image.array, self.stored.dtype)):
            self.stored[_index(self.layout, frame, channel)[::-1]] = values.reshape(sides).T


@contextmanager
def create_series(path: Path, series: Series, target: Image, dtype: np.dtype | None = None) -> Iterator[WrittenSeries]:
    """A file for as many frames as the series has, on the target's grid; it is there when the block ends well.

    It has the series' own axes and metadata if it can be `written_like` it, and otherwise the header of the target and
    the time step of the series.
    """
    dtype = (dtype or series.header.dtype).newbyteorder("=")
    as_ome = path.name == series.name(path.name.split(".ome")[0], target, ome=True) and path.suffix == ".tif"
    if series.stack is not None and as_ome:
        layout = series.stack.layout
        time = layout.frames[0] if len(layout.frames) == 1 else None
        created = tiff.created(tiff.as_ome(series.stack.source, time), path, tiff.type_in_ome(dtype))
    elif series.stack is not None and series.written_like(target) and format_of(path) is format_of(series.path):
        layout = series.stack.layout
        created = images.create_like(series.stack.source, path, dtype)
    else:
        source, layout = _file_with_time(path, series, target)
        created = images.create_like(source, path, dtype)
    with created as stored:
        yield WrittenSeries(stored, layout)


def _file_with_time(path: Path, series: Series, target: Image) -> tuple[Source, Layout]:
    """A NIfTI of the target's grid with time, which is to be written."""
    shape = target.header.shape
    channels = len(target.array)
    sizes = (*shape, *[1] * (3 - len(shape)), series.count, *([channels] if channels > 1 else []))
    header = replace(target.header, path=path)
    axes = "XYZTC"[: len(sizes)]
    source = Source(header, axes, sizes, tuple(range(len(shape))), np.zeros(0), seconds=series.seconds)
    return source, Layout(sizes, tuple(range(len(shape))), 4 if channels > 1 else None)
