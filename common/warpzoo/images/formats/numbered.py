"""A folder of numbered files, img_1.tif, img_2.tif … img_10.tif: each a time point, in the order of their numbers."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from warpzoo.files import FileError
from warpzoo.images.formats import SUFFIXES, format_of
from warpzoo.images.source import Source, in_pixels

KINDS = (*SUFFIXES["tiff"], *SUFFIXES["picture"])


def files_of(folder: Path) -> list[Path]:
    """The pictures of a folder, 2 before 10; none if it is no folder."""
    if not folder.is_dir():
        return []
    there = [path for path in folder.iterdir() if path.name.lower().endswith(KINDS) and not path.name.startswith(".")]
    return sorted(there, key=lambda path: [int(part) if part.isdecimal() else part for part in _parts(path)])


def _parts(path: Path) -> list[str]:
    """Of a name: text and numbers by turns."""
    return re.split(r"(\d+)", path.name)


def missing_of(folder: Path) -> list[tuple[int, int]]:
    """The runs of numbers, each from its first to its last, that are missing among a folder's files, which count by any
    step; none if it is no folder, or its names differ by more than one number."""
    names = [_parts(path) for path in files_of(folder)]
    if len({len(parts) for parts in names}) != 1:
        return []
    changing = [{*column} for column in zip(*names, strict=True) if len({*column}) > 1]
    if len(changing) != 1 or not all(part.isdecimal() for part in changing[0]):
        return []
    there = sorted({int(part) for part in changing[0]})
    steps = [after - before for before, after in pairwise(there)]
    usual = median_low(steps or [1])
    if any(step % usual for step in steps):
        return []
    return [(before + usual, after - usual) for before, after in pairwise(there) if after - before > usual]


def open_folder(folder: Path, labels: bool = False, channels: bool = False) -> Source:
    paths = files_of(folder)
    first = format_of(paths[0]).open_file(paths[0], labels, channels)
    axes, shape = first.axes[::-1], first.shape[::-1]
    kept = [number for number, axis in enumerate(axes) if axis != "T" or shape[number] > 1]
    axes, shape = "".join(axes[number] for number in kept), tuple(shape[number] for number in kept)
    if "T" in axes:
        raise FileError(f"{paths[0]} has several time points; in a folder of numbered files each must hold one.")
    stored = _Numbered(paths, first, labels, channels)
    dtype = first.header.dtype
    return in_pixels(folder, f"T{axes}", (len(paths), *shape), dtype, stored, {}, first.seconds, first.pixel)


class _Numbered:
    """The values of several files as one; each is opened when it is read."""

    def __init__(self, paths: list[Path], first: Source, labels: bool, channels: bool) -> None:
        self.paths, self.first, self.options = paths, first, (labels, channels)

    def __getitem__(self, index: Any) -> np.ndarray:
        if index is Ellipsis:
            return np.stack([self[number,] for number in range(len(self.paths))])
        time, *others = index
        if isinstance(time, slice):
            return np.stack([self[(number, *others)] for number in range(*time.indices(len(self.paths)))])
        path = self.paths[time]
        source = format_of(path).open_file(path, *self.options)
        if (source.axes, source.shape, source.header.dtype) != (
            self.first.axes,
            self.first.shape,
            self.first.header.dtype,
        ):
            raise FileError(
                f"{path} must be like {self.paths[0].name}, {self.first.shape} {self.first.header.dtype} values, got "
                f"{source.shape} {source.header.dtype}: frames must be of one size and type."
            )
        values = source.stored[...]
        if "T" in source.axes:
            values = values.take(0, source.axes[::-1].index("T"))
        return np.asarray(values[tuple(others)])
