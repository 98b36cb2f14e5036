"""Times as users write them."""

from __future__ import annotations

import re

UNITS = {"s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "minute": 60, "minutes": 60}
UNITS |= {"h": 3600, "hour": 3600, "hours": 3600}


def amount_of(text: str) -> tuple[float, str] | None:
    """A positive number and the word after it: "20 min" → (20.0, "min"); None if it is something else."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+|[0-9]+\.)\s*([a-z]*)\s*", text.lower())
    return (float(match[1]), match[2]) if match and float(match[1]) > 0 else None


def seconds_of(text: str) -> float | None:
    """Of "60s", "2 min" or "1.5h"; of a number without a unit, so many; None if it is no time above 0."""
    found = amount_of(text)
    if found is None or found[1] not in ("", *UNITS):
        return None
    return found[0] * UNITS.get(found[1], 1)
