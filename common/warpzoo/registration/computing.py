"""What a registration computes with: a seed and a number of threads, as before again afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def most_threads() -> int:
    """More than so many crash the process, or leave it busy with itself."""
    return max(64, 2 * (os.cpu_count() or 1))


@contextmanager
def computing(seed: int = 0, threads: int | None = None) -> Iterator[None]:
    """Within it, what is random comes from the seed, and PyTorch uses that many threads if a number is given."""
    for name, value, least, most in (("seed", seed, 0, 2**63 - 1), ("threads", threads, 1, most_threads())):
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}.")
        if value > most:
            raise ValueError(f"{name} must be {most} at most here, got {value}.")
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
