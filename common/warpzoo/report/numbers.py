"""The numbers of a registration as the text of cards and tables.

Convention: metrics are those of metrics.json: `<name>_before` and `<name>` are a number or {label: number, …, "mean":
number}; `folding` and `folding_corners` are shares between 0 and 1; `seconds` is {stage: number}; `resolution` is
{method: the spacing of the finest voxels that it compared}; `likeness` is {"start" or method: {measure: number}}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BEFORE = "_before"
NAMES = {
    "ncc": "Correlation (NCC)",
    "ncc_denoised": "Correlation, denoised",
    "ncc_inside": "Correlation inside the masks",
    "ncc_outside": "Correlation outside the masks",
    "lncc": "Local correlation (LNCC)",
    "mi": "Mutual information",
    "mse": "Mean squared error",
    "dice": "Dice",
    "hd95": "Surface distance, 95th percentile",
    "msd": "Surface distance, mean",
    "tre": "Target registration error",
}
DISTANCES = ("hd95", "msd", "tre")
BOTH_WAYS = {"disagreement": "mean", "disagreement_95": "at most, in 95 % of the image"}
FOLDING = {
    "folding_corners": "Cells, one-sided differences at their corners",
    "folding": "Voxels, central differences",
}


@dataclass(frozen=True)
class Card:
    """A number to look at first; `before` is empty where there is none."""

    name: str
    after: str
    before: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text; the last one may be a mean or a total. `is_text`: names and values, not numbers."""

    caption: str
    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()
    is_text: bool = False

    @property
    def has_total(self) -> bool:
        return len(self.rows) > 1 and self.rows[-1][0] in ("mean", "total")


def cards_of(metrics: Mapping[str, Any], unit: str) -> list[Card]:
    cards = []
    for name in compared(metrics):
        first, last = (mean_of(metrics.get(name + end)) for end in (BEFORE, ""))
        words = NAMES.get(name, name) + (", mean" if isinstance(metrics.get(name), (Mapping, list, tuple)) else "")
        before = "" if first is None else shown(first, name)
        cards.append(Card(words, shown(last, name), before, unit if name in DISTANCES else ""))
    if "folding_corners" in metrics:
        cards.append(Card("Folded cells", percent(metrics["folding_corners"])))
    if "disagreement" in metrics:
        cards.append(Card("Disagreement of both ways", shown(metrics["disagreement"], "disagreement"), unit=unit))
    seconds = seconds_of(metrics)
    if seconds:
        cards.append(Card("Time", f"{sum(seconds.values()):.1f}", unit="s"))
    return cards


def tables_of(metrics: Mapping[str, Any], unit: str) -> list[Table]:
    """Every number of the metrics."""
    tables, names = [], compared(metrics)

    def add(caption: str, rows: Sequence[tuple[str, Any, Any]], metric: str = "") -> None:
        ordered = sorted(rows, key=lambda line: line[0] == "mean")
        cells = [(name, *(shown(mean_of(value), metric) for value in values)) for name, *values in ordered]
        tables.append(Table(caption, cells, ("", "before", "after")))

    plain = [name for name in names if name not in ("dice", *DISTANCES)]
    if plain:
        add("Similarity", [(NAMES.get(name, name), metrics.get(name + BEFORE), metrics.get(name)) for name in plain])
    for name in (name for name in names if name not in plain):
        first, last = itemised(metrics.get(name + BEFORE)), itemised(metrics.get(name))
        caption = NAMES.get(name, name) + (f" ({unit})" if name in DISTANCES else "")
        add(caption, [(key, first.get(key), last.get(key)) for key in dict.fromkeys([*last, *first])], name)
    folds = [(words, percent(metrics[key])) for key, words in FOLDING.items() if key in metrics]
    if folds:
        tables.append(Table("Folding (Jacobian determinant ≤ 0)", folds))
    apart = [(words, shown(metrics[key], "disagreement")) for key, words in BOTH_WAYS.items() if key in metrics]
    if apart:
        tables.append(Table(f"Disagreement of both ways ({unit})", apart))
    if metrics.get("likeness"):
        left_out = metrics.get("left_out", ())
        stages = [
            (spaced(stage) + (" (left out)" if stage in left_out else ""), *map(shown, measures.values()))
            for stage, measures in metrics["likeness"].items()
        ]
        title = "Alike after: correlation in windows, mutual information, edges the same way"
        tables.append(Table(title, stages, ("", "windows", "inform.", "edges")))
    if metrics.get("resolution"):
        rows = [
            (spaced(name), " × ".join(f"{side:.3g}" for side in sides)) for name, sides in metrics["resolution"].items()
        ]
        tables.append(Table(f"Finest voxels compared ({unit})", rows))
    seconds = seconds_of(metrics)
    if seconds:
        stages = [(spaced(stage), f"{value:.2f} s") for stage, value in seconds.items()]
        tables.append(Table("Time", [*stages, ("total", f"{sum(seconds.values()):.2f} s")]))
    used = {
        "seconds",
        *FOLDING,
        *BOTH_WAYS,
        *(name + end for name in names for end in ("", BEFORE, "_mean", BEFORE + "_mean")),
    }
    rest = {key: value for key, value in metrics.items() if key not in used and is_number(value)}
    if rest:
        tables.append(Table("Other numbers", [(key.replace("_", " "), shown(value)) for key, value in rest.items()]))
    return tables


def spaced(chain: str) -> str:
    """Names joined by commas, with room for a line's end after each."""
    return chain.replace(",", ", ")


def provenance_tables(provenance: Mapping[str, Any]) -> list[Table]:
    """Files, versions and whatever else made the result, without its command."""
    tables = {
        name: [(str(key), str(text)) for key, text in value.items()]
        for name, value in provenance.items()
        if isinstance(value, Mapping) and value
    }
    rest = [
        (key, str(value)) for key, value in provenance.items() if key != "command" and not isinstance(value, Mapping)
    ]
    if rest:
        tables["run"] = rest
    return [Table(name.replace("_", " ").capitalize(), rows, is_text=True) for name, rows in tables.items()]


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


def mean_of(value: Any) -> float | None:
    return itemised(value).get("mean")


def seconds_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per stage, without a total: it is summed up here."""
    value = metrics.get("seconds", {})
    stages = value if isinstance(value, Mapping) else {"all": value}
    return {str(stage): float(part) for stage, part in stages.items() if is_number(part) and stage != "total"}


def by_frames(sentences: Iterable[tuple[int, str]]) -> list[str]:
    """Sentences on frames, each once, after the frames that it is about: "frames 1 to 3, 7: …"."""
    about: dict[str, list[list[int]]] = {}
    for frame, sentence in sentences:
        runs = about.setdefault(sentence, [])
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    words = []
    for sentence, runs in about.items():
        frames = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs)
        words.append(f"frame{'' if frames.isdecimal() else 's'} {frames}: {sentence}")
    return words


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: float | None, metric: str = "") -> str:
    """Three decimals, two for distances; a dash where there is no number."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{2 if metric in (*DISTANCES, *BOTH_WAYS) else 3}f}" if abs(value) < 100 else f"{value:.5g}"


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share else "0 %"
