"""OME-Zarr (NGFF 0.1 to 0.5): the full resolution of the first image, in pixels, read and written part by part."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from warpzoo.files import FileError, check_kinds_below, reading
from warpzoo.images.formats import SUFFIXES
from warpzoo.images.source import MOST_PACKED, PixelSize, Source, check_size, duration, in_pixels


def open_file(path: Path, labels: bool = False, channels: bool = False) -> Source:
    zarr = _zarr()
    with reading(path, "OME-Zarr"):
        size = check_kinds_below(path)
        group, images = zarr.open_group(path, mode="r"), 1
        if "bioformats2raw.layout" in group.attrs.get("ome", group.attrs):  # a group of images, by their numbers
            images = sum(name.isdecimal() for name in group.group_keys())
            group = group["0"]
        described = group.attrs.get("ome", group.attrs)["multiscales"][0]  # version 0.5 has a key of its own for it
        array = group[described["datasets"][0]["path"]]
        axes = "".join(map(_letter, described["axes"]))
        stored, seconds, pixel = _Parts(path, array, size), _seconds(described, axes), _pixel(described, axes)
        source = in_pixels(path, axes, array.shape, array.dtype, stored, dict(group.attrs), seconds, pixel)
        return replace(source, images=images)


def _seconds(described: Any, axes: str) -> float | None:
    """From one time point to the next."""
    step, unit = _scale(described, axes.find("T"))
    return None if unit is None else duration(step, unit)


def _pixel(described: Any, axes: str) -> PixelSize | None:
    (x, unit), (y, _), (z, _) = (_scale(described, axes.find(letter)) for letter in "XYZ")
    return None if unit is None else PixelSize(x, y, z, "µm" if unit == "micrometer" else unit)


def _scale(described: Any, place: int) -> tuple[float, str | None]:
    """Of an axis, by the scales of the image and of its first level, and its unit, where there is one."""
    unit = described["axes"][place].get("unit") if place >= 0 and isinstance(described["axes"][place], dict) else None
    step = 1.0
    if unit is not None:
        for one in (
            *described.get("coordinateTransformations", ()),
            *described["datasets"][0]["coordinateTransformations"],
        ):
            step *= one["scale"][place] if one["type"] == "scale" else 1.0
    return step, unit


class _Parts:
    """The values of an array, whose parts may be damaged or more than the files can hold, in `size` bytes."""

    def __init__(self, path: Path, array: Any, size: int) -> None:
        self.path, self.array, self.size = path, array, size

    def __getitem__(self, index: Any) -> np.ndarray:
        with reading(self.path, "OME-Zarr"):
            shape = np.broadcast_to(np.uint8(0), self.array.shape)[index].shape
            check_size(self.path, shape, self.array.dtype, ratio=MOST_PACKED, size=self.size)
            return np.asarray(self.array[index])


def _letter(axis: str | dict[str, str]) -> str:
    """Of an axis; before version 0.4 an axis was its name, and a type is not obligatory."""
    described = {"name": axis} if isinstance(axis, str) else axis
    return {"time": "T", "channel": "C"}.get(described.get("type", ""), described["name"].upper())


@contextmanager
def created(source: Source, path: Path, dtype: np.dtype) -> Iterator[Any]:
    """Zeros like the source, to be written part by part; the folder is at `path` when the block ends well.

    Of full resolution alone: coarser levels would have to be made anew from the result.
    """
    if not path.name.lower().endswith(SUFFIXES["ome_zarr"]):
        raise FileError(
            f"{path} is no OME-Zarr, as {source.header.path} is; the result must have its input's format: .zarr."
        )
    if path.exists():
        raise FileError(f"{path} is there already; remove it or choose another name.")
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield begun(source, temporary, dtype)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def begun(source: Source, path: Path, dtype: np.dtype) -> Any:
    """Zeros like the source in a new folder, which several processes may write at once, each whole `units` of it."""
    stored: Any = source.stored.array  # type: ignore[attr-defined]
    attributes = json.loads(json.dumps(source.details))
    described = attributes.get("ome", attributes)["multiscales"]
    del described[1:], described[0]["datasets"][1:]
    version = stored.metadata.zarr_format
    group = _zarr().create_group(path, zarr_format=version, attributes=attributes)
    return group.create_array(
        described[0]["datasets"][0]["path"],
        shape=stored.shape,
        dtype=dtype,
        chunks=stored.chunks,
        shards=stored.shards,
        compressors=stored.compressors,
        chunk_key_encoding={"name": "v2", "separator": "/"} if version == 2 else None,
        dimension_names=stored.metadata.dimension_names if version == 3 else None,
    )


def reopened(path: Path) -> Any:
    """What was `begun`, in another process."""
    group = _zarr().open_group(path, mode="r+")
    return group[group.attrs.get("ome", group.attrs)["multiscales"][0]["datasets"][0]["path"]]


def units(source: Source) -> tuple[int, ...]:
    """The sides of what a file holds, along all axes, x first: a shard's, or a chunk's."""
    stored: Any = source.stored.array  # type: ignore[attr-defined]
    return tuple(stored.shards or stored.chunks)[::-1]


def swept(path: Path) -> None:
    """Removes what processes that were killed have left of files which were not whole."""
    for left in [*path.rglob("*.partial")]:
        left.unlink(missing_ok=True)


def _zarr() -> Any:
    try:
        return import_module("zarr")
    except ImportError:
        raise FileError("OME-Zarr is read by the package zarr, which is not installed: pip install zarr.") from None
