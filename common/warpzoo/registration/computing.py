"""What a registration computes with: a seed and a number of threads, as before again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def computing(seed: int = 0, threads: int | None = None) -> Iterator[None]:
    """Within it, what is random comes from the seed, and PyTorch uses that many threads if a number is given."""
    for name, value, least in (("seed", seed, 0), ("threads", threads, 1)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}.")
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
