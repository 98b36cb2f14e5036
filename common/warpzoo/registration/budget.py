"""How long an optimisation may take, as a user says it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from warpzoo.durations import seconds_of


@dataclass(frozen=True)
class Budget:
    """How long an optimisation may take, and after how many seconds it ends in any case; nothing at all is no
    optimisation."""

    amount: float
    seconds: bool = False
    limit: float = float("inf")

    @classmethod
    def read(cls, name: str, value: str | float) -> Budget:
        """From iterations such as 50 or "50", seconds such as "10s" or minutes such as "3min"; `name` is what the value
        is called."""
        text = str(value).strip()
        if re.fullmatch(r"\d+", text):
            return cls(int(text))
        if text[-1:].isalpha() and (seconds := seconds_of(text)) is not None:
            return cls(seconds, seconds=True)
        raise ValueError(
            f"{name} must be a number of iterations such as 50, or a time such as 10s or 3min, got {text!r}."
        )

    def within(self, seconds: float) -> Budget:
        return replace(self, limit=min(self.limit, seconds))

    def spent(self, iterations: float, seconds: float) -> float:
        """Which part of it that is."""
        return max((seconds if self.seconds else iterations) / self.amount, seconds / self.limit)

    def __bool__(self) -> bool:
        return self.amount > 0


def time_limit(value: str | float | None) -> float | None:
    """Seconds, from a number or a text such as "20s" or "2min"."""
    if value is None:
        return None
    seconds = None if isinstance(value, bool) else seconds_of(str(value))
    if seconds is None:
        raise ValueError(f"budget must be a time above 0 such as 20s or 2min, got {value!r}.")
    return seconds
