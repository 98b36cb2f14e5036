"""A series from its files to its results: what is read beside it, and what has been found so far, kept in a folder.

Convention: while a series is registered, its output folder has a folder `unfinished`, from which the same command goes
on; it is removed when the results are there.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from warpzoo.errors import FAILURES
from warpzoo.files import FileError, alone_in
from warpzoo.geometry.transforms import Affine, Transform
from warpzoo.images.image import Image, read_image
from warpzoo.images.resampling import Resampling
from warpzoo.images.series import Series, has_time, open_series
from warpzoo.record import versions, write_json
from warpzoo.registration.found import Found, placed
from warpzoo.registration.listing import FURTHER, paths_of, warped_name
from warpzoo.registration.pair import Method
from warpzoo.registration.results import summary
from warpzoo.registration.series import Ahead, SeriesCompanions, own_reference, register_series
from warpzoo.registration.series_results import SERIES, Names, results_in, write_series
from warpzoo.transforms import points_by_frame, read_points, read_start, write_transform

UNFINISHED = "unfinished"
MOST_SAID = 10
"""Warnings in the terminal; metrics.json has them all."""


class InFolder:
    """A store of what was found: a file of what is said of it, written after that of a transform that is no matrix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def count(self) -> int:
        """How many transforms of frames there are, in all rounds."""
        return len([*self.folder.glob("*/frame_*.json")])

    def read(self, name: str, fixed: Image, moving: Image) -> Found | None:
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        said = json.loads(path.read_text(encoding="utf-8"))
        file = said.pop("file")
        matrix = np.array(said.pop("matrix"))
        load = (
            partial(placed, matrix, fixed.grid) if file is None else partial(_read, self.folder / file, fixed, moving)
        )
        return Found(load, matrix, **{**said, "findings": tuple(said["findings"])})

    def write(self, name: str, found: Found, fixed: Image, moving: Image) -> None:
        transform, file = found.transform, None
        if not isinstance(transform, Affine):
            file = f"{name}.h5"
            write_transform(self.folder / file, transform, fixed, moving)
        said = {
            "file": file,
            "matrix": found.matrix.tolist(),
            "likeness": found.likeness,
            "failed": found.failed,
            "findings": found.findings,
            "moved": found.moved,
            "seconds": found.seconds,
            "resolution": dict(found.resolution),
        }
        write_json(self.folder / f"{name}.json", said)


def _read(path: Path, fixed: Image, moving: Image) -> Transform:
    return read_start([path], fixed, moving)


def is_series(
    moving: str | None, to: str | None, time_axis: int | None, pairs: str | None = None, channels: bool = False
) -> bool:
    """Whether the moving image is one with time, by what is asked for or by its file."""
    if to is not None:
        own_reference(to)
    asked = [name for name, value in {"to": to, "time_axis": time_axis}.items() if value is not None]
    if asked and (pairs is not None or not moving):
        other = "pairs: register each series alone" if pairs is not None else "a moving image that has time"
        raise ValueError(f"{asked[0]} must {'not ' if pairs is not None else ''}be given with {other}.")
    if asked or pairs is not None or not moving or channels:
        return bool(asked)
    path = Path(moving).expanduser()
    return path.exists() and has_time(path)


def register_series_files(
    files: Mapping[str, Any],
    folder: Path,
    methods: Sequence[Method],
    resampling: Resampling,
    settings: Mapping[str, Any],
    strict: bool = False,
    anew: bool = False,
    names: Names = SERIES,
    prepare: Callable[[dict[str, Any], InFolder], list[str]] | None = None,
    ahead: Ahead | None = None,
) -> str:
    """Registers a series, or goes on with it, and writes the results; returns the line that sums them up.

    `names` is what they are called; `prepare` does what has to be done before to the arguments of `register_series`,
    and returns sentences on it; `ahead` is one of those.
    """
    if "inverse" in settings["outputs"]:
        raise ValueError("inverse must not be given with a series: warpzoo apply --inverse inverts its transforms.")
    if settings["landmarks_weight"]:
        raise ValueError("landmarks_weight must not be given with a series, whose landmarks are measured alone.")
    begun = time.perf_counter()
    results_in(folder, files)  # that none of them is to be read
    given = read_series(files, settings["to"], settings["channels"], settings["time_axis"], settings.get("channel"))
    resampling.check(given["series"].header.dtype)
    if settings["to"] is not None:
        own_reference(settings["to"], len(given["series"]), names.reference)
    kept = {name: value for name, value in settings.items() if name not in ("outputs", "interpolation", "outside")}
    with alone_in(folder):
        store = open_store(folder, files, kept, anew)
        try:
            doubts = [] if prepare is None else prepare(given, store)
            done = register_series(
                **given,
                methods=methods,
                to=settings["to"],
                resampling=resampling,
                strict=strict,
                safe=settings["safe"],
                store=store,
                consistent=settings.get("consistent", False),
                ahead=ahead,
            )
            seconds = {"register": round(time.perf_counter() - begun, 3)}
            numbers = write_series(folder, done, files, settings, settings["outputs"], seconds, names, doubts)
        except KeyboardInterrupt:
            print(f"stopped after {store.count} registrations of frames; the same command goes on.", file=sys.stderr)
            raise
        except FAILURES:
            if store.count < 2:  # nothing to go on from, but that a frame is itself
                shutil.rmtree(store.folder)
            raise
        shutil.rmtree(store.folder)
    warnings = numbers["warnings"]
    for warning in warnings[:MOST_SAID]:
        print(f"warning: {warning}")
    if len(warnings) > MOST_SAID:
        print(f"warning: and {len(warnings) - MOST_SAID} more, see {folder / 'metrics.json'}.")
    return f"{len(done)} frames, {len(numbers['flagged'])} flagged, {summary(numbers)}"


def open_store(folder: Path, files: Mapping[str, Any], settings: Mapping[str, Any], anew: bool = False) -> InFolder:
    """What has been found in an output folder with the same files and settings; nothing if they are others, or
    `anew`."""
    place = folder / UNFINISHED
    known = place / "settings.json"
    about = {"warpzoo": versions()["warpzoo"], "settings": dict(settings), "files": _state(files)}
    about = json.loads(json.dumps(about, default=str))
    try:
        same = json.loads(known.read_text(encoding="utf-8")) == about
    except (OSError, ValueError):
        same = False
    if anew or not same:
        if place.exists() and any(place.iterdir()) and not known.exists():
            raise FileError(f"{place} holds other files; choose another output folder.")
        shutil.rmtree(place, ignore_errors=True)
        write_json(known, about)
    return InFolder(place)


def _state(files: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Size and time of the last change of each file."""
    paths = {path for role in files for path in paths_of(files, role)}
    return {str(path.absolute()): [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths)}


def read_series(
    files: Mapping[str, Any], to: str | None, channels: bool, time_axis: int | None, channel: int | None = None
) -> dict[str, Any]:
    """The files of a series as the arguments of `register_series` with these names: series, fixed, start, companions.

    A label map, a mask or landmarks of the fixed image are one for all frames; further images and label maps of the
    moving image are series of as many frames, its landmarks say their frame, and its mask may do either.
    """
    series = open_series(files["moving"], channels=channels, time_axis=time_axis, channel=channel)
    whole = None if channel is None else open_series(files["moving"], channels=True, time_axis=time_axis)
    fixed = None
    if "fixed" in files:
        if has_time(files["fixed"]):
            raise FileError(
                f"{files['fixed']} is a series; fixed must be one image: save one of its frames, give it as moving and "
                f"--to first or mean, or register with --channels if its frames are channels."
            )
        fixed = read_image(files["fixed"], channels=channels)
    if to is not None and fixed is None and "fixed_points" in files:
        raise ValueError("fixed_points must be given with a fixed image, got them with --to alone.")
    reference = series[0] if fixed is None else fixed
    masks: dict[str, Image | Series] = {}
    for side in ("fixed", "moving"):
        for path in paths_of(files, f"{side}_mask"):
            timed = side == "moving" and (has_time(path) or time_axis is not None)
            masks[side] = open_series(path, time_axis=time_axis) if timed else read_image(path)
    labels = [open_series(path, labels=True, time_axis=time_axis) for path in paths_of(files, "moving_labels")]
    fixed_labels = [read_image(path, labels=True) for path in paths_of(files, "fixed_labels")]
    if labels and fixed is None and to is not None and not fixed_labels:
        own = own_reference(to, len(series))
        fixed_labels = [] if own is None else [one[own] for one in labels]
    companions = SeriesCompanions(
        masks,
        fixed_labels[0] if fixed_labels else None,
        labels[0] if labels else None,
        next((read_points(path, reference.header) for path in paths_of(files, "fixed_points")), None),
        next((points_by_frame(path, series.header) for path in paths_of(files, "moving_points")), {}),
        {
            warped_name(path): open_series(path, role == "also_labels", channels and role == "also", time_axis)
            for role in FURTHER
            for path in paths_of(files, role)
        },
        whole,
        channel or 0,
    )
    initial = paths_of(files, "initial")
    return {
        "series": series,
        "fixed": fixed,
        "start": read_start(initial, reference, series[0]) if initial else None,
        "companions": companions,
    }
