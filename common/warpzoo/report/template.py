"""The page of a template: how it has converged, and how it looked after each iteration.

Convention: numbers are those of template.json. Words and layout are in template.html.j2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warpzoo.files import whole_file
from warpzoo.images.content import window
from warpzoo.images.image import Image, by
from warpzoo.report import panels
from warpzoo.report.charts import chart_of
from warpzoo.report.numbers import Card, Table, provenance_tables
from warpzoo.report.page import template
from warpzoo.report.pictures import NARROW, column_widths, figure_of, longest_side, place_of
from warpzoo.report.planes import planes_of


def write_template_page(path: str | Path, looks: Sequence[Image], numbers: Mapping[str, Any]) -> Path:
    """Writes the page; `looks` are the templates before the first iteration and after each."""
    page, last, rows = Path(path), looks[-1], numbers["iterations"]
    unit = "pixels" if last.header.pixels else "mm"
    orientation = "matrix" if last.header.indexed else None
    planes = planes_of(last.array[0], last.grid.affine, orientation, body=unit != "pixels")
    limits = window(last.array[0])
    pictures = [
        [
            figure_of(
                panels.grey(one.array[0], plane, limits, longest_side(plane, NARROW)),
                ", ".join([f"iteration {number}" if number else "start", *place_of(plane)]),
                letters=plane.letters,
            )
            for plane in planes
        ]
        for number, one in enumerate(looks)
    ]

    def over(title: str, lines: Mapping[str, str], ending: str = "") -> Any:
        return chart_of(
            title, {words: [None, *(row[name] for row in rows)] for name, words in lines.items()}, {}, ending
        )

    worst = sorted(numbers["ncc"].items(), key=lambda one: one[1])
    text = template("template.html.j2").render(
        title=f"Template of {len(numbers['subjects'])} subjects",
        subtitle=f"{by(last.grid.shape)} voxels of {by([round(one, 3) for one in last.grid.spacing])} {unit}",
        cards=[
            Card("Subjects", str(len(numbers["subjects"]))),
            Card("Iterations", str(len(rows))),
            Card("Mean correlation with the subjects", f"{rows[-1]['ncc']:.3f}"),
        ],
        charts=[
            over("Correlation with the subjects", {"ncc_worst": "worst", "ncc": "mean"}),
            over("Change (1 − correlation with the one before)", {"change": "change"}),
            over(f"Distance from the middle of its subjects, taken back ({unit})", {"off_centre": "distance"}),
        ],
        pictures=pictures,
        columns=column_widths(planes),
        table=Table(
            "Subjects, the least alike first", [(name, f"{ncc:.3f}") for name, ncc in worst], ("", "correlation")
        ),
        command=numbers["command"],
        provenance=provenance_tables({name: numbers[name] for name in ("settings", "versions")}),
    )
    with whole_file(page) as unfinished:
        unfinished.write_text(text, "utf-8")
    return page
