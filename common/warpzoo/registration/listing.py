"""Pairs of files: which they are, from the command line or a CSV, and reading one."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from warpzoo.files import FileError, reading, remove_unfinished, shortened
from warpzoo.images.image import Image, read_image
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.pair import Companions
from warpzoo.transforms import read_points, read_start

FURTHER = ("also", "also_labels")
"""Roles of files that are warped along with the moving image."""
SEVERAL = (*FURTHER, "initial")
"""Roles of any number of files."""
BESIDE = ("fixed_labels", "moving_labels", "fixed_points", "moving_points", "fixed_mask", "moving_mask", "initial")
COLUMNS = ("id", "fixed", "moving", *BESIDE)


def list_pairs(
    pairs: str | Path | None = None,
    dataset_dir: str | Path = ".",
    series: bool = False,
    **files: str | Sequence[str] | None,
) -> list[dict[str, Any]]:
    """One pair from `fixed=…, moving=…` (and labels, points, masks, others), or all of a CSV; names relative to
    `dataset_dir`.

    The CSV has the columns fixed and moving, and optionally id and those of `BESIDE`; names in it are relative to its
    own folder. Label maps, or else masks, may be registered alone, without fixed and moving. Pairs without an id are
    called by their row, from 1. The roles in `SEVERAL` hold one name or more, joined by commas if they are one text. A
    moving image with time, a `series`, may be without a fixed one.
    """
    if empty := [name for name, value in files.items() if value == ""]:
        raise ValueError(f"{empty[0]} must name a file, got an empty text.")
    given = {name: value for name, value in files.items() if value}
    if pairs is None:
        return [_one_pair(Path(dataset_dir), given, series)] if given else []
    if given:
        raise ValueError(f"pairs and {', '.join(given)} are both given; name one pair or a list of pairs.")
    return _read_pairs(_located(Path(dataset_dir), pairs))


def _one_pair(folder: Path, given: dict[str, Any], series: bool) -> dict[str, Any]:
    pair: dict[str, Any] = {"id": ""}
    for name, value in given.items():
        pair[name] = _named(folder, name, value)
    _check_partners("", pair, series)
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
    kind = registered(dict.fromkeys(columns))
    if f"fixed{kind}" not in columns or f"moving{kind}" not in columns or unknown:
        got = shortened(", ".join(columns))
        raise FileError(f"{path} has the columns {got}; it must have fixed and moving, and may have {COLUMNS}.")
    for number, row in enumerate(rows, start=1):
        if reader.restkey in row:
            raise ValueError(
                f"{path}, row {number}: it has more fields than there are columns; quote names that hold a comma."
            )
    return pairs_of(rows, path.parent, f"{path}, row ")


def pairs_of(rows: Sequence[Mapping[str, Any]], folder: Path, where: str = "pair ") -> list[dict[str, Any]]:
    """Pairs from rows with those columns; names are relative to the folder, and `where` is what a row is called."""
    listed: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=1):
        here = f"{where}{number}: "
        if unknown := [name for name in row if name not in COLUMNS]:
            raise ValueError(f"{here}it must have fixed and moving, and may have {COLUMNS}, got {unknown[0]!r}.")
        name = re.sub(r"[^\w.-]+", "_", str(row.get("id") or number)).lstrip(".") or str(number)
        if name in listed:
            raise FileError(
                f"{here}the id {shortened(name)!r} was there before; each pair gets a folder of its own by it."
            )
        files = {role: _named(folder, role, value) for role, value in row.items() if role != "id" and value}
        listed[name] = {"id": name, **files}
        _check_partners(here, listed[name])
    if not listed:
        raise ValueError(f"{where.rpartition(',')[0] or 'pairs'} lists no pair.")
    return list(listed.values())


def _check_partners(where: str, pair: Mapping[str, Any], series: bool = False) -> None:
    kind = registered(pair)
    for name in ("moving",) if series else (f"fixed{kind}", f"moving{kind}"):
        if name not in pair:
            raise ValueError(f"{where}{name} is not given; a pair must have a fixed and a moving image.")
    for kind in ("labels", "points"):
        if f"fixed_{kind}" in pair and f"moving_{kind}" not in pair:
            raise ValueError(f"{where}fixed_{kind} is given without moving_{kind}; it is what they are compared with.")
    results = result_names(pair)
    for name in results:
        if results.count(name) > 1:
            raise ValueError(f"{where}two results would be called {name}; rename one of the other files.")


def registered(pair: Mapping[str, Any]) -> str:
    """What is registered, by the end of its roles: images (""), or where there are none "_labels" or "_mask"."""
    if "fixed" not in pair and "moving" not in pair:
        for kind in ("_labels", "_mask"):
            if f"fixed{kind}" in pair and f"moving{kind}" in pair:
                return kind
    return ""


def _image_of(files: Mapping[str, Any], side: str, kind: str, channels: bool) -> Image:
    image = read_image(files[f"{side}{kind}"], labels=kind == "_labels", channels=channels and not kind)
    return replace(image, array=(image.array > 0).long()) if kind == "_mask" else image


def read_pair(files: Mapping[str, Any], landmarks_weight: float = 0.0, channels: bool = False) -> dict[str, Any]:
    """A pair of `list_pairs` as the arguments of `register_pair` with these names: fixed, moving, start, companions and
    guidance; with `channels`, images may have several."""
    kind = registered(files)
    fixed, moving = (_image_of(files, side, kind, channels) for side in ("fixed", "moving"))
    sides, initial = {"fixed": fixed, "moving": moving}, paths_of(files, "initial")
    points = {
        side: read_points(path, image.header)
        for side, image in sides.items()
        for path in paths_of(files, f"{side}_points")
    }
    labels = {side: read_image(path, labels=True) for side in sides for path in paths_of(files, f"{side}_labels")}
    masks = {side: read_image(path) for side in sides for path in paths_of(files, f"{side}_mask")}
    if kind:
        labels, masks = sides, masks if kind == "_labels" else {}
    return {
        "fixed": fixed,
        "moving": moving,
        "start": read_start(initial, fixed, moving) if initial else None,
        "guidance": Guidance(masks, points, landmarks_weight),
        "companions": Companions(
            labels=labels,
            points=points,
            also={
                warped_name(path): read_image(path, labels=role == "also_labels", channels=channels and role == "also")
                for role in FURTHER
                for path in paths_of(files, role)
            },
        ),
    }


def paths_of(pair: Mapping[str, Any], name: str) -> list[Path]:
    """The files of a pair under one of its names."""
    value = pair.get(name) or []
    return [value] if isinstance(value, Path) else [path for path in value if isinstance(path, Path)]


def absolute(pair: Mapping[str, Any]) -> dict[str, Any]:
    """The pair with files that can be found from any working directory."""
    found = dict(pair)
    for role in pair:
        if paths := [path.absolute() for path in paths_of(pair, role)]:
            found[role] = paths if role in SEVERAL else paths[0]
    return found


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
    warped = [warped_name(path) for role in FURTHER for path in paths_of(pair, role)]
    warped = ["warped.nii.gz", "warped_labels.nii.gz", *warped]
    return [
        "metrics.json",
        *warped,
        *map(picture_name, warped),
        "transform.h5",
        "transform.tfm",
        "displacement.nii.gz",
        "inverse_transform.h5",
        "inverse_transform.tfm",
        "inverse_displacement.nii.gz",
        "inverse_warped.nii.gz",
        "inverse_missing.nii.gz",
        "disagreement.nii.gz",
        "warped_points.csv",
        "report.html",
        "report.png",
        "thumbnail.jpg",
    ]


def warped_name(path: Path) -> str:
    """What another image of the moving space is called once it is warped."""
    return f"warped_{path.name.removesuffix('.gz').removesuffix(Path(path.name.removesuffix('.gz')).suffix)}.nii.gz"


def picture_name(name: str) -> str:
    """What a warped image is called as a TIFF, which there is too of images that lie in pixels."""
    return f"{name.removesuffix('.nii.gz')}.tif"


def remove_results(folder: Path, pair: Mapping[str, Any], kept: Collection[Path] = ()) -> None:
    """Nothing of an earlier run shall look like this one's; what is to be read is refused, not removed, and `kept` are
    files of others."""
    read = {path.resolve() for name in pair for path in paths_of(pair, name)}
    for name in result_names(pair):
        if (folder / name).resolve() in read:
            raise ValueError(f"{folder / name} is an input and a result at once; choose another output folder.")
    further = [*folder.glob("warped_*.nii.gz"), *folder.glob("warped_*.tif")]
    further = further if (folder / "metrics.json").exists() else []
    for path in [*(one for one in further if one.resolve() not in read), *map(folder.joinpath, result_names(pair))]:
        if path not in kept:
            path.unlink(missing_ok=True)
    remove_unfinished(folder, result_names(pair))


def _named(folder: Path, role: str, value: Any) -> Path | list[Path]:
    if role not in SEVERAL:
        return _located(folder, value)
    names = value.split(",") if isinstance(value, str) else value
    if not all(str(one).strip() for one in names):
        raise ValueError(f"{role} must be files joined by single commas, got {value!r}.")
    return [_located(folder, one) for one in names]


def _located(folder: Path, name: Any) -> Path:
    return folder / Path(str(name)).expanduser()
