"""A folder of numbered files, img_1.tif, img_2.tif … img_10.tif: each a time point, in the order of their numbers, or a
slice or a channel of one (img_t1_c0.tif)."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise, product
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from warpzoo.files import FileError
from warpzoo.images.formats import SUFFIXES, format_of
from warpzoo.images.source import Source, in_pixels

KINDS = (*SUFFIXES["tiff"], *SUFFIXES["picture"])
NUMBERED = {"T": "time points", "Z": "slices", "C": "channels"}
"""What numbers in the names of files may count, the slowest axis first."""
CALLED = dict.fromkeys(("c", "ch", "chan", "channel"), "C") | dict.fromkeys(("z", "slice", "plane"), "Z")
"""By which words before a number it is no time."""


def files_of(folder: Path) -> list[Path]:
    """The pictures of a folder, 2 before 10; none if it is no folder."""
    if not folder.is_dir():
        return []
    there = [path for path in folder.iterdir() if path.name.lower().endswith(KINDS) and not path.name.startswith(".")]
    return sorted(there, key=lambda path: [int(part) if part.isdecimal() else part.lower() for part in _parts(path)])


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
    named, paths = arranged(folder)
    begins = paths.flat[0]
    first = format_of(begins).open_file(begins, labels, channels)
    axes, shape = first.axes[::-1], first.shape[::-1]
    kept = [number for number, axis in enumerate(axes) if axis not in named or shape[number] > 1]
    axes, shape = "".join(axes[number] for number in kept), tuple(shape[number] for number in kept)
    for axis in named:
        if axis in axes:
            raise FileError(f"{begins} has several {NUMBERED[axis]}; in this folder each file must hold one.")
    stored = _Numbered(paths, named, first, labels, channels)
    dtype = first.header.dtype
    return in_pixels(folder, named + axes, (*paths.shape, *shape), dtype, stored, {}, first.seconds, first.pixel)


def arranged(folder: Path) -> tuple[str, np.ndarray]:
    """The files of a folder by the numbers in their names: T, and Z and C where two numbers or more change and one of
    them is called so (img_t01_z3_c0.tif), as the axes of an array of paths.

    Files that are named unlike the others are refused: they are no frames.
    """
    paths = files_of(folder)
    kinds = Counter(map(_kind, paths))
    (usual, count), *others = kinds.most_common()
    if others and count > 1:
        other = next(path for path in paths if _kind(path) != usual)
        like = next(path for path in paths if _kind(path) == usual)
        raise FileError(
            f"{other} is named unlike the others in its folder, such as {like.name}: frames must have names that "
            f"differ in their numbers alone. Move it elsewhere."
        )
    columns = [*zip(*(_numbers(path) for path in paths), strict=True)] if not others else []
    changing = [number for number, column in enumerate(columns) if len({*column}) > 1]
    axis_of = {number: _axis_called(usual[number]) if len(changing) > 1 else "T" for number in changing}
    named = "".join(axis for axis in NUMBERED if axis in axis_of.values())
    if len(named) < 2:
        return "T", _array_of(paths)
    if "T" not in named:
        several = " and ".join(NUMBERED[axis] for axis in named)
        raise FileError(f"{folder} has files of several {several}, and of one time point.")
    places = [
        tuple(
            tuple(column[row] for number, column in enumerate(columns) if axis_of.get(number) == axis) for axis in named
        )
        for row in range(len(paths))
    ]
    there = [sorted({place[number] for place in places}) for number in range(len(named))]
    missing = [one for one in product(*there) if one not in {*places}]
    if missing or len({*places}) < len(places):
        counts = " and ".join(f"{len(some)} {NUMBERED[axis]}" for axis, some in zip(named, there, strict=True))
        raise FileError(f"{folder} must have a file for each of {counts}, got {len(paths)}.")
    by_place = dict(zip(places, paths, strict=True))
    return named, _array_of([by_place[one] for one in product(*there)]).reshape([len(some) for some in there])


def _kind(path: Path) -> tuple[str, ...]:
    """What a name has beside its numbers."""
    return tuple(part.lower() for part in _parts(path)[::2])


def _numbers(path: Path) -> list[int]:
    return [int(part) for part in _parts(path)[1::2]]


def _axis_called(before: str) -> str:
    """Which axis a number counts, by what stands before it; time if it is none of the others."""
    word = re.search(r"([a-z]*)[\W_]*$", before)
    return CALLED.get(word[1] if word else "", "T")


def _array_of(paths: list[Path]) -> np.ndarray:
    array = np.empty(len(paths), object)
    array[:] = paths
    return array


class _Numbered:
    """The values of several files as one; each is opened when it is read."""

    def __init__(self, paths: np.ndarray, named: str, first: Source, labels: bool, channels: bool) -> None:
        self.paths, self.named, self.first, self.options = paths, named, first, (labels, channels)

    def __getitem__(self, index: Any) -> np.ndarray:
        index = (slice(None),) * self.paths.ndim if index is Ellipsis else index
        places, others = index[: self.paths.ndim], index[self.paths.ndim :]
        for axis, place in enumerate(places):
            if isinstance(place, slice):
                numbers = range(*place.indices(self.paths.shape[axis]))
                parts = [self[(*places[:axis], number, *places[axis + 1 :], *others)] for number in numbers]
                return np.stack(parts)
        return self._read(self.paths[places], others)

    def _read(self, path: Path, others: tuple[Any, ...]) -> np.ndarray:
        source = format_of(path).open_file(path, *self.options)
        if (source.axes, source.shape, source.header.dtype) != (
            self.first.axes,
            self.first.shape,
            self.first.header.dtype,
        ):
            raise FileError(
                f"{path} must be like {self.paths.flat[0].name}, {self.first.shape} {self.first.header.dtype} values, "
                f"got {source.shape} {source.header.dtype}: frames must be of one size and type."
            )
        values = source.stored[...]
        single = [number for number, axis in enumerate(source.axes[::-1]) if axis in self.named]
        return np.asarray(values.squeeze(tuple(single))[others])
