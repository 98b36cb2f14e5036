"""Images kept in memory, as many as fit into a bound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import get_worker_info

SHARE = 0.5
"""Of the memory that is free, what is taken if no bound is given."""


class Cache:
    """Keeps what it is given until its bound is reached; what comes later is not kept.

    Pairs are drawn at random, so that which images are kept does not matter. Worker processes inherit what is kept when
    they start; what they read themselves ends with them, and for that they share the bound.

    Args:
        gigabytes: the bound; None for half of the memory that is free, 0 for nothing.
    """

    def __init__(self, gigabytes: float | None) -> None:
        number = isinstance(gigabytes, int | float) and not isinstance(gigabytes, bool)
        if gigabytes is not None and not (number and gigabytes >= 0):
            raise ValueError(
                f"cache must be a number of gigabytes, 0 or more, or null for half of the memory that is free, got "
                f"{gigabytes!r}."
            )
        self.bound = SHARE * free_memory() if gigabytes is None else 1e9 * gigabytes
        self.used = 0
        self.kept: dict[int, dict[str, Any]] = {}

    def add(self, index: int, image: dict[str, Any]) -> None:
        size = sum(one.element_size() * one.numel() for one in image.values() if isinstance(one, Tensor))
        worker = get_worker_info()
        if self.used + size <= self.bound / (worker.num_workers if worker else 1):
            self.kept[index] = image
            self.used += size


def free_memory() -> float:
    """Bytes that can be had without the system swapping; where it does not say, half of what there is."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * float(line.split()[1])
    return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
