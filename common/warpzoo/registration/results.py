"""What a registration writes: files on the fixed image's own grid, numbers, and a report to look at."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warpzoo.checks import check_truth
from warpzoo.errors import FAILURES, Finding, plain_reason
from warpzoo.files import whole_file
from warpzoo.geometry.transforms import Affine
from warpzoo.images.image import write_image
from warpzoo.record import command, versions, write_json
from warpzoo.registration.both_ways import BothWays
from warpzoo.registration.inverse import Inverse
from warpzoo.registration.listing import names_from, paths_of, picture_name, remove_results
from warpzoo.registration.pair import Registration
from warpzoo.transforms import warp_points, write_points, write_transforms

OUTPUTS = ("warped", "transform", "displacement", "report")
"""What is written beside metrics.json; `warped` is the image and all that is warped along with it."""
SERIES_OUTPUTS = ("warped", "transform", "report")
"""The same of a moving image with time: the displacement of every frame takes much space, and its transform says it."""
SEQUENCE_OUTPUTS = ("warped", "report")
"""The same of a sequence, whose transforms are in a table."""


def chosen_outputs(
    only: str | Sequence[str] | None = None, report: bool | str = True, inverse: bool | str = False
) -> tuple[str, ...]:
    """Which of `OUTPUTS` are written, and "inverse" if that is: all, or `only` some, joined by commas if one text."""
    names = [*OUTPUTS] if only is None else only.split(",") if isinstance(only, str) else [*only]
    names = [name.strip() for name in names]
    for name in names:
        if name not in (*OUTPUTS, "inverse"):
            raise ValueError(f"save must be some of {', '.join(OUTPUTS)} and inverse, got {name!r}.")
    if check_truth("inverse", inverse):
        names.append("inverse")
    return tuple(name for name in dict.fromkeys(names) if name != "report" or check_truth("report", report))


def write_results(
    folder: Path,
    registration: Registration,
    files: Mapping[str, Any],
    settings: Mapping[str, Any],
    outputs: Collection[str] = OUTPUTS,
) -> Path:
    """The files of one registered pair, see `chosen_outputs`: all of them or none, but for a report that cannot be
    drawn.

    `metrics.json`, with the settings in it, comes last and says that all others are complete.
    """
    remove_results(folder, files)
    begun = time.perf_counter()
    try:
        numbers = {**registration.metrics, "interrupted": registration.interrupted}
        measured = time.perf_counter()
        findings = list(registration.findings)
        _write_images(folder, registration, outputs)
        if isinstance(registration, BothWays):
            write_image(folder / "disagreement.nii.gz", registration.disagreement[None], registration.fixed.header)
        if "inverse" in outputs:
            numbers |= registration.inverse.metrics
            findings += registration.inverse.findings
            _write_inverse(folder, registration.inverse)
        if "report" in outputs:
            try:
                draw_report(folder, registration, files)
            except FAILURES as error:
                findings.append(
                    Finding("warning", f"the report could not be drawn: {plain_reason(error)}", "All else is there.")
                )
        seconds = {**registration.seconds, "measure": measured - begun, "write": time.perf_counter() - measured}
        about = {
            "settings": dict(settings),
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "threads": torch.get_num_threads(),
            "resolution": {name: list(spacing) for name, spacing in registration.resolution.items()},
            "likeness": likeness_of(registration),
            "left_out": list(registration.left_out),
            "warnings": [*registration.notes, *map(str, findings)],
            **_provenance(registration, files),
            "files": names_from(folder, files),
        }
        write_json(folder / "metrics.json", {**numbers, **about})
    except BaseException:
        remove_results(folder, files)
        raise
    return folder


def draw_report(path: str | Path, registration: Registration, files: Mapping[str, Any] | None = None) -> Path:
    """The page of a registration; `path` is an .html file, or a folder for report.html, report.png and, for a pair of
    a list, thumbnail.jpg."""
    from warpzoo.report.page import write_report

    fixed = registration.fixed
    return write_report(
        path,
        fixed.array[0].float(),
        registration.before.array[0].float(),
        registration.warped.array[0].float(),
        registration.displacement.displacement[0],
        fixed.grid,
        {
            **registration.metrics,
            "seconds": registration.seconds,
            "resolution": registration.resolution,
            "likeness": likeness_of(registration),
            "left_out": registration.left_out,
        },
        _provenance(registration, files or {}),
        findings=registration.findings,
        notes=registration.notes,
        orientation="matrix" if fixed.header.indexed else None,
        unit="pixels" if fixed.header.pixels else "mm",
        thumbnail=bool(files and files.get("id")),
        disagreement=registration.disagreement if isinstance(registration, BothWays) else None,
    )


def likeness_of(registration: Registration) -> dict[str, dict[str, float]]:
    return {
        stage: {measure: round(value, 4) for measure, value in asdict(alike).items()}
        for stage, alike in registration.likeness.items()
    }


def read_numbers(folder: Path) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return numbers


def summary(numbers: Mapping[str, Any]) -> str:
    """The sentence on a result that a command ends with."""
    parts = []
    for name, words in (("ncc", "ncc"), ("ncc_inside", "inside the masks")):
        if numbers.get(name) is not None:
            parts.append(f"{words} {numbers[f'{name}_before']:.3f} -> {numbers[name]:.3f}")
    parts.append(f"folding {100 * numbers['folding']:.2f} %")
    if numbers.get("dice_mean") is not None:
        parts.append(f"Dice {numbers['dice_before_mean']:.3f} -> {numbers['dice_mean']:.3f}")
    if "tre" in numbers:
        parts.append(f"target registration error {numbers['tre_before']:.2f} -> {numbers['tre']:.2f}")
    return ", ".join(parts) + (" (interrupted)" if numbers["interrupted"] else "")


def stages(numbers: Mapping[str, Any]) -> str:
    """What each method of a chain gained, by correlation in windows and mutual information together."""
    alike = {name: one["windows"] + one["information"] for name, one in numbers.get("likeness", {}).items()}
    said = []
    for name, total in alike.items():
        first, *again = name.split(",")
        looks = f" ({1 + len(again)} times)" if again else ""
        said.append(f"{first}{looks} {total:.3f}{' (left out)' if name in numbers['left_out'] else ''}")
    return f"alike: {', '.join(said)}" if len(said) > 2 else ""


def write_list(folder: Path, ids: Sequence[str], done: Collection[str], failures: Mapping[str, str]) -> None:
    """`metrics.csv` with a row of numbers for every pair that is done, `failures.csv` with the reasons of those that
    failed, and `overview.html`, the page of them all."""
    from warpzoo.report.overview import write_overview

    numbers = {name: read_numbers(folder / name) for name in ids if name in done}
    rows = [{"id": name, **flat_numbers(one)} for name, one in numbers.items()]
    tables: dict[str, list[dict[str, Any]]] = {
        "metrics.csv": rows,
        "failures.csv": [{"id": name, "reason": why} for name, why in failures.items()],
    }
    for name, table in tables.items():
        if not table:
            (folder / name).unlink(missing_ok=True)
            continue
        columns = list(dict.fromkeys(column for row in table for column in row))
        with whole_file(folder / name) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(table)
    write_overview(folder / "overview.html", numbers, failures, len(ids) - len(numbers) - len(failures))


def flat_numbers(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested dictionary, by names such as dice_1 and seconds_affine."""
    flat: dict[str, float] = {}
    for name, value in numbers.items():
        if name in ("versions", "files", "settings"):
            continue
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{name}_")
        elif isinstance(value, (int, float)):
            flat[prefix + name] = value
    return flat


def _write_images(folder: Path, registration: Registration, outputs: Collection[str]) -> None:
    fixed, moving, companions = registration.fixed, registration.moving, registration.companions
    transform = registration.transform
    if "warped" in outputs:
        written = {"warped.nii.gz": registration.warped}
        if "moving" in companions.labels and companions.labels["moving"] is not moving:
            written["warped_labels.nii.gz"] = registration.warp(companions.labels["moving"])
        written |= {name: registration.warp(image) for name, image in companions.also.items()}
        for name, image in written.items():
            write_image(folder / name, image.array, image.header)
            if image.header.pixels and len(image.array) == 1:
                write_image(folder / picture_name(name), image.array, image.header)
    placed = transform if isinstance(transform, Affine) else registration.displacement
    write_transforms(folder, placed, fixed, moving, outputs)
    if "warped" in outputs and "moving" in companions.points:
        landmarks = companions.points["moving"]
        points = warp_points(registration.displacement, landmarks.points)
        write_points(folder / "warped_points.csv", landmarks._replace(points=points), fixed.header)


def _write_inverse(folder: Path, inverse: Inverse) -> None:
    warped = inverse.warped
    write_transforms(folder, inverse.transform, inverse.moving, inverse.fixed, prefix="inverse_")
    write_image(folder / "inverse_warped.nii.gz", warped.array, warped.header)
    if bool(inverse.missing.any()):
        write_image(folder / "inverse_missing.nii.gz", inverse.missing, inverse.moving.header, np.uint8)


def _provenance(registration: Registration, files: Mapping[str, Any]) -> dict[str, Any]:
    names = {role: ", ".join(map(str, paths)) for role in files if (paths := paths_of(files, role))}
    if not names:
        names = {"fixed": str(registration.fixed.header.path), "moving": str(registration.moving.header.path)}
    return {"method": registration.method, "files": names, "command": command(), "versions": versions()}
