"""A template in its folder: which subjects, what was done before, the table and the page."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from warpzoo.cohorts.many import Recipe
from warpzoo.cohorts.template import finish, iterate, start_from_mean
from warpzoo.files import FileError, alone_in, whole_file
from warpzoo.images.image import read_image, write_image
from warpzoo.record import command, versions, write_json

FEWEST = 2


def subjects_of(images: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """The subjects by name: files, or all files of one folder; those of one name are told apart by their folders."""
    paths = [Path(str(one)).expanduser().absolute() for one in images]
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(one for one in paths[0].iterdir() if one.is_file() and not one.name.startswith("."))
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist; it is given as an image.")
    if len(paths) < FEWEST:
        raise ValueError(f"images must be {FEWEST} or more, or a folder of as many, got {len(paths)}.")
    names = [path.name.partition(".")[0] for path in paths]
    if len({*names}) < len(names):
        names = [f"{path.parent.name}_{name}" for path, name in zip(paths, names, strict=True)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"images must differ in their names or folders, got {twice[0]} twice.")
    return list(zip(names, paths, strict=True))


def build_template(
    subjects: Sequence[tuple[str, Path]],
    folder: Path,
    recipe: Recipe,
    iterations: int = 4,
    start: str = "mean",
    overwrite: bool = False,
    client: Any = None,
) -> dict[str, Any]:
    """Builds a template of the subjects in a folder, from where a run of the same settings was stopped; returns what
    `template.json` records."""
    from warpzoo.report.template import write_template_page

    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations must be a whole number, 1 or more, got {iterations!r}.")
    first = None if start == "mean" else read_image(Path(start).expanduser())
    read = [*(path for _, path in subjects), *([] if first is None else [Path(start).expanduser()])]
    with alone_in(folder):
        about: dict[str, Any] = {
            "settings": {**recipe.settings, "start": "mean" if first is None else str(read[-1].absolute())},
            "subjects": {name: str(path) for name, path in subjects},
            "state": [[path.stat().st_size, path.stat().st_mtime_ns] for path in read],
        }
        record = {} if overwrite else _record(folder)
        if record and {name: record.get(name) for name in about} != json.loads(json.dumps(about, default=str)):
            raise FileError(
                f"{folder} holds a template of other subjects or settings, or of images that have changed since: "
                f"choose another folder, or --overwrite."
            )
        rows = record.get("iterations", [])[:iterations]
        if not record:
            shutil.rmtree(folder / "work", ignore_errors=True)
            beginning = start_from_mean(subjects, folder) if first is None else first
            values = beginning.array
            write_image(folder / "template_0.nii.gz", values, beginning.header, np.float32)
        if len(rows) < len(record.get("iterations", [])):
            raise FileError(f"{folder} holds a template of more iterations: choose another folder, or --overwrite.")
        about |= {"iterations": rows, "command": command(), "versions": versions()}
        write_json(folder / "template.json", about)
        for row in iterate(subjects, folder, recipe, iterations, len(rows), client):
            rows.append(row)
            write_json(folder / "template.json", about)
        about["ncc"] = dict(zip(about["subjects"], finish(subjects, folder, recipe, iterations, client), strict=True))
        write_json(folder / "template.json", about)
        _write_table(folder / "subjects.csv", about)
        looks = [folder / f"template_{number}.nii.gz" for number in range(iterations + 1)]
        write_template_page(folder / "report.html", [read_image(one) for one in looks], about)
    return about


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "template.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _write_table(path: Path, about: dict[str, Any]) -> None:
    with whole_file(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "file", "ncc"])
        writer.writerows([name, about["subjects"][name], f"{ncc:.4f}"] for name, ncc in about["ncc"].items())
