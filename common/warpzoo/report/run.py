"""The page of a training: its curves and the pictures of its validations, to be looked at while it runs and after.

It lies in the run's folder; pictures are shown from the folder beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warpzoo.files import whole_file
from warpzoo.report.numbers import Card, provenance_tables
from warpzoo.report.page import template

WIDTH, HEIGHT = 400, 150
NEWEST = 2
"""Pictures that are shown; the others stay in their folder."""
RUNS = "runs"
"""What a training does that goes on."""
NOT_CURVES = ("epoch", "step", "key_metric")


@dataclass(frozen=True)
class Curve:
    """Numbers over steps as the points of an SVG of WIDTH × HEIGHT."""

    name: str
    points: str
    low: str
    high: str
    last: str
    steps: str


def write_run_page(
    path: str | Path,
    record: Mapping[str, Any],
    pictures: Sequence[Path] = (),
    best: str = "",
    state: str = RUNS,
) -> Path:
    """Writes the page of a run from its record (`run.json`); a running one's is loaded anew every half a minute.

    Args:
        path: the page.
        record: of the run.
        pictures: of validations, in the order of time, in a folder beside the page.
        best: which weights are the best so far, in words.
        state: what the training does: that it `RUNS`, has ended or has stopped, and why.
    """
    page, rows = Path(path), record["epochs"]
    names = dict.fromkeys(name for row in rows for name in row if name not in NOT_CURVES)
    settings = record["settings"]
    cards = [Card("Steps", f"{record['steps']}"), Card("Time", duration(record["seconds"]))]
    if rows:
        cards.insert(
            0,
            Card("Epoch", f"{rows[-1]['epoch']:.0f}", unit=f"of {settings['epochs']}" if "epochs" in settings else ""),
        )
    network = (record.get("config") or {}).get("network_def")
    made = str(network.get("_target_", "")).partition(".")[0] if isinstance(network, dict) else ""
    images = {role: len(names) for role, names in record.get("data", {}).items() if role in ("train", "validation")}
    text = template("run.html.j2").render(
        title=page.resolve().parent.name,
        bundle=made,
        images=images,
        running=state == RUNS,
        state=state.rstrip("."),
        written=time.strftime("%Y-%m-%d %H:%M"),
        best=best,
        cards=cards,
        curves=[curve for name in names if (curve := curve_of(name, rows)) is not None],
        width=WIDTH,
        height=HEIGHT,
        pictures=[
            (one.relative_to(page.parent).as_posix(), one.stem.replace("_", " ")) for one in pictures[-NEWEST:][::-1]
        ],
        command=record["command"],
        resumed=record.get("resumed", ()),
        provenance=provenance_tables(
            {"settings": settings, "machine": record.get("machine", {}), "versions": record.get("versions", {})}
        ),
    )
    with whole_file(page) as unfinished:
        unfinished.write_text(text, "utf-8")
    return page


def curve_of(name: str, rows: Sequence[Mapping[str, float]]) -> Curve | None:
    """One number of the rows over their steps; None if there is none."""
    known = [(row.get("step", row["epoch"]), row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    if not known:
        return None
    steps, values = zip(*known, strict=True)
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    wide, tall = max(last - first, 1), (high - low) or 1
    points = " ".join(
        f"{WIDTH * (step - first) / wide:.1f},{HEIGHT * (1 - (value - low) / tall):.1f}" for step, value in known
    )
    return Curve(
        name.replace("_", " "),
        points,
        f"{low:.4g}",
        f"{high:.4g}",
        f"{values[-1]:.4g}",
        f"steps {first:.0f} … {last:.0f}",
    )


def duration(seconds: float) -> str:
    """Such as 41 s, 12 min or 3 h 20 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
