"""Pairs of files: which they are, from the command line or a CSV, and reading one."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warpzoo.files import reading
from warpzoo.images.image import Image, read_image
from warpzoo.registration.pair import Companions
from warpzoo.transforms.landmarks import read_points

SEVERAL = ("also", "also_labels")
"""Roles of any number of files."""
COLUMNS = ("id", "fixed", "moving", "fixed_labels", "moving_labels", "fixed_points", "moving_points")


def list_pairs(
    pairs: str | Path | None = None, dataset_dir: str | Path = ".", **files: str | Sequence[str] | None
) -> list[dict[str, Any]]:
    """One pair from `fixed=…, moving=…` (and labels, points, others), or all of a CSV; names relative to `dataset_dir`.

    The CSV has the columns fixed and moving, and optionally id, fixed_labels, moving_labels, fixed_points and
    moving_points; names in it are relative to its own folder. Pairs without an id are called by their row, from 1.
    `also` and `also_labels` hold one name or more, joined by commas if they are one text.
    """
    given = {name: value for name, value in files.items() if value}
    if pairs is None:
        return [_one_pair(Path(dataset_dir), given)] if given else []
    if given:
        raise ValueError(f"pairs and {', '.join(given)} are both given; name one pair or a list of pairs.")
    return _read_pairs(_located(Path(dataset_dir), pairs))


def _one_pair(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    pair: dict[str, Any] = {"id": ""}
    for name, value in given.items():
        if name in SEVERAL:
            several = value.split(",") if isinstance(value, str) else value
            pair[name] = [_located(folder, one) for one in several]
        else:
            pair[name] = _located(folder, value)
    _check_partners("", pair)
    for name in pair:
        for path in paths_of(pair, name):
            if not path.exists():
                raise ValueError(f"{path} does not exist; it is given as {name}.")
    return pair


def _read_pairs(path: Path) -> list[dict[str, Any]]:
    with (
        reading(path, "a CSV with the columns fixed and moving"),
        open(path, newline="", encoding="utf-8-sig") as file,
    ):
        reader = csv.DictReader(file, restkey="beyond the last column")
        columns = list(reader.fieldnames or [])
        rows = list(reader)
    unknown = [name for name in columns if name not in COLUMNS]
    if "fixed" not in columns or "moving" not in columns or unknown:
        raise ValueError(f"{path} has the columns {columns}; it must have fixed and moving, and may have {COLUMNS}.")
    listed: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}: "
        if reader.restkey in row:
            raise ValueError(f"{where}it has more fields than there are columns; quote names that hold a comma.")
        name = re.sub(r"[^\w.-]+", "_", row.get("id") or str(number)).lstrip(".") or str(number)
        if name in listed:
            raise ValueError(f"{where}the id {name!r} was there before; each pair gets a folder of its own by it.")
        files = {column: _located(path.parent, row[column]) for column in columns if column != "id" and row[column]}
        listed[name] = {"id": name, **files}
        _check_partners(where, listed[name])
    if not listed:
        raise ValueError(f"{path} lists no pair.")
    return list(listed.values())


def _check_partners(where: str, pair: Mapping[str, Any]) -> None:
    for name in ("fixed", "moving"):
        if name not in pair:
            raise ValueError(f"{where}{name} is not given; a pair must have a fixed and a moving image.")
    for kind in ("labels", "points"):
        if f"fixed_{kind}" in pair and f"moving_{kind}" not in pair:
            raise ValueError(f"{where}fixed_{kind} is given without moving_{kind}; it is what they are compared with.")
    results = result_names(pair)
    for name in results:
        if results.count(name) > 1:
            raise ValueError(f"{where}two results would be called {name}; rename one of the other files.")


def read_pair(files: Mapping[str, Any]) -> tuple[Image, Image, Companions]:
    """The fixed and the moving image of a pair of `list_pairs`, and what belongs to them."""
    fixed, moving = read_image(files["fixed"]), read_image(files["moving"])
    sides = {"fixed": fixed, "moving": moving}
    return (
        fixed,
        moving,
        Companions(
            labels={
                side: read_image(path, labels=True) for side in sides for path in paths_of(files, f"{side}_labels")
            },
            points={
                side: read_points(path, image.header)
                for side, image in sides.items()
                for path in paths_of(files, f"{side}_points")
            },
            also={
                warped_name(path): read_image(path, labels=role == "also_labels")
                for role in SEVERAL
                for path in paths_of(files, role)
            },
        ),
    )


def paths_of(pair: Mapping[str, Any], name: str) -> list[Path]:
    """The files of a pair under one of its names."""
    value = pair.get(name) or []
    return [value] if isinstance(value, Path) else [path for path in value if isinstance(path, Path)]


def names_from(folder: Path, pair: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """What the files of a pair are called in that folder's `metrics.json`: relative to it, so that all may move."""

    def name(path: Path) -> str:
        try:
            return Path(os.path.relpath(path, folder)).as_posix()
        except ValueError:  # on another drive
            return path.absolute().as_posix()

    names: dict[str, str | list[str]] = {}
    for role in pair:
        if paths := [name(path) for path in paths_of(pair, role)]:
            names[role] = paths if role in SEVERAL else paths[0]
    return names


def result_names(pair: Mapping[str, Any]) -> list[str]:
    """What registering a pair may write; `metrics.json` is written last and says that all others are whole."""
    return [
        "metrics.json",
        "warped.nii.gz",
        "transform.h5",
        "transform.tfm",
        "displacement.nii.gz",
        "warped_labels.nii.gz",
        "warped_points.csv",
        "report.html",
        "report.png",
        "thumbnail.jpg",
        *(warped_name(path) for role in SEVERAL for path in paths_of(pair, role)),
    ]


def warped_name(path: Path) -> str:
    """What another image of the moving space is called once it is warped."""
    return f"warped_{path.name.removesuffix('.gz').removesuffix(Path(path.name.removesuffix('.gz')).suffix)}.nii.gz"


def remove_results(folder: Path, pair: Mapping[str, Any]) -> None:
    """Nothing of an earlier run shall look like this one's; what is to be read is refused, not removed."""
    read = {path.resolve() for name in pair for path in paths_of(pair, name)}
    for name in result_names(pair):
        if (folder / name).resolve() in read:
            raise ValueError(f"{folder / name} is an input and a result at once; choose another output folder.")
    for name in result_names(pair):
        (folder / name).unlink(missing_ok=True)


def _located(folder: Path, name: Any) -> Path:
    return folder / Path(str(name)).expanduser()
