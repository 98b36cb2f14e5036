"""OME-Zarr (NGFF 0.1 to 0.5): the full resolution of the first image, in pixels, read and written part by part; what is
written has the coarser levels that the image read has.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from warpzoo.files import FileError, check_kinds_below, reading
from warpzoo.images.formats import SUFFIXES
from warpzoo.images.source import MOST_PACKED, PixelSize, Source, check_size, duration, in_pixels

SECONDS_UNSEEN = 2
"""That coarser levels may take before their progress is shown."""


def open_file(path: Path, labels: bool = False, channels: bool = False) -> Source:
    zarr = _zarr()
    with reading(path, "OME-Zarr"):
        size = check_kinds_below(path)
        group, images = _image_in(zarr.open_group(path, mode="r"))
        described = group.attrs.get("ome", group.attrs)["multiscales"][0]  # version 0.5 has a key of its own for it
        array = group[described["datasets"][0]["path"]]
        axes = "".join(map(_letter, described["axes"]))
        stored, seconds, pixel = _Parts(path, array, size), _seconds(described, axes), _pixel(described, axes)
        source = in_pixels(path, axes, array.shape, array.dtype, stored, dict(group.attrs), seconds, pixel)
        return replace(source, images=images)


def _image_in(group: Any) -> tuple[Any, int]:
    """The group of the first image, and how many there are."""
    if "bioformats2raw.layout" in group.attrs.get("ome", group.attrs):  # a group of images, by their numbers
        return group["0"], sum(name.isdecimal() for name in group.group_keys())
    return group, 1


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
    """Zeros like the source, to be written part by part; the folder is at `path` when the block ends well."""
    if not path.name.lower().endswith(SUFFIXES["ome_zarr"]):
        raise FileError(
            f"{path} is no OME-Zarr, as {source.header.path} is; the result must have its input's format: .zarr."
        )
    if path.exists():
        raise FileError(f"{path} is there already; remove it or choose another name.")
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield begun(source, temporary, dtype)
        completed(temporary)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def begun(source: Source, path: Path, dtype: np.dtype) -> Any:
    """Zeros like the source in a new folder, which several processes may write at once, each whole `units` of it;
    coarser levels are made when it is `completed`."""
    attributes = json.loads(json.dumps(source.details))
    described = attributes.get("ome", attributes)["multiscales"]
    levels = _levels_of(source)
    del described[1:], described[0]["datasets"][len(levels) :]
    version = levels[0].metadata.zarr_format
    group = _zarr().create_group(path, zarr_format=version, attributes=attributes)
    made = [
        group.create_array(
            dataset["path"],
            shape=like.shape,
            dtype=dtype,
            chunks=like.chunks,
            shards=like.shards,
            compressors=like.compressors,
            chunk_key_encoding={"name": "v2", "separator": "/"} if version == 2 else None,
            dimension_names=like.metadata.dimension_names if version == 3 else None,
        )
        for dataset, like in zip(described[0]["datasets"], levels, strict=True)
    ]
    return made[0]


def _levels_of(source: Source) -> list[Any]:
    """The source's arrays, the finest first, as long as each is a whole number of times coarser than the one before."""
    levels = [source.stored.array]  # type: ignore[attr-defined]
    group, _ = _image_in(_zarr().open_group(source.header.path, mode="r"))
    for dataset in group.attrs.get("ome", group.attrs)["multiscales"][0]["datasets"][1:]:
        try:
            level = group[dataset["path"]]
            coarser = level.shape != levels[-1].shape and all(
                1 <= side <= before and side in (before // step, -(-before // step))
                for side, before, step in zip(level.shape, levels[-1].shape, _steps(levels[-1], level), strict=True)
            )
        except (KeyError, TypeError, ValueError):  # it is not there, or damaged: nothing of it is read
            break
        if not coarser:
            break
        levels.append(level)
    return levels


def _steps(finer: Any, coarser: Any) -> list[int]:
    """Pixels of the finer level for one of the coarser, along each axis."""
    return [max(1, round(side / max(1, other))) for side, other in zip(finer.shape, coarser.shape, strict=True)]


def completed(path: Path) -> None:
    """What was `begun`, when all of it is written: nothing is left of files that killed processes did not finish, and
    a pixel of a coarser level is the mean of its part of the one before."""
    for left in [*path.rglob("*.partial")]:
        left.unlink(missing_ok=True)
    finer, *others = _written(path)
    for coarser in others:
        sides = coarser.shards or coarser.chunks
        corners = [*product(*(range(0, size, side) for size, side in zip(coarser.shape, sides, strict=True)))]
        for corner in tqdm(corners, desc="Coarser levels", unit="chunk", leave=False, delay=SECONDS_UNSEEN):
            ends = (min(start + side, size) for start, side, size in zip(corner, sides, coarser.shape, strict=True))
            where = tuple(slice(start, end) for start, end in zip(corner, ends, strict=True))
            coarser[where] = _mean(finer, where, _steps(finer, coarser)).astype(coarser.dtype)
        finer = coarser


def _mean(finer: Any, where: tuple[slice, ...], steps: list[int]) -> np.ndarray:
    """Of a level, over what belongs to some pixels of the next; at its end the last pixels count as often as needed."""
    begins = [part.start * step for part, step in zip(where, steps, strict=True)]
    ends = [part.stop * step for part, step in zip(where, steps, strict=True)]
    values = np.asarray(finer[tuple(slice(begin, end) for begin, end in zip(begins, ends, strict=True))])
    total = np.zeros([part.stop - part.start for part in where])
    for offset in product(*map(range, steps)):
        taken = [
            np.minimum(np.arange(first, end - begin, step), size - 1)
            for first, begin, end, step, size in zip(offset, begins, ends, steps, values.shape, strict=True)
        ]
        total += values[np.ix_(*taken)]
    mean = total / np.prod(steps)
    return np.rint(mean) if values.dtype.kind in "iu" else mean


def reopened(path: Path) -> Any:
    """What was `begun`, in another process."""
    return _written(path)[0]


def _written(path: Path) -> list[Any]:
    """Its levels."""
    group = _zarr().open_group(path, mode="r+")
    return [group[one["path"]] for one in group.attrs.get("ome", group.attrs)["multiscales"][0]["datasets"]]


def units(source: Source) -> tuple[int, ...]:
    """The sides of what a file holds, along all axes, x first: a shard's, or a chunk's."""
    stored: Any = source.stored.array  # type: ignore[attr-defined]
    return tuple(stored.shards or stored.chunks)[::-1]


def _zarr() -> Any:
    try:
        return import_module("zarr")
    except ImportError:
        raise FileError("OME-Zarr is read by the package zarr, which is not installed: pip install zarr.") from None
