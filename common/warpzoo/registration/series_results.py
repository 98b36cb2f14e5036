"""What registering a series writes: the warped series frame by frame, a transform and a row of numbers for each frame,
and a report.
"""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from warpzoo.errors import FAILURES, plain_reason
from warpzoo.files import whole_file
from warpzoo.geometry.transforms import Affine, Transform
from warpzoo.images.image import Image, write_image
from warpzoo.images.series import SUFFIXES as SERIES_SUFFIXES
from warpzoo.images.series import create_series
from warpzoo.record import command, versions, write_json
from warpzoo.registration.listing import FURTHER, names_from, paths_of, remove_results, result_names, warped_name
from warpzoo.registration.pair import Registration
from warpzoo.registration.results import SERIES_OUTPUTS
from warpzoo.registration.series import ACROSS, SeriesRegistration
from warpzoo.registration.series_measures import Moments, Registered, flags, matrix_in_pixels, means, row_of
from warpzoo.report.film import Film
from warpzoo.report.numbers import by_frames
from warpzoo.report.planes import planes_of
from warpzoo.training.memory import give_back_freed_memory
from warpzoo.transforms import Landmarks, warp_points, write_points, write_transform

FOLDERS = {"transforms": "transform", "displacements": "displacement"}
ANIMATION = "animation.gif"
TRIMMED = 20
"""Frames after which what they have needed goes back to the system."""


class Names(NamedTuple):
    """What the results of a series are called.

    ome: whether the frames become an OME-TIFF or OME-Zarr whatever they were.
    matrices: whether the table has the matrices in pixels, and says their axes and direction.
    reference: the option that says what frames are registered to.
    """

    warped: str
    table: str
    points: str
    ome: bool = False
    matrices: bool = False
    reference: str = "to"


SERIES = Names("warped", "frames.csv", "warped_points.csv")
SEQUENCE = Names("registered", "transforms.csv", "points", ome=True, matrices=True, reference="reference")


def write_series(
    folder: Path,
    done: SeriesRegistration,
    files: Mapping[str, Any],
    settings: Mapping[str, Any],
    outputs: Collection[str] = SERIES_OUTPUTS,
    seconds: Mapping[str, float] | None = None,
    names: Names = SERIES,
    doubts: Sequence[str] = (),
) -> dict[str, Any]:
    """The files of a registered series: all of them or none; returns what metrics.json holds, which is written last.

    `doubts` are sentences on what was read.
    """
    ours = (folder / "metrics.json").exists()
    all_results = [*results_in(folder, files), *map(folder.joinpath, result_names(files))]
    others = [] if ours else [path for path in all_results if path.exists()]
    remove_series(folder, files, others)
    begun = time.perf_counter()
    try:
        film = _film(done) if "report" in outputs else None
        rows, moments = _write_frames(folder, done, outputs, names, film)
        flagged = flags(done, rows)
        _write_rows(folder / names.table, rows, flagged, _explained(done) if names.matrices else "")
        if film is not None and names.matrices:
            with whole_file(folder / ANIMATION) as unfinished:
                unfinished.write_bytes(film.gif)
        if done.to == "mean":
            mean = done.reference
            write_image(folder / "mean.nii.gz", mean.array, mean.header, np.float32)
        numbers = {
            **means(row for row in rows if row["ok"]),
            "frames": len(rows),
            "to": done.to,
            "flagged": {str(frame): reason for frame, reason in flagged.items()},
            "interrupted": False,
        }
        about = {
            "settings": dict(settings),
            "seconds": {**(seconds or {}), "write": round(time.perf_counter() - begun, 3)},
            "threads": torch.get_num_threads(),
            "resolution": resolution_of(done),
            "warnings": [*doubts, *warnings_of(done, flagged)],
            **provenance(done, files),
            "files": names_from(folder, files),
        }
        if film is not None:
            try:
                draw_series(
                    folder / "report.html",
                    done,
                    rows,
                    flagged,
                    moments,
                    {**numbers, **about, **provenance(done, files)},
                    film,
                )
            except FAILURES as error:
                about["warnings"].append(f"the report could not be drawn: {plain_reason(error)} All else is there.")
        write_json(folder / "metrics.json", {**numbers, **about})
    except BaseException:
        remove_series(folder, files, others)
        raise
    return {**numbers, **about}


def _film(done: SeriesRegistration) -> Film:
    fixed = done.fixed
    planes = planes_of(fixed.array[0].float(), fixed.grid.affine, orientation_of(fixed), body=not fixed.header.pixels)
    return Film(fixed.array[0].float(), planes[0], len(done))


def orientation_of(fixed: Image) -> str | None:
    return "matrix" if fixed.header.indexed else None


def _write_frames(
    folder: Path, done: SeriesRegistration, outputs: Collection[str], names: Names, film: Film | None
) -> tuple[list[dict[str, Any]], Moments]:
    """All frames in one go, each in memory alone."""
    companions, series = done.companions, done.series
    rows, moments, points = [], Moments(done.fixed), list[Landmarks]()
    before: Registered | None = None
    digits = len(str(len(series) - 1))
    denoises = names.ome and done.denoises
    moved = None if companions.tracks is None else companions.tracks.positions.copy()
    with ExitStack() as files:
        written = {}
        whole = companions.whole or series
        warped = {names.warped: whole, "denoised": whole if denoises else None, "warped_labels": companions.labels}
        for name, others in {**warped, **companions.also}.items():
            if others is not None and "warped" in outputs:
                path = folder / others.name(name.removesuffix(".nii.gz"), done.fixed, names.ome)
                written[name] = files.enter_context(create_series(path, others, done.fixed))
        for frame in range(len(series)):
            registration = done[frame]
            clean = done.clean(frame) if denoises else None
            warped_clean = None if clean is None else registration.warp(clean)
            images = {"denoised": clean, "warped_labels": registration.companions.labels.get("moving")}
            for name, file in written.items():
                image = images.get(name) or registration.companions.also.get(name)
                if image is not None and name == "denoised":
                    image = done.in_whole(frame, image)
                if image is None:
                    image = registration.moving if companions.whole is None else done.whole(frame)
                apart = companions.whole is not None and name in (names.warped, "denoised")
                if image is registration.moving:
                    file.put(frame, registration.warped)
                elif image is clean and warped_clean is not None:
                    file.put(frame, warped_clean)
                else:
                    file.put(frame, done.warp(frame, image) if apart else registration.warp(image))
            if moved is not None and companions.tracks is not None:
                here = companions.tracks.frames == frame
                moved[here] = done.in_reference(frame, moved[here])
            if film is not None:
                shown = {"before": registration.before, "registered": registration.warped}
                shown |= {} if warped_clean is None else {"denoised": warped_clean}
                film.add(frame, {name: image.array[0] for name, image in shown.items()})
            for place, kind in FOLDERS.items():
                if kind in outputs:
                    _write_transform(folder / place, f"{frame:0{max(4, digits)}d}", registration, kind)
            if "warped" in outputs and frame in companions.points:
                landmarks = companions.points[frame]
                points.append(landmarks._replace(points=warp_points(registration.displacement, landmarks.points)))
            registered = Registered.of(registration, warped_clean)
            rows.append(row_of(done, frame, registered, before))
            if names.matrices:
                rows[-1] = {**rows[-1], **_matrix_columns(registration)}
            if rows[-1]["ok"]:
                moments.add(registration, registered.seen)
                before = registered
            if frame % TRIMMED == TRIMMED - 1:
                give_back_freed_memory()
    if points:
        together = Landmarks(
            torch.cat([one.points for one in points]), tuple(row for one in points for row in one.rows)
        )
        write_points(folder / names.points, together, done.fixed.header)
    if moved is not None and companions.tracks is not None:
        companions.tracks.write(folder / f"{names.points}{companions.tracks.suffix}", moved)
    return rows, moments


def _matrix_columns(registration: Registration) -> dict[str, float]:
    """xx, xy, x0, yx, yy, y0: a row for each axis of the frame."""
    matrix, axes = matrix_in_pixels(registration), "xyz"[: registration.fixed.grid.dims]
    columns = [*axes, "0"]
    return {
        f"{row}{column}": round(float(matrix[i, j]), 9) + 0.0
        for i, row in enumerate(axes)
        for j, column in enumerate(columns)
    }


def _explained(done: SeriesRegistration) -> str:
    """The lines above the table."""
    axes = "xyz"[: done.fixed.grid.dims]
    sums = ", ".join(f"{to}' = {' + '.join([*(f'{to}{of}*{of}' for of in axes), f'{to}0'])}" for to in axes)
    order = "x counts columns, y rows" + (", z slices" if len(axes) == 3 else "")
    if not done.fixed.header.pixels:
        order = f"{', '.join(axes)} are the axes of the array, the first one first"
    there, here = ", ".join(axes), ", ".join(f"{axis}'" for axis in axes)
    return (
        f"# From pixels of the reference to pixels of the frame: {sums}.\n"
        f"# {order[0].upper()}{order[1:]}, from 0 at the centre of the first pixel: "
        f"registered({there}) = frame({here}).\n"
        "# The nearest matrix, if the transform is none. shift is that of the middle in pixels, angle is in degrees.\n"
    )


def _write_transform(folder: Path, number: str, registration: Registration, kind: str) -> None:
    transform: Transform = registration.transform
    if kind == "displacement":
        suffix, transform = ".nii.gz", registration.displacement
    else:
        suffix = ".tfm" if isinstance(transform, Affine) else ".h5"
    write_transform(folder / f"frame_{number}{suffix}", transform, registration.fixed, registration.moving)


def resolution_of(done: SeriesRegistration) -> Mapping[str, Sequence[float]]:
    """What the frames were compared at: of the last one that was registered."""
    return next((found for frame in reversed(range(len(done))) if (found := done.found(frame).resolution)), {})


def warnings_of(done: SeriesRegistration, flagged: Mapping[int, str]) -> list[str]:
    """What is doubtful: first what is flagged, then each finding with its frames."""
    found = ((frame, finding) for frame in range(len(done)) for finding in done.found(frame).findings)
    across = done.store.read(ACROSS, done.fixed, done.reference)
    of_reference = [] if across is None else [f"the reference: {finding}" for finding in across.findings]
    return [*by_frames(flagged.items()), *of_reference, *by_frames(found)]


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]], flagged: Mapping[int, str], explained: str = "") -> None:
    columns = [*dict.fromkeys(name for row in rows for name in row), "note"]
    with whole_file(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        file.write(explained)
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            note = flagged.get(row["frame"], "")
            writer.writerow({**row, "ok": row["ok"] and not note, "note": note})


def draw_series(
    path: Path,
    done: SeriesRegistration,
    rows: Sequence[Mapping[str, Any]],
    flagged: Mapping[int, str],
    moments: Moments,
    numbers: Mapping[str, Any],
    film: Film,
) -> Path:
    """The page of a series."""
    from warpzoo.report.series import write_series_report

    fixed = done.fixed
    stack = done.series.stack if fixed.header.pixels else None
    return write_series_report(
        path,
        fixed.array[0].float(),
        {name: (moments.mean(name), moments.deviation(name)) for name in ("before", "after")},
        rows,
        fixed.grid,
        numbers,
        flagged,
        film,
        orientation=orientation_of(fixed),
        unit="pixels" if fixed.header.pixels else "mm",
        pixel=None if stack is None else stack.source.pixel,
        seconds=done.series.seconds,
    )


def provenance(done: SeriesRegistration, files: Mapping[str, Any]) -> dict[str, Any]:
    names = {role: ", ".join(map(str, paths)) for role in files if (paths := paths_of(files, role))}
    names = names or {"moving": str(done.series.path)}
    return {"method": done.method, "files": names, "command": command(), "versions": versions()}


def results_in(folder: Path, files: Mapping[str, Any]) -> list[Path]:
    """What a series may leave in a folder, but for what a pair leaves as well; what is to be read is refused."""
    read = {path.resolve() for role in files for path in paths_of(files, role)}
    names = [warped_name(path).removesuffix(".nii.gz") for role in FURTHER for path in paths_of(files, role)]
    stems = ("warped", "registered", "denoised", "warped_labels", *names)
    written = [folder / f"{name}{end}" for name in stems for end in SERIES_SUFFIXES]
    written += [folder / name for name in ("frames.csv", "transforms.csv", "mean.nii.gz", ANIMATION)]
    written += [folder / f"{SEQUENCE.points}{end}" for end in (".csv", ".xml")]
    written += [path for place in FOLDERS for path in (folder / place).glob("frame_*")]
    for path in written:
        if path.resolve() in read:
            raise ValueError(f"{path} is an input and a result at once; choose another output folder.")
    return written


def remove_series(folder: Path, files: Mapping[str, Any], kept: Collection[Path] = ()) -> None:
    """Nothing of an earlier run shall look like this one's; `kept` are files of others."""
    written = [path for path in results_in(folder, files) if path not in kept]
    remove_results(folder, files, kept)
    for path in written:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    for place in FOLDERS:
        with suppress(OSError):  # not there, or with files of others
            (folder / place).rmdir()
