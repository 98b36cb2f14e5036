"""The page that a person sends to a colleague: one registration, what it did and whether to trust it.

`report.html` holds everything, pictures included: it opens anywhere, loads nothing and reads well on paper. Beside it
lies `report.png`, the overview. Pictures are drawn from three planes only, so a large volume costs hardly more than a
small one.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from warpzoo.checks import check_displacement
from warpzoo.errors import Finding
from warpzoo.files import whole_file
from warpzoo.geometry.grid import Grid
from warpzoo.images.content import window
from warpzoo.report import panels
from warpzoo.report.figure import draw_registration
from warpzoo.report.planes import Plane, planes_of
from warpzoo.report.template import SCRIPT, STYLE

BEFORE = "_before"
NAMES = {
    "ncc": "Correlation (NCC)",
    "lncc": "Local correlation (LNCC)",
    "mi": "Mutual information",
    "mse": "Mean squared error",
    "dice": "Dice",
    "hd95": "Surface distance, 95th percentile",
    "msd": "Surface distance, mean",
    "tre": "Target registration error",
}
DISTANCES = ("hd95", "msd", "tre")
LOWER_IS_BETTER = (*DISTANCES, "mse")
FEW_FOLDS = 1e-4
MANY_FOLDS = 5e-3


def write_report(
    folder: str | Path,
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
) -> Path:
    """Writes `report.html` and `report.png` into the folder, whole files only; returns the page's path.

    Args:
        folder: made if it is not there.
        fixed: the fixed image, (*spatial).
        before: the moving image on the fixed grid by the headers alone, (*spatial).
        warped: the moving image on the fixed grid by the transform, (*spatial).
        displacement: (dims, *spatial) in voxels of the fixed grid, warped(x) = before(x + displacement(x)).
        grid: the fixed grid; its spacing and orientation decide how the planes lie on the page.
        metrics: as in metrics.json. `<name>_before` and `<name>` are a number or {label: number, …, "mean": number};
            `folding` and `folding_corners` are shares between 0 and 1; `seconds` is {stage: number}. Whatever else is
            there and is a number is listed (means of what is a dictionary excepted: the page has them).
        provenance: what made it: `command`, `method`, `files` and `versions` ({name: text}); others are listed.
        title: headline; the method and the files' names without.
        findings: what the preflight said.
        orientation: "world" (default) lays planes by the grid's orientation, "matrix" shows arrays with their first
            axis downwards: see `planes_of`.
        unit: of the grid's world: "mm", or "pixels" for files that know of no body.
    """
    dims = check_displacement("displacement", displacement[None], finite=False)
    for name, image in (("fixed", fixed), ("before", before), ("warped", warped)):
        if image.shape != displacement.shape[1:]:
            raise ValueError(
                f"{name} has shape {tuple(image.shape)} and displacement {tuple(displacement.shape)}; "
                f"they want the same {dims} spatial axes."
            )
    planes = planes_of(fixed, grid.affine, orientation, body=unit != "pixels")
    title = title or headline(provenance)
    folder = Path(folder)
    draw_registration(folder / "report.png", before, fixed, warped, displacement, planes, title)
    body = [
        heading(title, provenance, grid, unit),
        cards(metrics, unit),
        said(metrics, findings, unit),
        COMPARISON.replace("{columns}", columns(planes)),
        pictures(fixed, before, warped, planes),
        transform(displacement, before, planes, list(grid.spacing), unit),
        numbers(metrics, unit),
        origin(provenance),
    ]
    page = folder / "report.html"
    with whole_file(page) as unfinished:
        unfinished.write_text(
            PAGE.format(title=escape(title), style=STYLE, script=SCRIPT, body="\n".join(body)), "utf-8"
        )
    return page


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""

COMPARISON = """<section class="compare" id="compare" hidden>
<h2>Compare</h2>
<p class="soft">Move the pointer across a picture, or use the slider; left of the line is the first image, right of it
the second. “Flicker” shows them in turn: what is aligned stands still.</p>
<div class="controls"><input type="range" min="0" max="100" value="50" aria-label="where the line is"></div>
<div class="row volume" style="grid-template-columns:{columns}"></div>
</section>"""


def headline(provenance: Mapping[str, Any]) -> str:
    files = provenance.get("files", {})
    names = [Path(str(files[role])).name for role in ("moving", "fixed") if role in files]
    return " → ".join(names) if len(names) == 2 else "Registration"


def heading(title: str, provenance: Mapping[str, Any], grid: Grid, unit: str) -> str:
    shape = " × ".join(str(size) for size in grid.shape)
    spacing = " × ".join(f"{float(side):.4g}" for side in grid.spacing)
    parts = [f"method {provenance['method']}"] if "method" in provenance else []
    parts += [f"fixed grid {shape}" + (f", {spacing} {unit}" if unit != "pixels" else " pixels")]
    return f'<h1>{escape(title)}</h1>\n<p class="soft">{escape(" · ".join(parts))}</p>'


def cards(metrics: Mapping[str, Any], unit: str) -> str:
    """The numbers one looks for first."""
    drawn = []
    for name in compared(metrics):
        first, last = total(metrics.get(name + BEFORE)), total(metrics.get(name))
        arrow = f"<i>{shown(first, name)} → </i>" if first is not None else ""
        suffix = f" <i>{escape(unit)}</i>" if name in DISTANCES else ""
        what = NAMES.get(name, name) + (", mean" if isinstance(metrics.get(name), (Mapping, list, tuple)) else "")
        drawn.append(f'<div class="card"><b>{arrow}{shown(last, name)}{suffix}</b><span>{escape(what)}</span></div>')
    if "folding_corners" in metrics:
        share = percent(metrics["folding_corners"])
        drawn.append(f'<div class="card"><b>{share}</b><span>Folded cells</span></div>')
    seconds = seconds_of(metrics)
    if seconds:
        drawn.append(f'<div class="card"><b>{sum(seconds.values()):.1f} <i>s</i></b><span>Time</span></div>')
    return f'<div class="cards">{"".join(drawn)}</div>'


def said(metrics: Mapping[str, Any], findings: Sequence[Finding], unit: str) -> str:
    """In words: did it get better, does it fold, what did the preflight find."""
    lines = [("bad" if finding.severity == "error" else "fair", f"Before the run: {finding}") for finding in findings]
    lines += [verdict for name in compared(metrics) if (verdict := improvement(name, metrics, unit))]
    if (verdict := folding_verdict(metrics)) is not None:
        lines.append(verdict)
    return f'<ul class="said">{"".join(f"<li class={kind}>{escape(text)}</li>" for kind, text in lines)}</ul>'


def improvement(name: str, metrics: Mapping[str, Any], unit: str) -> tuple[str, str] | None:
    first, last = total(metrics.get(name + BEFORE)), total(metrics.get(name))
    if first is None or last is None:
        return None
    better = last < first if name in LOWER_IS_BETTER else last > first
    words = NAMES.get(name, name)
    suffix = f" {unit}" if name in DISTANCES else ""
    if shown(first, name) == shown(last, name):
        return (
            "fair",
            f"{words} stayed at {shown(last, name)}{suffix}: the registration changed nothing by this measure.",
        )
    way = "fell" if last < first else "rose"
    end = "." if better else ": by this measure the registration made it worse. Look at the pictures before you use it."
    return "good" if better else "bad", f"{words} {way} from {shown(first, name)} to {shown(last, name)}{suffix}{end}"


def folding_verdict(metrics: Mapping[str, Any]) -> tuple[str, str] | None:
    """Plain words for the share of folded cells (or voxels, if that is all there is)."""
    share = metrics.get("folding_corners", metrics.get("folding"))
    if share is None:
        return None
    if share == 0:
        return (
            "good",
            "The transform folds nowhere: every point of the fixed image has a place of its own in the moving one.",
        )
    how_much = f"The transform folds in {percent(share)} of the image"
    if share <= FEW_FOLDS:
        return (
            "good",
            f"{how_much}, which is next to nothing. It cannot be inverted at these few points (black in the map).",
        )
    if share <= MANY_FOLDS:
        return (
            "fair",
            f"{how_much}: the image passes through itself there (black in the map). Do not measure volumes at these "
            f"places.",
        )
    return "bad", (
        f"{how_much}: much of it cannot be inverted and no real motion does this (black in the map). "
        "A velocity field or a stronger regularisation keeps folds out."
    )


def pictures(fixed: Tensor, before: Tensor, warped: Tensor, planes: list[Plane]) -> str:
    longest = 720 if len(planes) == 1 else 448
    rows: dict[str, list[tuple[np.ndarray, str]]] = {}
    of_fixed, of_moving = window(fixed), window(before, warped)
    for plane in planes:
        still = panels.grey(fixed, plane, of_fixed, longest)
        start = panels.grey(before, plane, of_moving, longest)
        end = panels.grey(warped, plane, of_moving, longest)
        drawn = {
            "overlay_before": (panels.overlay(start, still), "before"),
            "overlay": (panels.overlay(end, still), "after"),
            "checkerboard_before": (panels.checkerboard(start, still), "before"),
            "checkerboard": (panels.checkerboard(end, still), "after"),
            "fixed": (still, "fixed"),
            "before": (start, "moving, before"),
            "warped": (end, "moving, after"),
        }
        for name, content in drawn.items():
            rows.setdefault(name, []).append(content)

    def block(headline: str, words: str, names: Sequence[str]) -> str:
        if len(planes) == 1:
            figures = "".join(picture(rows[name][0][0], planes[0], rows[name][0][1], f"{name}0") for name in names)
            inside = row(figures, f"repeat({len(names)}, minmax(0, 1fr))")
        else:
            inside = "".join(
                row(
                    "".join(
                        picture(image, plane, f"{caption}{where(plane)}", f"{name}{number}", lettered=True)
                        for number, ((image, caption), plane) in enumerate(zip(rows[name], planes, strict=True))
                    ),
                    columns(planes),
                )
                for name in names
            )
        small = " small" if len(names) > 2 and len(planes) > 1 else ""
        return f'<div class="block{small}"><h3>{headline}</h3><p class="soft">{words}</p>{inside}</div>'

    blue, orange = (f'<span class="key" style="background:{colour}"></span>' for colour in ("#0080ff", "#ff8000"))
    return "\n".join(
        [
            '<section id="pictures"><h2>Pictures</h2>',
            block(
                "Colour overlay",
                f"The fixed image in blue {blue}, the moving one in orange {orange}; where they agree the picture is "
                f"grey.",
                ("overlay_before", "overlay"),
            ),
            block(
                "Checkerboard",
                "Squares of the fixed and the moving image in turn: edges should run on from square to square.",
                ("checkerboard_before", "checkerboard"),
            ),
            block(
                "Images",
                "All on the fixed grid; the fixed and the moving image each in their own window of intensities.",
                ("fixed", "before", "warped"),
            ),
            "</section>",
        ]
    )


def transform(displacement: Tensor, before: Tensor, planes: list[Plane], spacing: list[float], unit: str) -> str:
    longest = 448
    parts = [panels.volumes(displacement, plane) for plane in planes]
    limit = panels.jacobian_limit(parts)
    lengths = [panels.magnitude(displacement, plane, spacing) for plane in planes]
    highest = max(float(length.max()) for length in lengths) or 1.0
    mean, largest = size_of(displacement, spacing)
    dim = window(before)
    dim = (dim[0], dim[0] + 1.6 * (dim[1] - dim[0]))
    rows: list[list[str]] = [[], [], []]
    for plane, part, length in zip(planes, parts, lengths, strict=True):
        caption = where(plane).lstrip(", ")
        ground = panels.grey(before, plane, dim, longest)
        rows[0].append(picture(ground, plane, caption, drawing=grid_drawing(displacement, plane)))
        rows[1].append(picture(panels.jacobian_picture(part, plane, limit, longest), plane, caption))
        rows[2].append(picture(panels.magnitude_picture(length, plane, highest, longest), plane, caption))
    least = min(float(part.determinant.min()) for part in parts)
    most = max(float(part.determinant.max()) for part in parts)
    words = (
        "A regular grid of the fixed image, drawn where the transform takes it in the moving image.",
        f"How much room things take in the moving image, relative to the fixed one: 2 is twice the room (red), "
        f"0.5 half (blue), 1 the same (white). In these planes from {least:.2f} to {most:.2f}.",
        f"How far points move: {mean:.2f} {unit} on average over the whole image, {largest:.2f} {unit} at most.",
    )
    keys = (
        "",
        colour_bar(panels.JACOBIAN_COLOURS, 0.08, 0.92, [f"{2**value:.2g}" for value in (-limit, limit)], "folds"),
        colour_bar(panels.MAGNITUDE_COLOURS, 0, 1, ["0", f"{highest:.3g} {unit}"]),
    )
    names = ("Deformed grid", "Jacobian determinant", "Length of the displacement")
    if len(planes) == 1:
        inside = (
            '<div class="row volume" style="grid-template-columns:repeat(3,minmax(0,1fr));align-items:start">'
            + "".join(
                f'<div><h3>{name}</h3>{figures[0]}{key}<p class="soft">{text}</p></div>'
                for name, figures, key, text in zip(names, rows, keys, words, strict=True)
            )
        )
        return f"<section><h2>Transform</h2>{inside}</div></section>"
    inside = "".join(
        f'<div class="block small"><h3>{name}</h3><p class="soft">{text}</p>'
        f"{row(''.join(figures), columns(planes))}{key}</div>"
        for name, figures, key, text in zip(names, rows, keys, words, strict=True)
    )
    return f"<section><h2>Transform</h2>{inside}</section>"


def size_of(displacement: Tensor, spacing: list[float]) -> tuple[float, float]:
    """Mean and largest length of a displacement (dims, *spatial), one component at a time to save memory."""
    squared = torch.zeros_like(displacement[0], dtype=torch.float32)
    for component, side in zip(displacement.detach(), spacing, strict=True):
        squared += (component * side).float().square_()
    return float(squared.sqrt_().mean()), float(squared.max())


def grid_drawing(displacement: Tensor, plane: Plane) -> str:
    """The deformed grid as lines that stay sharp at any size; coordinates are tenths of a voxel."""
    path = "".join(
        "M" + "L".join(f"{round(10 * x + 5)} {round(10 * y + 5)}" for x, y in line)
        for line in panels.grid_lines(displacement, plane)
    )
    box = f"0 0 {10 * plane.shape[1]} {10 * plane.shape[0]}"
    return f'<svg class="grid" viewBox="{box}" preserveAspectRatio="none" aria-hidden="true"><path d="{path}"/></svg>'


def picture(
    image: np.ndarray, plane: Plane, caption: str, name: str = "", drawing: str = "", lettered: bool = False
) -> str:
    """A figure with its caption; `lettered` ones tell the sides of the body."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=90, subsampling=0)
    source = f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    letters = plane.letters if lettered else ""
    sides = "".join(
        f'<span class="side {place}">{letter}</span>' for place, letter in zip("trbl", letters, strict=False)
    )
    identity = f' id="{name}"' if name else ""
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    ratio = f"aspect-ratio:{image.shape[1]}/{image.shape[0]}"
    return (
        f'<figure><div class="picture" style="{ratio}"><img{identity} alt="{escape(caption)}" src="{source}">'
        f"{drawing}{sides}</div>{words}</figure>"
    )


def row(figures: str, template: str) -> str:
    return f'<div class="row volume" style="grid-template-columns:{template}">{figures}</div>'


def columns(planes: list[Plane]) -> str:
    """Widths of a row's columns: all planes at one scale; a single plane does not fill the page."""
    if len(planes) == 1:
        return "minmax(0, 640px)"
    return " ".join(f"{plane.size[1]:.4g}fr" for plane in planes)


def where(plane: Plane) -> str:
    return f", {plane.name}, slice {plane.index + 1}" if plane.name else ""


def colour_bar(colours: matplotlib.colors.Colormap, low: float, high: float, ends: list[str], marked: str = "") -> str:
    stops = ",".join(matplotlib.colors.to_hex(colours(low + (high - low) * step / 16)) for step in range(17))
    mark = f"<u>{marked}</u>" if marked else ""
    gradient = f"background:linear-gradient(90deg,{stops})"
    return f'<div class="bar">{escape(ends[0])}<i style="{gradient}"></i>{escape(ends[1])}{mark}</div>'


def numbers(metrics: Mapping[str, Any], unit: str) -> str:
    """Every number of the metrics, as tables."""
    tables = []
    names = compared(metrics)
    plain = [name for name in names if name not in ("dice", *DISTANCES)]
    if plain:
        tables.append(table("Similarity", [(NAMES.get(n, n), metrics.get(n + BEFORE), metrics.get(n)) for n in plain]))
    for name in (name for name in names if name not in plain):
        first, last = itemised(metrics.get(name + BEFORE)), itemised(metrics.get(name))
        keys = dict.fromkeys([*last, *first])
        caption = NAMES.get(name, name) + (f" ({unit})" if name in DISTANCES else "")
        tables.append(table(caption, [(key, first.get(key), last.get(key)) for key in keys], name))
    folds = [
        (words, percent(metrics[key]))
        for key, words in (
            ("folding_corners", "Cells, one-sided differences at their corners"),
            ("folding", "Voxels, central differences"),
        )
        if key in metrics
    ]
    if folds:
        tables.append(listing("Folding (Jacobian determinant ≤ 0)", folds))
    seconds = seconds_of(metrics)
    if seconds:
        stages = [(stage.replace("_", " "), f"{value:.2f} s") for stage, value in seconds.items()]
        tables.append(listing("Time", [*stages, ("total", f"{sum(seconds.values()):.2f} s")]))
    used = {
        "seconds",
        "folding",
        "folding_corners",
        *(name + end for name in names for end in ("", BEFORE, "_mean", BEFORE + "_mean")),
    }
    rest = [
        (key.replace("_", " "), shown(value)) for key, value in metrics.items() if key not in used and is_number(value)
    ]
    if rest:
        tables.append(listing("Other numbers", rest))
    return (
        f'<section><h2>Numbers</h2><div class="tables">{"".join(f"<div>{one}</div>" for one in tables)}</div></section>'
    )


def table(caption: str, rows: Sequence[tuple[str, Any, Any]], metric: str = "") -> str:
    body = "".join(
        f"<tr{TOTAL if name == 'mean' and len(rows) > 1 else ''}><td>{escape(str(name))}</td>"
        f"<td>{shown(total(first), metric)}</td><td>{shown(total(last), metric)}</td></tr>"
        for name, first, last in sorted(rows, key=lambda line: line[0] == "mean")
    )
    head = "<tr><th></th><th>before</th><th>after</th></tr>"
    return f"<table><caption>{escape(caption)}</caption>{head}{body}</table>"


def listing(caption: str, rows: Sequence[tuple[str, str]], kind: str = "") -> str:
    body = "".join(
        f"<tr{TOTAL if name == 'total' else ''}><td>{escape(str(name))}</td><td>{escape(text)}</td></tr>"
        for name, text in rows
    )
    return f"<table{kind}><caption>{escape(caption)}</caption>{body}</table>"


TOTAL = ' class="total"'


def origin(provenance: Mapping[str, Any]) -> str:
    """The command and versions that made it, as they were."""
    parts = ["<section><h2>How it was made</h2>"]
    if "command" in provenance:
        parts.append(f"<pre>{escape(str(provenance['command']))}</pre>")
    tables = {
        name: [(str(key), str(text)) for key, text in value.items()]
        for name, value in provenance.items()
        if isinstance(value, Mapping) and value
    }
    rest = [(key, str(v)) for key, v in provenance.items() if key != "command" and not isinstance(v, Mapping)]
    if rest:
        tables["run"] = rest
    drawn = (listing(name.replace("_", " ").capitalize(), rows, ' class="words"') for name, rows in tables.items())
    parts.append(f'<div class="tables">{"".join(f"<div>{one}</div>" for one in drawn)}</div></section>')
    return "".join(parts)


def compared(metrics: Mapping[str, Any]) -> list[str]:
    """Names of what is measured before and after: all that have a `_before`, and known ones without it."""
    names = [name.removesuffix(BEFORE) for name in metrics if name.endswith(BEFORE) or name in NAMES]
    return [
        name for name in dict.fromkeys(names) if itemised(metrics.get(name)) or itemised(metrics.get(name + BEFORE))
    ]


def itemised(value: Any) -> dict[str, float]:
    """A metric's values by label or point, with their mean."""
    if isinstance(value, Mapping):
        nested = {str(k): v for part in value.values() if isinstance(part, Mapping) for k, v in part.items()}
        items = {**nested, **{str(key): part for key, part in value.items() if is_number(part) or part is None}}
    elif isinstance(value, (list, tuple)):
        items = {str(number + 1): part for number, part in enumerate(value)}
    else:
        return {} if value is None else {"mean": float(value)}
    known = [part for part in items.values() if is_number(part) and not math.isnan(part)]
    return {**items, **({} if "mean" in items or not known else {"mean": sum(known) / len(known)})}


def total(value: Any) -> float | None:
    return itemised(value).get("mean")


def seconds_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per stage; a total that comes along is left out, it is summed up here."""
    value = metrics.get("seconds", {})
    stages = value if isinstance(value, Mapping) else {"all": value}
    return {str(stage): float(part) for stage, part in stages.items() if is_number(part) and stage != "total"}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: float | None, metric: str = "") -> str:
    """Three decimals, two for distances; a dash where there is no number."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{2 if metric in DISTANCES else 3}f}" if abs(value) < 100 else f"{value:.5g}"


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share else "0 %"
