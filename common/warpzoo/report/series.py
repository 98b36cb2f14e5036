"""The page of a registered series: what became of its frames together, and of each in charts over time.

Convention: rows are those of frames.csv, a mapping for each frame; numbers are those of metrics.json. Words and layout
are in series.html.j2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from warpzoo.files import whole_file
from warpzoo.geometry.grid import Grid
from warpzoo.images.content import window
from warpzoo.images.source import PixelSize
from warpzoo.report import panels
from warpzoo.report.charts import chart_of
from warpzoo.report.film import Film
from warpzoo.report.numbers import Card, Table, by_frames, cards_of, provenance_tables, shown, tables_of
from warpzoo.report.page import subtitle, template
from warpzoo.report.pictures import NARROW, Figure, column_widths, figure_of, longest_side, place_of
from warpzoo.report.planes import Plane, planes_of
from warpzoo.report.verdicts import verdicts_of

LISTED = 200
"""Frames in the table of a page; frames.csv has them all."""
OF = {"previous": "frame before", "fixed": "fixed image"}
"""What frames are compared with."""
LINES = {"ncc_before": "before", "ncc": "after", "ncc_denoised": "after, denoised"}


def write_series_report(
    path: str | Path,
    fixed: Tensor,
    over_time: Mapping[str, tuple[Tensor, Tensor]],
    rows: Sequence[Mapping[str, Any]],
    grid: Grid,
    numbers: Mapping[str, Any],
    flagged: Mapping[int, str],
    film: Film,
    orientation: str | None = None,
    unit: str = "mm",
    pixel: PixelSize | None = None,
    seconds: float | None = None,
) -> Path:
    """Writes the page; returns its path.

    Args:
        fixed: what the frames were registered to, (*spatial).
        over_time: mean and standard deviation of the frames on the fixed grid, "before" and "after", (*spatial).
        rows: of every frame.
        grid: the fixed grid.
        numbers: metrics.json.
        flagged: a sentence on each frame that is doubtful.
        film: of all frames.
        orientation, unit: as for `report.page.write_report`.
        pixel: how large pixels are, if they are the unit and it is known.
        seconds: from one frame to the next, likewise.
    """
    planes = planes_of(fixed, grid.affine, orientation, body=unit != "pixels")
    marks, doubts = {frame: f"frame {frame}: {reason}" for frame, reason in flagged.items()}, by_frames(flagged.items())
    notes = [text for text in numbers.get("warnings", ()) if text not in doubts]
    cards = [Card("Frames", str(len(rows))), Card("Flagged frames", str(len(flagged)))]
    page = Path(path)
    text = template("series.html.j2").render(
        title=title_of(numbers),
        subtitle=f"{subtitle(numbers, grid, unit)}{of_size(pixel, grid.dims)}",
        cards=[*cards, *cards_of(numbers, unit)],
        verdicts=[*(("bad", doubt) for doubt in doubts), *verdicts_of(numbers, [], notes, unit)],
        charts=charts_of(rows, marks, grid.dims, unit, str(numbers["to"]), of_size(pixel, grid.dims)),
        planes=len(planes),
        columns=column_widths(planes),
        film=film.figure(),
        kymographs=film.kymographs(),
        extent=extent_of(planes[0], pixel, len(rows), seconds),
        pictures=pictures_of(fixed, "fixed" if numbers["to"] == "fixed" else "reference", over_time, planes),
        tables=tables_of({name: numbers[name] for name in ("resolution", "seconds")}, unit),
        table=table_of(rows, flagged),
        listed=min(LISTED, len(rows)),
        count=len(rows),
        command=str(numbers.get("command", "")),
        provenance=provenance_tables({name: numbers[name] for name in ("files", "versions") if name in numbers}),
    )
    with whole_file(page) as unfinished:
        unfinished.write_text(text, "utf-8")
    return page


def title_of(numbers: Mapping[str, Any]) -> str:
    """The names of the series and of what it was registered to."""
    name = Path(str(numbers["files"]["moving"])).name
    own = {"first": "its first frame", "last": "its last frame", "mean": "the mean of its frames"}.get(
        str(numbers["to"]), ""
    )
    fixed = numbers["files"].get("fixed")
    return " → ".join([name, *([own] if own else []), *([Path(str(fixed)).name] if fixed else [])])


def of_size(pixel: PixelSize | None, dims: int) -> str:
    """What follows "pixels" where their size is known."""
    if pixel is None:
        return ""
    sides = [f"{side:.4g}" for side in pixel[:dims]]
    return f" of {' × '.join(sides[:1] if len(set(sides)) == 1 else sides)} {pixel.unit}"


def extent_of(plane: Plane, pixel: PixelSize | None, frames: int, seconds: float | None) -> str:
    """How long the lines of kymographs are, and how long the frames took."""
    down, right = (
        f"{size} pixels{'' if pixel is None else f' ({size * pixel[axis]:.4g} {pixel.unit})'}"
        for size, axis in zip(plane.shape, plane.axes, strict=True)
    )
    lasted = "" if seconds is None else f" ({(frames - 1) * seconds:.4g} s)"
    return f"{right} across, {down} down, {frames} frames{lasted}"


def charts_of(
    rows: Sequence[Mapping[str, Any]], marks: Mapping[int, str], dims: int, unit: str, to: str, of_size: str
) -> list[Any]:
    """Likeness and motion over the frames; of those that failed there is no likeness. `of_size` follows the unit."""

    def line(name: str) -> list[float | None]:
        return [row.get(name) for row in rows]

    short, length = "" if unit == "pixels" else f" {unit}", f"{unit}{of_size}"
    shifts = {axis: line(f"shift_{axis}") for axis in "xyz"[:dims]}
    alike = {words: line(name) for name, words in LINES.items() if any(name in row for row in rows)}
    charts = [
        chart_of(f"Correlation with the {OF.get(to, 'reference')}", alike, marks),
        chart_of(f"Drift: shift of the middle ({length})", shifts, marks, short),
        chart_of("Rotation (degrees)", {"angle": line("angle")}, marks, "°"),
        chart_of(f"Length of the displacement ({length})", {"mean": line("displacement")}, marks, short),
    ]
    return charts


def pictures_of(
    fixed: Tensor, called: str, over_time: Mapping[str, tuple[Tensor, Tensor]], planes: Sequence[Plane]
) -> dict[str, list[Figure]]:
    """The fixed image, under what it is called, and mean and standard deviation of the frames before and after, each in
    the same window."""
    means, deviations = ({name: pair[part] for name, pair in over_time.items()} for part in (0, 1))
    figures: dict[str, list[Figure]] = {}
    for kind, images, limits in (
        ("fixed", {"": fixed}, window(fixed)),
        ("mean", means, window(*means.values())),
        ("deviation", deviations, (0.0, window(*deviations.values())[1])),
    ):
        for name, image in images.items():
            for plane in planes:
                picture = panels.grey(image, plane, limits, longest_side(plane, NARROW))
                words = ", ".join([name or called, *place_of(plane)])
                figures.setdefault(f"{kind}_{name}" if name else kind, []).append(
                    figure_of(picture, words, letters=plane.letters)
                )
    return figures


def table_of(rows: Sequence[Mapping[str, Any]], flagged: Mapping[int, str]) -> Table:
    """A row for each frame; of more than `LISTED` the flagged ones, and as many of the others as evenly lie between."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("frame", "ok")]
    kept = [name for name in names if not re.fullmatch("folding.*|displacement_most|[xyz][xyz0]", name)]
    step = -(-len(rows) // LISTED)
    chosen = [row for row in rows if row["frame"] % step == 0 or row["frame"] in flagged]
    cells = [
        (f"{row['frame']}{' (flagged)' if row['frame'] in flagged else ''}", *(shown(row.get(name)) for name in kept))
        for row in chosen
    ]
    return Table("Frames", cells, ("", *(name.replace("_", " ") for name in kept)))
