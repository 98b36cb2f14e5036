"""Lines over time as SVG: what a chart shows, in the coordinates of its box.

Convention: the box is `WIDE` × `TALL` with y downwards; values that are None leave a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

WIDE, TALL = 900, 200
ROUNDED = 1e-6
"""Of a tick's step."""
MOST_POINTS = 2000
"""Of a line: more could not be told apart."""


@dataclass(frozen=True)
class Line:
    """A line of a chart, and where its points are if they are few."""

    name: str
    path: str


@dataclass(frozen=True)
class Chart:
    """Lines, the values and places of the ticks of both axes, and the places along x that are marked."""

    title: str
    lines: Sequence[Line]
    rows: Sequence[tuple[str, float]]
    columns: Sequence[tuple[str, float]]
    marks: Sequence[tuple[str, float]]


def chart_of(
    title: str, values: Mapping[str, Sequence[float | None]], marks: Mapping[int, str], unit: str = ""
) -> Chart:
    """Lines of as many values each, one for each frame; `marks` are frames and what is said of them."""
    count = max(map(len, values.values()))
    known = [value for line in values.values() for value in line if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    low, high = low - margin, high + margin

    def across(frame: float) -> float:
        return round(WIDE * (frame + 0.5) / count, 1)

    def down(value: float) -> float:
        return round(TALL * (high - value) / (high - low), 1)

    lines = []
    for name, line in values.items():
        path, joined = "", False
        for frame in range(0, count, -(-count // MOST_POINTS)):
            value = line[frame]
            if value is not None:
                path += f"{'L' if joined else 'M'}{across(frame)} {down(value)}"
            joined = value is not None
        lines.append(Line(name, path))
    rows = [(f"{value:.4g}{unit}", down(value)) for value in ticks(low, high, 4)]
    columns = [(f"{value:.0f}", across(value)) for value in ticks(0, count - 1, 10) if value == int(value)]
    return Chart(title, lines, rows, columns, [(text, across(frame)) for frame, text in marks.items()])


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two, about as many as asked for."""
    rough = (high - low) / most or 1.0
    power = 10.0 ** floor(log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough)
    return [number * step for number in range(ceil(low / step - ROUNDED), floor(high / step + ROUNDED) + 1)]
