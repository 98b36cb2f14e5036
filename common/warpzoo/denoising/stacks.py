"""Noisy images as files: read and written a window at a time, so that memory does not grow with the image.

Convention: a stack is (frames, *spatial), rows before columns and slices before rows, as in a TIFF; every frame is
denoised on its own. An image is a stack of one frame; in 2-D the slices of a volume are frames too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from warpzoo.data.images import images_in_folder
from warpzoo.space.files import FileError, reading, whole_file
from warpzoo.space.images import TIFF, FileHeader, read_image, to_dtype, write_image

Window = tuple[slice, ...]
"""Start and stop along each spatial axis; what lies outside the image is its mirror image."""


class Values(Protocol):
    """Where the numbers of a stack live: (frames, *spatial) of any type, by frame and window inside the image."""

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray: ...


class OnDisk:
    """The numbers of an uncompressed file, mapped anew for every window: a mapping that lives on keeps what it read."""

    def __init__(self, path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.offset, self.shape = path, dtype, offset, shape

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        return np.array(np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[index])

    def __setitem__(self, index: tuple[int | slice, ...], values: np.ndarray) -> None:
        mapped = np.memmap(self.path, self.dtype, "r+", self.offset, self.shape)
        mapped[index] = values
        mapped.flush()


class Stack:
    """A noisy image, volume or series to read from.

    Attributes:
        path: the file.
        shape: (frames, *spatial).
        dtype: of the file's values.
        header: what is needed to write another file like it.
    """

    def __init__(self, path: Path, values: Values, shape: Sequence[int], dtype: np.dtype, header: Any) -> None:
        self.path, self.values, self.shape, self.dtype, self.header = path, values, tuple(shape), dtype, header

    @property
    def dims(self) -> int:
        return len(self.shape) - 1

    def read(self, frame: int, window: Window) -> np.ndarray:
        """float32 values of a window, which may reach beyond the image: it is mirrored at its edges."""
        inside = tuple(
            slice(max(0, one.start), min(size, one.stop)) for one, size in zip(window, self.shape[1:], strict=True)
        )
        margins = [(two.start - one.start, one.stop - two.stop) for one, two in zip(window, inside, strict=True)]
        values = self.values[(frame, *inside)].astype(np.float32)
        return np.pad(values, margins, mode="symmetric") if any(map(any, margins)) else values


def open_stack(path: str | Path, spatial_dims: int = 2) -> Stack:
    """A TIFF, OME-TIFF, NIfTI, MetaImage, NRRD or PNG of one channel, seen as frames of `spatial_dims` axes."""
    path = Path(path)
    return _open_tiff(path, spatial_dims) if path.name.lower().endswith(TIFF) else _open_image(path, spatial_dims)


def open_stacks(source: str | Path | Sequence[str | Path], spatial_dims: int = 2) -> list[Stack]:
    """The stacks of a file, of several, or of every image below a folder."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        source = [record["image"] for record in images_in_folder(path)] if path.is_dir() else [path]
    return [open_stack(path, spatial_dims) for path in source]


@contextmanager
def create_like(stack: Stack, path: str | Path, dtype: np.dtype | str | None = None) -> Iterator[Any]:
    """A stack to write to, `written[frame, *window] = values` (float), of the same shape, axes and metadata.

    Values are rounded and clipped to `dtype` (the input's own by default). The file is there when the block ends well.
    """
    path, wanted = Path(path), np.dtype(dtype or stack.dtype)
    if isinstance(stack.header, FileHeader):
        memory = np.zeros(stack.shape, np.float32)
        yield _Rounded(memory, memory.dtype)
        whole = memory.reshape(tuple(reversed(stack.header.shape))).T
        write_image(path, torch.from_numpy(np.ascontiguousarray(whole))[None], stack.header, wanted)
        return
    if not path.name.lower().endswith(TIFF):
        raise FileError(f"{path} is no TIFF, as {stack.path} is; the result has its input's format: choose .tif.")
    with whole_file(path) as unfinished:
        yield _Rounded(_create_tiff(unfinished, stack, wanted), wanted)


class _Rounded:
    """Takes float values for numbers of another type."""

    def __init__(self, values: Any, dtype: np.dtype) -> None:
        self.values, self.dtype = values, dtype

    def __setitem__(self, index: tuple[int | slice, ...], values: np.ndarray) -> None:
        self.values[index] = to_dtype(torch.from_numpy(values), self.dtype)


# TIFF


def _open_tiff(path: Path, dims: int) -> Stack:
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes, shape, dtype = series.axes, series.shape, series.dtype
        for axis, size in zip(axes, shape, strict=True):
            if axis in "SC" and size > 1:
                what = "a colour image" if axis == "S" else f"an image of {size} channels"
                raise FileError(f"{path} is {what}; one channel is wanted: save each as a file of its own.")
        kept = [axis for axis in range(len(axes)) if axes[axis] not in "SC"]
        axes, sides = "".join(axes[axis] for axis in kept), tuple(shape[axis] for axis in kept)
        if dtype.kind not in "iuf":
            raise FileError(f"{path} holds {dtype} values; an image of one real number per pixel is wanted.")
        if len(sides) < dims or not axes.endswith("YX"):
            raise FileError(f"{path} has the axes {axes}; {dims} of space are wanted, rows and columns last.")
        if dims == 3 and axes[-3] in "T":
            raise FileError(f"{path} is a series of 2-D images ({axes}), no volume; choose 2-D (spatial_dims 2).")
        frames = (prod(sides[:-dims]), *sides[-dims:])
        header = _tiff_header(file, series)
        if series.dataoffset is not None:
            values: Values = OnDisk(path, dtype.newbyteorder(file.byteorder), series.dataoffset, frames)
        else:  # compressed, or in pieces: unpacked once, into a temporary file
            values = series.asarray(out="memmap").reshape(frames)
    return Stack(path, values, frames, dtype.newbyteorder("="), header)


def _tiff_header(file: Any, series: Any) -> dict[str, Any]:
    """What `tifffile.imwrite` has to be told to write the same axes, pixel size and metadata."""
    page = series.keyframe
    header: dict[str, Any] = {"shape": series.shape, "photometric": "minisblack"}
    tags = page.tags
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
    return OnDisk(path, dtype.newbyteorder(order), offset, stack.shape)


def _ome_description(description: str, dtype: np.dtype) -> str:
    """The same OME-XML for a file of its own that holds the values as another type."""
    kind = {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)
    description = re.sub(r'(<Pixels\b[^>]*?\bType=")[^"]*', rf"\g<1>{kind}", description)
    description = re.sub(r'(<Pixels\b[^>]*?) SignificantBits="[^"]*"', r"\1", description)
    description = re.sub(r"<TiffData\b.*?</TiffData>\s*", "", description, flags=re.DOTALL)
    description = re.sub(r"<TiffData\b[^>]*/>\s*", "", description)
    description = re.sub(r' UUID="[^"]*"', "", description)
    return re.sub(
        r"(</Channel>|<Channel\b[^>]*/>)(?!.*<Channel\b)", r"\1<TiffData/>", description, count=1, flags=re.DOTALL
    )


# Everything else, in memory


def _open_image(path: Path, dims: int) -> Stack:
    image = read_image(path, flat=False)
    values = image.array[0].numpy().T
    if values.ndim < dims:
        raise FileError(f"{path} is {values.ndim}-D; {dims} axes are wanted: choose spatial_dims {values.ndim}.")
    frames = (prod(values.shape[: values.ndim - dims]), *values.shape[values.ndim - dims :])
    return Stack(path, values.reshape(frames), frames, image.header.dtype, image.header)
