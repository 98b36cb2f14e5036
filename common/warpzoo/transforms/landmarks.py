"""Landmarks: CSV and Slicer's .fcsv and .mrk.json, and the way they take through a transform.

Convention: in memory points (count, dims) are float64 in RAS world millimetres. A CSV has columns x, y[, z] in the same
(in pixels, column and row, for images whose world is pixels); Slicer's files say whether they are in RAS or LPS.

A transform takes points of the fixed image to the moving image. Landmarks of the moving image therefore go to the fixed
image, where the warped image shows them, by its inverse.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from warpzoo.files import FileError, reading, shortened, whole_file
from warpzoo.geometry.transforms import Transform
from warpzoo.images.image import Header, flip_lps

SUFFIXES = (".csv", ".fcsv", ".mrk.json")
KINDS = "a CSV with columns x, y (and z), a Slicer .fcsv or a .mrk.json"
_FCSV_COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID"]


class Landmarks(NamedTuple):
    """points (count, dims) and, for each, the other columns of its file (`label` among them, where it has one)."""

    points: Tensor
    rows: tuple[dict[str, str], ...]


def warp_points(transform: Transform, points: Tensor, to_fixed: bool = True) -> Tensor:
    """World points (count, dims) of the moving image → the fixed image, or from fixed to moving."""
    return (transform.inverse() if to_fixed else transform).world(points)[0]


def read_points(path: str | Path, header: Header | None = None) -> Landmarks:
    """The landmarks of an image in the world of its grid; `header` is the image's (None: RAS millimetres as they are).

    On a volume of one slice that was read as 2-D they are laid on its plane.
    """
    path = Path(path)
    name = path.name.lower()
    with reading(path, KINDS):
        if name.endswith(".mrk.json"):
            values, rows, lps = _read_markups(path)
        elif name.endswith(".fcsv"):
            values, rows, lps = _read_fcsv(path)
        elif name.endswith(".csv"):
            values, rows = _read_csv(path)
            lps = header is not None and header.pixels
        else:
            raise FileError(f"{path} must be {KINDS}, got another suffix.")
    if not len(values) or not np.isfinite(values).all():
        got = "NaN or infinity" if len(values) else "no landmark"
        raise FileError(f"{path} must hold finite positions, got {got}.")
    if header is not None and len(header.shape) == 2:
        values = values[:, :2]
    dims = values.shape[1]
    if header is not None and dims != len(header.shape):
        raise FileError(f"{path} has {dims}-D landmarks for the {len(header.shape)}-D image {header.path}.")
    if lps:
        values = values * np.diag(flip_lps(dims))[:dims]
    if header is not None and header.lift is not None:
        lift = np.linalg.inv(header.lift)
        values = (values @ lift[:3, :3].T + lift[:3, 3])[:, :2]
    return Landmarks(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)), tuple(rows))


def points_by_frame(path: str | Path, header: Header | None = None) -> dict[int, Landmarks]:
    """The landmarks of each frame of a series, by the column `frame` of their CSV, from 0."""
    landmarks = read_points(path, header)
    rows: dict[int, list[int]] = {}
    for number, row in enumerate(landmarks.rows):
        if not row.get("frame", "").isdecimal():
            raise FileError(f"{path} must have a column frame of whole numbers from 0, as landmarks of a series.")
        rows.setdefault(int(row["frame"]), []).append(number)
    return {
        frame: Landmarks(landmarks.points[torch.tensor(some)], tuple(landmarks.rows[number] for number in some))
        for frame, some in sorted(rows.items())
    }


def together(landmarks: Sequence[Landmarks]) -> Landmarks:
    """Those of several frames as one table."""
    return Landmarks(torch.cat([one.points for one in landmarks]), tuple(row for one in landmarks for row in one.rows))


def write_points(path: str | Path, landmarks: Landmarks, header: Header | None = None) -> Path:
    """The inverse of `read_points`: `header` is that of the image they lie in. Slicer's kinds are written in LPS."""
    path = Path(path)
    name = path.name.lower()
    values = landmarks.points.detach().cpu().double().numpy()
    if header is not None and header.lift is not None:
        values = np.pad(values, ((0, 0), (0, 1))) @ header.lift[:3, :3].T + header.lift[:3, 3]
    dims = values.shape[1]
    lps = values * np.diag(flip_lps(dims))[:dims]
    labels = [row.get("label") or row.get("name") or str(number + 1) for number, row in enumerate(landmarks.rows)]
    text = io.StringIO(newline="")
    if name.endswith(".csv"):
        axes = ["x", "y", "z"][:dims]
        others = [key for key in (landmarks.rows[0] if landmarks.rows else ()) if key not in axes]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*others, *axes])
        for row, position in zip(landmarks.rows, lps if header is not None and header.pixels else values, strict=True):
            writer.writerow([*(row.get(key, "") for key in others), *map(_number, position)])
    elif name.endswith(".fcsv"):
        text.write(
            f"# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = {','.join(_FCSV_COLUMNS)}\n"
        )
        writer = csv.writer(text, lineterminator="\n")
        for number, (label, position) in enumerate(zip(labels, _in_space(lps), strict=True)):
            writer.writerow([number + 1, *map(_number, position), 0, 0, 0, 1, 1, 1, 0, label, "", ""])
    elif name.endswith(".mrk.json"):
        points = [
            {"id": str(number + 1), "label": label, "position": list(map(float, map(_number, position)))}
            for number, (label, position) in enumerate(zip(labels, _in_space(lps), strict=True))
        ]
        schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
        markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
        json.dump({"@schema": schema + "markups-schema-v1.0.3.json#", "markups": [markup]}, text, indent=1)
    else:
        raise FileError(f"{path}: a file of landmarks must be named .csv, .fcsv or .mrk.json.")
    with whole_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return path


def _number(value: float) -> str:
    """To a millionth of a millimetre, without the digits that arithmetic leaves."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _in_space(values: np.ndarray) -> np.ndarray:
    """Slicer knows points in space only: those of the plane lie at height 0."""
    return np.pad(values, ((0, 0), (0, 3 - values.shape[1])))


def _read_csv(path: Path) -> tuple[np.ndarray, list[dict[str, str]]]:
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise FileError(f"{path} is empty; it must be {KINDS}.")
    delimiter = next((mark for mark in ("\t", ";") if mark in lines[0]), ",")
    names = [name.strip().lower() for name in next(csv.reader(lines[:1], delimiter=delimiter))]
    if all(_is_number(name) for name in names) and len(names) in (2, 3):
        names, first = ["x", "y", "z"][: len(names)], 0
    else:
        first = 1
    axes = ["x", "y", "z"] if "z" in names else ["x", "y"]
    if not {"x", "y"} <= set(names):
        raise FileError(f"{path} must have the columns x, y (and z), got {shortened(', '.join(names))}.")
    values, rows = [], []
    for number, fields in enumerate(csv.reader(lines[first:], delimiter=delimiter), first + 1):
        row = dict(zip(names, (field.strip() for field in fields), strict=False))
        if not all(_is_number(row.get(axis, "")) for axis in axes):
            line = shortened(delimiter.join(fields))
            raise FileError(f"{path}, line {number}: {line} must have numbers as {axes}.")
        values.append([float(row[axis]) for axis in axes])
        rows.append({key: value for key, value in row.items() if key not in axes})
    return np.array(values), rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_fcsv(path: Path) -> tuple[np.ndarray, list[dict[str, str]], bool]:
    system, columns, lines = "RAS", _FCSV_COLUMNS, []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and key.strip() == "CoordinateSystem":
            system = {"0": "RAS", "1": "LPS"}.get(value.strip(), value.strip())
        elif line.startswith("#") and key.strip() == "columns":
            columns = [name.strip() for name in value.split(",")]
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    rows = [dict(zip(columns, fields, strict=False)) for fields in csv.reader(lines)]
    values = np.array([[float(row[axis]) for axis in "xyz"] for row in rows])
    return values, [{"label": row.get("label", "")} for row in rows], _is_lps(path, system)


def _read_markups(path: Path) -> tuple[np.ndarray, list[dict[str, str]], bool]:
    markups = json.loads(path.read_text(encoding="utf-8"))["markups"]
    systems = {markup.get("coordinateSystem", "LPS") for markup in markups}
    if len(systems) != 1:
        raise FileError(f"{path} holds lists in different coordinate systems; save each list as a file of its own.")
    points = [point for markup in markups for point in markup["controlPoints"]]
    values = np.array([point["position"] for point in points], dtype=np.float64)
    return values, [{"label": point.get("label", "")} for point in points], _is_lps(path, systems.pop())


def _is_lps(path: Path, system: str) -> bool:
    if system not in ("RAS", "LPS"):
        raise FileError(
            f"{path} must be in the coordinate system RAS or LPS, got {shortened(str(system))}; save it as one of them."
        )
    return system == "LPS"
