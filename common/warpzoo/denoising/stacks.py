"""Noisy images as files: read and written a window at a time, so that memory does not grow with the image.

Convention: a stack is (frames, *spatial), rows before columns and slices before rows, as in a TIFF; every frame is
denoised on its own. An image is a stack of one frame; in 2-D the slices of a volume are frames too.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import product
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch

from warpzoo.files import FileError, reading, whole_file
from warpzoo.images.image import TIFF, FileHeader, read_image, to_dtype, write_image
from warpzoo.training.lists import images_in_folder

ZARR = ".zarr"
COPIED_ROWS = 1024

Window = tuple[slice, ...]
"""Start and stop along each spatial axis; what lies outside the image is its mirror image."""
Index = tuple[int | slice, ...]


class Values(Protocol):
    """Where the numbers of a file live, by an index of all its axes."""

    def __getitem__(self, index: Index) -> np.ndarray: ...


class OnDisk:
    """The numbers of an uncompressed file, mapped anew for every window: a mapping that lives on keeps what it read."""

    def __init__(self, path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.offset, self.shape = path, dtype, offset, shape

    def __getitem__(self, index: Index) -> np.ndarray:
        return np.array(np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[index])

    def __setitem__(self, index: Index, values: np.ndarray) -> None:
        mapped = np.memmap(self.path, self.dtype, "r+", self.offset, self.shape)
        mapped[index] = values
        mapped.flush()


class Unpacked:
    """The numbers of a compressed file, unpacked when they are wanted; the files used last stay unpacked."""

    def __init__(self, path: Path) -> None:
        self.path, self.changed = path, path.stat().st_mtime_ns

    def __getitem__(self, index: Index) -> np.ndarray:
        return np.array(_unpacked(self.path, self.changed)[index])


@lru_cache(maxsize=16)
def _unpacked(path: Path, changed: int) -> np.ndarray:
    """In a temporary file, read at one time of change; a thousand files kept open at once would be too many."""
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path) as file:
        return file.series[0].asarray(out="memmap")


@dataclass(frozen=True)
class Layout:
    """Which of a file's axes are space, and which one holds the channels; all others count frames.

    sizes: of all axes, in the file's order.
    spatial: the numbers of the axes that are space, in that order.
    channels: the number of the channels' axis.
    channel: which of them is denoised.
    """

    sizes: tuple[int, ...]
    spatial: tuple[int, ...]
    channels: int | None = None
    channel: int = 0

    @property
    def frames(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.sizes)) if axis not in (*self.spatial, self.channels))

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, *spatial)"""
        return (prod(self.sizes[axis] for axis in self.frames), *(self.sizes[axis] for axis in self.spatial))

    def index(self, frame: int, window: Window, channel: int | None = None) -> Index:
        """Of the file's numbers; the window lies inside the image."""
        places = np.unravel_index(frame, [self.sizes[axis] for axis in self.frames]) if self.frames else ()
        index: dict[int, int | slice] = dict(zip(self.spatial, window, strict=True))
        index |= {axis: int(place) for axis, place in zip(self.frames, places, strict=True)}
        if self.channels is not None:
            index[self.channels] = self.channel if channel is None else channel
        return tuple(index[axis] for axis in range(len(self.sizes)))


@dataclass(frozen=True)
class Stack:
    """A noisy image, volume or series to read from.

    Attributes:
        path: the file.
        values: its numbers.
        layout: how they are laid out.
        dtype: their type.
        header: what is needed to write another file like it.
    """

    path: Path
    values: Values
    layout: Layout
    dtype: np.dtype
    header: Any

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
        values = np.asarray(self.values[self.layout.index(frame, inside)]).astype(np.float32)
        return np.pad(values, margins, mode="symmetric") if any(map(any, margins)) else values


def open_stack(
    path: str | Path, spatial_dims: int = 2, channel: int | None = None, time_axis: int | None = None
) -> Stack:
    """A TIFF, OME-TIFF, OME-Zarr, NIfTI, MetaImage, NRRD or PNG, seen as frames of `spatial_dims` axes.

    Args:
        path: the file, or the folder of an OME-Zarr.
        spatial_dims: 2, or 3 for volumes.
        channel: which one, counted from 0; needed where there are several.
        time_axis: which axis is time, counted from 0, where the file does not say so: it is no axis of a volume then.
    """
    path = Path(path)
    name = path.name.lower().rstrip("/")
    if name.endswith(TIFF):
        return _open_tiff(path, spatial_dims, channel, time_axis)
    if name.endswith(ZARR):
        return _open_zarr(path, spatial_dims, channel, time_axis)
    image = read_image(path, flat=False)
    values = image.array[0].numpy().T
    layout = _layout(path, "ZYX"[-values.ndim :], values.shape, spatial_dims, channel, time_axis)
    return Stack(path, values, layout, image.header.dtype, image.header)


def open_stacks(
    source: str | Path | Sequence[str | Path],
    spatial_dims: int = 2,
    channel: int | None = None,
    time_axis: int | None = None,
) -> list[Stack]:
    """The stacks of a file, of several, or of every image below a folder."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        folder = path.is_dir() and not path.name.lower().endswith(ZARR)
        source = [record["image"] for record in images_in_folder(path)] if folder else [path]
    return [open_stack(path, spatial_dims, channel, time_axis) for path in source]


@contextmanager
def create_like(stack: Stack, path: str | Path, dtype: np.dtype | str | None = None) -> Iterator[Written]:
    """A file to write denoised windows into, of the same shape, axes and metadata; other channels are copied.

    Values are rounded and clipped to `dtype` (the input's own by default). The file is there when the block ends well.
    """
    path, wanted = Path(path), np.dtype(dtype or stack.dtype)
    if isinstance(stack.header, FileHeader):
        memory = np.zeros(stack.layout.sizes, np.float32)
        yield Written(memory, stack.layout, memory.dtype)
        write_image(path, torch.from_numpy(np.ascontiguousarray(memory.T))[None], stack.header, wanted)
        return
    with _created(stack, path, wanted) as written:
        _copy_other_channels(stack, written)
        yield written


@contextmanager
def _created(stack: Stack, path: Path, dtype: np.dtype) -> Iterator[Written]:
    """An empty TIFF or OME-Zarr like the stack's."""
    kind, suffixes = ("OME-Zarr", (ZARR,)) if stack.path.name.lower().endswith(ZARR) else ("TIFF", TIFF)
    if not path.name.lower().endswith(suffixes):
        raise FileError(
            f"{path} is no {kind}, as {stack.path} is; the result has its input's format: choose {suffixes[0]}."
        )
    with _whole_folder(path) if kind == "OME-Zarr" else whole_file(path) as unfinished:
        create = _create_zarr if kind == "OME-Zarr" else _create_tiff
        yield Written(create(unfinished, stack, dtype), stack.layout, dtype)


def check_output(stack: Stack, path: str | Path, dtype: str | None = None) -> None:
    """Writes an empty file like the stack's to throw away, to find out before a long computation what will not go."""
    path = Path(path)
    if path.is_dir() and not path.name.lower().endswith(ZARR):
        raise FileError(f"{path} is a folder; a file name like {stack.path.name} is wanted.")
    try:
        wanted = np.dtype(dtype or stack.dtype)
    except TypeError:
        wanted = np.dtype(bool)
    if wanted.kind not in "iuf":
        raise ValueError(f"dtype is {dtype!r}; a type of real numbers is wanted, such as uint16 or float32.")
    if isinstance(stack.header, FileHeader):
        with TemporaryDirectory() as folder:
            write_image(Path(folder) / path.name, torch.zeros(1, *reversed(stack.layout.sizes)), stack.header, wanted)
    else:
        with suppress(_UnwantedError), _created(stack, path, wanted):
            raise _UnwantedError


class _UnwantedError(Exception):
    """Ends the writing of a file that is not wanted."""


@dataclass(frozen=True)
class Written:
    """Where denoised windows go: `put(frame, window, values)`, rounded and clipped to the file's type."""

    values: Any
    layout: Layout
    dtype: np.dtype

    def put(self, frame: int, window: Window, values: np.ndarray, channel: int | None = None) -> None:
        self.values[self.layout.index(frame, window, channel)] = to_dtype(torch.from_numpy(values), self.dtype)


def _copy_other_channels(stack: Stack, written: Written) -> None:
    layout = stack.layout
    if layout.channels is None:
        return
    rows, *others = layout.shape[1:]
    others_whole = tuple(slice(0, size) for size in others)
    frames, starts = range(layout.shape[0]), range(0, rows, COPIED_ROWS)
    for channel, frame, start in product(range(layout.sizes[layout.channels]), frames, starts):
        if channel != layout.channel:
            window = (slice(start, min(start + COPIED_ROWS, rows)), *others_whole)
            values = np.asarray(stack.values[layout.index(frame, window, channel)])
            written.put(frame, window, values.astype(values.dtype.newbyteorder("=")), channel)


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """As `whole_file`, for a format that is a folder."""
    if path.exists():
        raise FileError(f"{path} is there already; remove it or choose another name.")
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _layout(
    path: Path, axes: str, sizes: Sequence[int], dims: int, channel: int | None, time_axis: int | None
) -> Layout:
    """Of a file whose axes have one capital letter each: Y and X, perhaps Z, T, C (channels), S (colours), others."""
    said = f"{path} has the axes {axes} of {' × '.join(map(str, sizes))}"
    if dims not in (2, 3):
        raise ValueError(f"spatial_dims is {dims}; it wants 2 or 3.")
    if time_axis is not None and not 0 <= time_axis < len(axes):
        raise FileError(f"{said}; time_axis is {time_axis}: count from 0.")
    channels = next((axis for axis, name in enumerate(axes) if name in "CS" and sizes[axis] > 1), None)
    if channels is None:
        channels = next((axis for axis, name in enumerate(axes) if name in "CS"), None)
    count = 1 if channels is None else sizes[channels]
    if channel is None and count > 1:
        what = "is a colour image" if axes[channels or 0] == "S" else f"has {count} channels"
        raise FileError(f"{path} {what}; choose one to denoise by channel, 0 to {count - 1}: the others are copied.")
    if channel is not None and not 0 <= channel < count:
        raise FileError(f"{path} has {count} channel{'s' * (count > 1)}, counted from 0; channel is {channel}.")
    if "Y" not in axes or "X" not in axes or time_axis in (axes.find("Y"), axes.find("X")):
        raise FileError(f"{said}; rows (Y) and columns (X) are wanted.")
    spatial = [axes.index("Y"), axes.index("X")]
    if dims == 3:
        stacked = [
            axis for axis in range(len(axes)) if axis not in (*spatial, channels, time_axis) and axes[axis] != "T"
        ]
        named = [axis for axis in stacked if axes[axis] == "Z"]
        candidates = named or [axis for axis in stacked if sizes[axis] > 1]
        if len(candidates) != 1:
            raise FileError(f"{said}; it has no axis of slices for a volume: choose 2-D (spatial_dims 2).")
        spatial.append(candidates[0])
    return Layout(tuple(sizes), tuple(sorted(spatial)), channels, channel or 0)


# TIFF


def _open_tiff(path: Path, dims: int, channel: int | None, time_axis: int | None) -> Stack:
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path) as file:
        series = file.series[0]
        dtype, sizes = series.dtype, series.shape
        if dtype.kind not in "iuf":
            raise FileError(f"{path} holds {dtype} values; an image of one real number per pixel is wanted.")
        layout = _layout(path, series.axes, sizes, dims, channel, time_axis)
        header = _tiff_header(file, series)
        if series.dataoffset is not None:
            values: Values = OnDisk(path, dtype.newbyteorder(file.byteorder), series.dataoffset, sizes)
        else:  # compressed, or in pieces
            values = Unpacked(path)
    return Stack(path, values, layout, dtype.newbyteorder("="), header)


def _tiff_header(file: Any, series: Any) -> dict[str, Any]:
    """What `tifffile.imwrite` has to be told to write the same axes, pixel size and metadata."""
    page = series.keyframe
    tags = page.tags
    colours = series.sizes.get("sample", 1)
    inverted = page.photometric is not None and page.photometric.name == "MINISWHITE"
    photometric = "rgb" if colours in (3, 4) else "miniswhite" if inverted else "minisblack"
    header: dict[str, Any] = {"shape": series.shape, "photometric": photometric}
    if colours == 2:
        header["planarconfig"] = "contig"
    if series.axes.endswith("SYX"):
        header["planarconfig"] = "separate"
    if "XResolution" in tags and "YResolution" in tags:
        header["resolution"] = tuple(
            value[0] / (value[1] or 1) for value in (tags["XResolution"].value, tags["YResolution"].value)
        )
        if "ResolutionUnit" in tags:
            header["resolutionunit"] = int(tags["ResolutionUnit"].value)
    if file.is_ome:
        header["description"] = file.ome_metadata
    elif file.is_imagej:
        header |= {"imagej": True, "metadata": {**file.imagej_metadata, "axes": series.axes}}
    else:
        header["metadata"] = {"axes": series.axes}
        if not file.is_shaped and page.description:
            header |= {"description": page.description, "metadata": None}
    return header


def _create_tiff(path: Path, stack: Stack, dtype: np.dtype) -> OnDisk:
    import tifffile

    header = dict(stack.header)
    if "description" in header and header["description"].lstrip().startswith("<?xml"):
        header |= {"description": _ome_description(header["description"], dtype).encode(), "metadata": None}
    elif header.get("imagej") and dtype.kind not in "f" and dtype.itemsize > 2:
        raise FileError(f"{stack.path} is an ImageJ TIFF, which holds no {dtype} values; choose float32.")
    tifffile.imwrite(path, None, dtype=dtype, byteorder=">" if header.get("imagej") else None, **header)
    with tifffile.TiffFile(path) as file:
        offset, order = file.series[0].dataoffset, file.byteorder
    assert offset is not None  # written in one piece
    return OnDisk(path, dtype.newbyteorder(order), offset, stack.layout.sizes)


def _ome_description(description: str, dtype: np.dtype) -> str:
    """The same OME-XML for a file of its own that holds the values as another type."""
    kind = {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)
    for other in re.findall(r"<Image\b.*?</Image>\s*", description, flags=re.DOTALL)[1:]:
        description = description.replace(other, "")  # one image is read, and one written
    description = re.sub(r'(<Pixels\b[^>]*?\bType=")[^"]*', rf"\g<1>{kind}", description)
    description = re.sub(r'(<Pixels\b[^>]*?) SignificantBits="[^"]*"', r"\1", description)
    description = re.sub(r"<TiffData\b.*?</TiffData>\s*", "", description, flags=re.DOTALL)
    description = re.sub(r"<TiffData\b[^>]*/>\s*", "", description)
    description = re.sub(r' UUID="[^"]*"', "", description)
    return re.sub(
        r"(</Channel>|<Channel\b[^>]*/>)(?!.*<Channel\b)", r"\1<TiffData/>", description, count=1, flags=re.DOTALL
    )


# OME-Zarr


def _open_zarr(path: Path, dims: int, channel: int | None, time_axis: int | None) -> Stack:
    zarr = _zarr()
    with reading(path, "OME-Zarr"):
        group = zarr.open_group(path, mode="r")
        described = group.attrs.get("ome", group.attrs)["multiscales"][0]  # version 0.5 has a key of its own for it
        array = group[described["datasets"][0]["path"]]
        axes = "".join(map(_zarr_axis, described["axes"]))
        layout = _layout(path, axes, array.shape, dims, channel, time_axis)
    return Stack(path, array, layout, array.dtype.newbyteorder("="), dict(group.attrs))


def _zarr_axis(axis: str | dict[str, str]) -> str:
    """Its letter; before version 0.4 an axis was its name, and a type is not obligatory."""
    described = {"name": axis} if isinstance(axis, str) else axis
    return {"time": "T", "channel": "C"}.get(described.get("type", ""), described["name"].upper())


def _create_zarr(path: Path, stack: Stack, dtype: np.dtype) -> Any:
    """Of full resolution alone: coarser levels would have to be made anew from the result."""
    zarr = _zarr()
    source: Any = stack.values
    attributes = json.loads(json.dumps(stack.header))
    described = attributes.get("ome", attributes)["multiscales"]
    del described[1:], described[0]["datasets"][1:]
    version = source.metadata.zarr_format
    group = zarr.create_group(path, zarr_format=version, attributes=attributes)
    return group.create_array(
        described[0]["datasets"][0]["path"],
        shape=source.shape,
        dtype=dtype,
        chunks=source.chunks,
        shards=source.shards,
        compressors=source.compressors,
        chunk_key_encoding={"name": "v2", "separator": "/"} if version == 2 else None,
        dimension_names=source.metadata.dimension_names if version == 3 else None,
    )


def _zarr() -> Any:
    try:
        return import_module("zarr")
    except ImportError:
        raise FileError("OME-Zarr is read by the package zarr, which is not installed: pip install zarr.") from None
