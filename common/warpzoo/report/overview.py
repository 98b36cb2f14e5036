"""The page of a list of pairs: how each metric is distributed, and every pair, from the worst to the best.

It lies in the folder that holds a folder for each pair and refers to their pages and small pictures, which a browser
loads as they come into view. Whatever is needed to sort, search and filter is in the page itself. Words and layout are
in overview.html.j2; without JavaScript the worst pairs are there all the same.

Convention: numbers are those of each pair's metrics.json, see `warpzoo.report.numbers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from warpzoo.files import whole_file
from warpzoo.report.numbers import BEFORE, NAMES, compared, mean_of, percent, seconds_of, shown
from warpzoo.report.page import template
from warpzoo.report.pictures import THUMBNAIL
from warpzoo.report.verdicts import LOWER_IS_BETTER

RANKED_BY = ("dice", "tre", "hd95", "msd")
"""The first of these that was measured says which pairs are worst; otherwise the first metric there is."""
KINDS = {
    "warnings": "with warnings",
    "worse": "worse than before",
    "folded": "with folds",
    "interrupted": "interrupted",
}
"""What the list can be narrowed to."""
BINS = 30
AT_ONCE = 100
"""Pairs that the page shows before a reader scrolls down."""
FEW = 1.0
"""Percent of the pairs at either end of a distribution that do not stretch its axis; the outermost bars hold them."""


@dataclass(frozen=True)
class Metric:
    """A column: its key, words, and whether small values are good; `before` if it was measured before, too."""

    key: str
    name: str
    lower_is_better: bool
    before: bool

    def text(self, value: float | None) -> str:
        if value is not None and self.key == "folding":
            return percent(value)
        return f"{value:.1f} s" if value is not None and self.key == "seconds" else shown(value, self.key)


class Bar(NamedTuple):
    """Of a histogram: shares of the highest bar, and what it holds in words."""

    after: float
    before: float
    words: str
    low: float
    high: float


@dataclass(frozen=True)
class Distribution:
    metric: Metric
    bars: Sequence[Bar]
    low: str
    high: str
    median: str
    median_before: str


class Cell(NamedTuple):
    after: str
    before: str
    worse: bool


@dataclass(frozen=True)
class Row:
    """A pair; `kinds` are the filters that it passes, `values` are its cells' numbers, "" where there is none."""

    name: str
    link: str
    picture: str
    kinds: Sequence[str]
    notes: Sequence[str]
    files: str
    cells: Sequence[Cell]
    values: str


def write_overview(
    path: str | Path,
    pairs: Mapping[str, Mapping[str, Any]],
    failures: Mapping[str, str],
    missing: int = 0,
    title: str = "Registered pairs",
) -> Path:
    """Writes the page; returns its path.

    Args:
        path: the page; each pair's folder lies beside it under the pair's id.
        pairs: the metrics.json of each registered pair, by id.
        failures: the reasons of those that failed, by id.
        missing: how many pairs of the list were not reached.
        title: headline.
    """
    path = Path(path)
    metrics = metrics_of(pairs.values())
    rows = [_row(path.parent, name, pairs[name], metrics) for name in ranked(pairs, metrics)]
    text = template("overview.html.j2").render(
        title=title,
        kinds=KINDS,
        at_once=AT_ONCE,
        metrics=metrics,
        distributions=[_distribution(metric, pairs.values()) for metric in metrics],
        rows=rows,
        counts={kind: sum(kind in row.kinds for row in rows) for kind in KINDS},
        failures=failures,
        missing=missing,
        methods=" · ".join(sorted({str(numbers["method"]) for numbers in pairs.values() if "method" in numbers})),
    )
    with whole_file(path) as unfinished:
        unfinished.write_text(text, "utf-8")
    return path


def metrics_of(pairs: Iterator[Mapping[str, Any]] | Any) -> list[Metric]:
    """What at least one of the pairs has: the metric that ranks them first, folding and time last."""
    names: dict[str, bool] = {}
    folding = seconds = False
    for numbers in pairs:
        for name in compared(numbers):
            names[name] = names.get(name, False) or name + BEFORE in numbers
        folding |= "folding_corners" in numbers
        seconds |= bool(seconds_of(numbers))
    first = [name for name in RANKED_BY if name in names][:1]
    found = [
        Metric(name, NAMES.get(name, name.replace("_", " ")), name in LOWER_IS_BETTER, names[name])
        for name in dict.fromkeys([*first, *names])
    ]
    found += [Metric("folding", "Folded cells", True, False)] * folding
    return [*found, *[Metric("seconds", "Time", True, False)] * seconds]


def value_of(numbers: Mapping[str, Any], metric: Metric, before: bool = False) -> float | None:
    """A pair's number (the mean of labels or points); None where there is none."""
    if before and not metric.before:
        return None
    if metric.key == "seconds":
        return sum(seconds_of(numbers).values()) or None
    if metric.key == "folding":
        value = numbers.get("folding_corners")
    else:
        value = mean_of(numbers.get(metric.key + BEFORE * before))
    return None if value is None or not math.isfinite(value) else float(value)


def ranked(pairs: Mapping[str, Mapping[str, Any]], metrics: Sequence[Metric]) -> list[str]:
    """The ids from the worst to the best by the first metric; those without it come first."""
    if not metrics:
        return list(pairs)
    sign = -1 if metrics[0].lower_is_better else 1

    def key(name: str) -> float:
        value = value_of(pairs[name], metrics[0])
        return -math.inf if value is None else sign * value

    return sorted(pairs, key=key)


def _distribution(metric: Metric, pairs: Any) -> Distribution:
    after, before = (
        np.array([value for numbers in pairs if (value := value_of(numbers, metric, side)) is not None])
        for side in (False, True)
    )
    both = np.concatenate([after, before])
    least, low, high, most = np.percentile(both, (0, FEW, 100 - FEW, 100)) if len(both) else (0, 0, 1, 1)
    if high <= low:
        low, high = (least, most) if most > least else (least - 0.01, least + 0.01)
    if metric.lower_is_better and low < 0.1 * high:
        low = min(least, 0.0)
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(values.clip(low, high), edges)[0] for values in (after, before)]
    highest = max(1, *(int(count.max()) for count in counts))
    edges[[0, -1]] = min(least, low), max(most, high)
    bars = []
    for number in range(BINS):
        here, there = int(counts[0][number]), int(counts[1][number])
        words = f"{metric.text(edges[number])} to {metric.text(edges[number + 1])}: {here} pairs"
        words += f", {there} before" if metric.before else ""
        bars.append(Bar(here / highest, there / highest, words, float(edges[number]), float(edges[number + 1])))
    medians = [metric.text(float(np.median(values))) if len(values) else "" for values in (after, before)]
    return Distribution(metric, bars, metric.text(float(low)), metric.text(float(high)), *medians)


def _row(folder: Path, name: str, numbers: Mapping[str, Any], metrics: Sequence[Metric]) -> Row:
    cells, values = [], []
    for metric in metrics:
        after, before = value_of(numbers, metric), value_of(numbers, metric, before=True)
        worse = after is not None and before is not None and after != before
        worse = worse and (after > before) == metric.lower_is_better  # type: ignore[operator]
        cells.append(Cell(metric.text(after), "" if before is None else metric.text(before), worse))
        values.append("" if after is None else repr(after))
    notes = [str(note) for note in numbers.get("warnings", ())]
    true = {
        "warnings": bool(notes),
        "worse": any(cell.worse for cell in cells),
        "folded": bool(numbers.get("folding_corners")),
        "interrupted": bool(numbers.get("interrupted")),
    }
    files = numbers.get("files", {})
    page = "report.html" if (folder / name / "report.html").exists() else "metrics.json"
    picture = f"{quote(name)}/{THUMBNAIL}" if (folder / name / THUMBNAIL).exists() else ""
    return Row(
        name,
        f"{quote(name)}/{page}",
        picture,
        [kind for kind in KINDS if true[kind]],
        notes,
        " → ".join(Path(str(files[role])).name for role in ("moving", "fixed") if role in files),
        cells,
        ",".join(values),
    )
