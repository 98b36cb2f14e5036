"""How a training starts, in one process or in several of `torchrun`, which share one network and its data."""

from __future__ import annotations

import os

import torch
from monai.utils import set_determinism
from torch import distributed

from warpzoo.errors import end_with_the_reason


def begin(seed: int) -> None:
    """Seeds every random generator; from now on a failure of `python -m monai.bundle` ends with one sentence."""
    end_with_the_reason()
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
