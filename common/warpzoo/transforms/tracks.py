"""Points over time, as tracking programs write them: read, and written again with other positions and all else kept.

Convention: positions are (x, y[, z]) in pixels, frames count from 0. A CSV has the columns frame, x, y[, z] in any
order among others, or is TrackMate's (FRAME, POSITION_X …, with lines of names and units below the header); TrackMate's
XML has a Spot for each. TrackMate's positions are lengths where it knew the size of a pixel.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from warpzoo.files import FileError, reading, shortened, whole_file
from warpzoo.images.source import PixelSize

KINDS = "a CSV with the columns frame, y, x (and z), or TrackMate's CSV or XML"
XML = "TrackMate's XML"
AXES = ("x", "y", "z")


@dataclass(frozen=True)
class Tracks:
    """frames (count,), positions (count, dims) in pixels, x first; `write(path, positions)` writes the same file with
    other positions."""

    path: Path
    frames: np.ndarray
    positions: np.ndarray
    write: Callable[[Path, np.ndarray], None]

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()


def read_tracks(path: Path, dims: int, pixel: PixelSize | None = None) -> Tracks:
    """The points of images of `dims` axes; `pixel` is the size of their pixels, if TrackMate's file does not say it."""
    with reading(path, XML if path.suffix.lower() == ".xml" else KINDS):
        if path.suffix.lower() == ".xml":
            tracks = _read_xml(path, dims, pixel)
        elif path.suffix.lower() == ".csv":
            tracks = _read_csv(path, dims, pixel)
        else:
            raise FileError(f"{path} must be {KINDS}, got another suffix.")
    if not len(tracks.frames):
        raise FileError(f"{path} must hold positions, got no point.")
    return tracks


def _read_csv(path: Path, dims: int, pixel: PixelSize | None) -> Tracks:
    with open(path, newline="", encoding="utf-8-sig") as file:
        parted = max(",;\t", key=file.readline().count)
        file.seek(0)
        reader = csv.reader(file, delimiter=parted)
        numbered = [(reader.line_num, row) for row in reader if row]
    rows = [row for _, row in numbered]
    header = [name.strip().lower() for name in rows[0]] if rows else []
    names = [f"position_{axis}" if "position_x" in header else axis for axis in AXES[:dims]]
    missing = [name for name in ("frame", *names) if name not in header]
    if missing:
        raise FileError(f"{path} must be {KINDS}, got the columns {shortened(', '.join(header))}.")
    columns, frame = [header.index(name) for name in names], header.index("frame")
    first, sides = 1, np.ones(dims)
    if names[0] != "x":  # TrackMate has its features' names, short names and units below the header
        first = next((number for number in range(1, len(rows)) if _is_number(rows[number], frame)), len(rows))
    if first > 1:
        unit = rows[first - 1][columns[0]].strip("() ").lower()
        sides = _sides(path, unit, dims, pixel)
    positions, frames = [], []
    for line, row in numbered[first:]:
        if not all(_is_number(row, column) for column in (frame, *columns)) or float(row[frame]) % 1:
            raise FileError(
                f"{path}, line {line}: {shortened(','.join(row))} must have a frame and finite numbers as "
                f"{', '.join(names)}."
            )
        frames.append(int(float(row[frame])))
        positions.append([float(row[column]) for column in columns])

    def write(out: Path, moved: np.ndarray) -> None:
        changed = [list(row) for row in rows]
        for row, position in zip(changed[first:], moved * sides, strict=True):
            for column, value in zip(columns, position, strict=True):
                row[column] = number_of(value)
        with whole_file(out) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=parted, lineterminator="\n").writerows(changed)

    return Tracks(path, np.array(frames, int), np.array(positions).reshape(-1, dims) / sides, write)


def _sides(path: Path, unit: str, dims: int, pixel: PixelSize | None) -> np.ndarray:
    """How long the sides of a pixel are in a file's unit."""
    if unit in ("", "pixel", "pixels"):
        return np.ones(dims)
    if pixel is None:
        raise FileError(
            f"{path} has positions in {shortened(unit)}, and the images do not say the size of a pixel; save the "
            f"sequence with its pixel size, or the positions in pixels."
        )
    return np.array(pixel[:dims])


def _read_xml(path: Path, dims: int, pixel: PixelSize | None) -> Tracks:
    text = path.read_text(encoding="utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FileError(f"{path} declares a document type or entities, which are not read: remove them.")
    root = ElementTree.fromstring(text)
    spots = [spot for spot in root.iter("Spot") if "POSITION_X" in spot.attrib]
    image, model = (next(root.iter(name), None) for name in ("ImageData", "Model"))
    if image is not None and image.get("pixelwidth"):
        named = ("pixelwidth", "pixelheight", "voxeldepth")[:dims]
        sides = np.array([float(image.get(name, 1) or 1) for name in named])
    else:
        sides = _sides(path, "" if model is None else model.get("spatialunits", "").strip().lower(), dims, pixel)
    names = [f"POSITION_{axis.upper()}" for axis in AXES[:dims]]
    for spot in spots:
        wrong = [name for name in ("FRAME", *names) if not _is_number(spot.attrib, name)]
        if wrong:
            called, got = shortened(spot.get("ID", "without an ID")), shortened(spot.get(wrong[0], "none"))
            raise FileError(f"{path}: the spot {called} must have a finite number as {wrong[0]}, got {got}.")
    positions = np.array([[float(spot.attrib[name]) for name in names] for spot in spots]).reshape(-1, dims)

    def write(out: Path, moved: np.ndarray) -> None:
        for spot, position in zip(spots, moved * sides, strict=True):
            for name, value in zip(names, position, strict=True):
                spot.set(name, number_of(value))
        with whole_file(out) as unfinished:
            ElementTree.ElementTree(root).write(unfinished, encoding="UTF-8", xml_declaration=True)

    return Tracks(path, np.array([int(float(spot.attrib["FRAME"])) for spot in spots], int), positions / sides, write)


def _is_number(row: Any, column: Any) -> bool:
    """Whether what a row has there is a number, and a finite one."""
    try:
        return bool(np.isfinite(float(row[column])))
    except (ValueError, LookupError):
        return False


def number_of(value: float) -> str:
    """To a millionth, without the digits that arithmetic leaves; a point that has gone is NaN."""
    return f"{value:.6f}".rstrip("0").rstrip(".") if np.isfinite(value) else "NaN"
