"""How a training starts, in one process or in several of `torchrun`, which share one network and its data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.utils import set_determinism
from torch import distributed

from warpzoo.bundles import overrides
from warpzoo.checks import check_count

FEW_WORKERS, WORKERS_EACH = 16, 4
"""How many processes may read images anywhere, and for each processor."""


def begin(seed: int) -> None:
    """What a configuration of a training begins with: see `overrides.begin`; seeds every random generator."""
    overrides.begin()
    set_determinism(seed=seed)


def local_device() -> torch.device:
    """The GPU of this process of `torchrun`, or the CPU where there is no GPU."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def join_processes(seed: int) -> None:
    """Meets the other processes of `torchrun`; each draws random numbers of its own."""
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    set_determinism(seed=seed + distributed.get_rank())


def are_several() -> bool:
    """Whether `join_processes`, or whoever else started a process group, has done so."""
    return distributed.is_available() and distributed.is_initialized()


def check_workers(num_workers: int) -> None:
    """That there are not so many processes to read images that starting them takes longer than reading."""
    check_count("num_workers", num_workers, 0)
    most = max(FEW_WORKERS, WORKERS_EACH * (os.cpu_count() or 1))
    if num_workers > most:
        raise ValueError(
            f"num_workers must be {most} or fewer where there are {os.cpu_count()} processors, got {num_workers}."
        )


def share_of(batch_size: int) -> int:
    """How many of the samples of a step each process takes: the step is the same, however many there are."""
    processes = idist.get_world_size()
    if batch_size % processes:
        raise ValueError(
            f"batch_size must be a multiple of the number of processes, {processes}, got {batch_size}: it counts the "
            f"samples of all of them together."
        )
    return batch_size // processes


def of_all_processes(mine: Sequence[Any], engine: Engine) -> list[Any]:
    """What each process found of its share of an engine's dataset, in the order of the dataset.

    Shares are dealt out in turn, and filled up from the start, so that all have as many; those count once.
    """
    if idist.get_world_size() == 1:
        return list(mine)
    dealt = [one for together in zip(*idist.all_gather(list(mine)), strict=True) for one in together]
    return dealt[: len(engine.data_loader.dataset)]
