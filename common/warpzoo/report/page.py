"""The page that a person sends to a colleague: one registration, what it did and whether to trust it.

It holds everything, pictures included: it opens anywhere, loads nothing and reads well on paper. Pictures are of three
planes only, so a large volume costs hardly more than a small one. Words and layout are in page.html.j2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from torch import Tensor

from warpzoo.checks import check_displacement
from warpzoo.errors import Finding
from warpzoo.files import whole_file
from warpzoo.geometry.grid import Grid
from warpzoo.report.figure import draw_registration
from warpzoo.report.numbers import cards_of, provenance_tables, tables_of
from warpzoo.report.pictures import (
    THUMBNAIL,
    column_widths,
    disagreement_figures,
    image_figures,
    transform_figures,
    write_thumbnail,
)
from warpzoo.report.planes import planes_of
from warpzoo.report.verdicts import verdicts_of


def write_report(
    path: str | Path,
    fixed: Tensor,
    before: Tensor,
    warped: Tensor,
    displacement: Tensor,
    grid: Grid,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    title: str = "",
    findings: Sequence[Finding] = (),
    orientation: str | None = None,
    unit: str = "mm",
    notes: Sequence[str] = (),
    thumbnail: bool = False,
    disagreement: Tensor | None = None,
) -> Path:
    """Writes a page; returns its path.

    Args:
        path: the page, if it ends in .html; otherwise a folder for `report.html` and an overview, `report.png`.
            Missing folders are made.
        fixed: the fixed image, (*spatial).
        before: the moving image resampled on the fixed grid by the headers alone, (*spatial).
        warped: the moving image resampled on the fixed grid by the transform, (*spatial).
        displacement: (dims, *spatial) in voxels of the fixed grid, warped(x) = before(x + displacement(x)).
        grid: the fixed grid; its spacing and orientation decide how the planes lie on the page.
        metrics: as in metrics.json, see `warpzoo.report.numbers`. Numbers that are not known there are listed too.
        provenance: what made it: `command`, `method`, `files` and `versions` ({name: text}); others are listed.
        title: headline; default: the names of the files.
        findings: what the checks before the run found doubtful.
        orientation: "world" (default) lays planes by the grid's orientation, "matrix" shows arrays with their first
            axis downwards: see `planes_of`.
        unit: of the grid's world: "mm", or "pixels" for images without a physical space.
        notes: sentences about the run, such as that it was interrupted; they come first.
        thumbnail: whether a folder also gets the small picture for an overview of many.
        disagreement: how far each voxel is from itself after going there and back, (*spatial) in the unit, if the pair
            was registered both ways.
    """
    dims = check_displacement("displacement", displacement[None], finite=False)
    for name, image in (("fixed", fixed), ("before", before), ("warped", warped)):
        if image.shape != displacement.shape[1:]:
            raise ValueError(
                f"{name} must have shape {tuple(displacement.shape[1:])}, the {dims} spatial axes of displacement, "
                f"got {tuple(image.shape)}."
            )
    planes = planes_of(fixed, grid.affine, orientation, body=unit != "pixels")
    title = title or headline(provenance)
    page = Path(path)
    if page.suffix.lower() != ".html":
        draw_registration(page / "report.png", before, fixed, warped, displacement, planes, title)
        if thumbnail:
            write_thumbnail(page / THUMBNAIL, fixed, before, warped, planes[0])
        page = page / "report.html"
    spacing = list(grid.spacing)
    of_transform, bars, determinants = transform_figures(displacement, before, planes, spacing, unit)
    both_ways, bar = disagreement_figures(disagreement, planes, unit) if disagreement is not None else ([], None)
    least, most, mean, largest = (f"{value:.2f}" for value in (*determinants, *magnitudes(displacement, spacing)))
    text = template("page.html.j2").render(
        title=title,
        subtitle=subtitle(provenance, grid, unit),
        cards=cards_of(metrics, unit),
        verdicts=verdicts_of(metrics, findings, notes, unit),
        planes=len(planes),
        columns=column_widths(planes),
        pictures={**image_figures(fixed, before, warped, planes), **of_transform, "disagreement": both_ways},
        bars={**bars, "disagreement": bar},
        extent="area" if dims == 2 else "volume",
        least=least,
        most=most,
        mean=mean,
        largest=largest,
        unit=unit,
        numbers=tables_of(metrics, unit),
        command=str(provenance.get("command", "")),
        provenance=provenance_tables(provenance),
    )
    with whole_file(page) as unfinished:
        unfinished.write_text(text, "utf-8")
    return page


@cache
def template(name: str) -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(name)


def headline(provenance: Mapping[str, Any]) -> str:
    files = provenance.get("files", {})
    names = [Path(str(files[role])).name for role in ("moving", "fixed") if role in files]
    return " → ".join(names) if len(names) == 2 else "Registration"


def subtitle(provenance: Mapping[str, Any], grid: Grid, unit: str) -> str:
    shape = " × ".join(str(size) for size in grid.shape)
    spacing = " × ".join(f"{float(side):.4g}" for side in grid.spacing)
    size = f"fixed grid {shape} pixels" if unit == "pixels" else f"fixed grid {shape}, {spacing} {unit}"
    return f"method {provenance['method']} · {size}" if "method" in provenance else size


def magnitudes(displacement: Tensor, spacing: list[float]) -> tuple[float, float]:
    """Mean and largest length of a displacement (dims, *spatial), one component at a time to save memory."""
    squared = torch.zeros_like(displacement[0], dtype=torch.float32)
    for component, side in zip(displacement.detach(), spacing, strict=True):
        squared += (component * side).float().square_()
    return float(squared.sqrt_().mean()), float(squared.max())
