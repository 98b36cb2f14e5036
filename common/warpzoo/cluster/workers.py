"""Whether the workers of a cluster can do what they will be given: asked before any work, and once by each of them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

import warpzoo
from warpzoo.errors import FAILURES, plain_reason

SECONDS_FOR_A_WORKER = 30
"""That a scheduler which is running may take to have a worker; a batch system takes as long as it does."""
MOST_FOLDERS = 100


class Needs(NamedTuple):
    """What a worker must have: this version of the package, and folders that it sees; into the first it writes, and
    `mark` was made there."""

    version: str
    mark: Path
    folders: tuple[Path, ...]


class Place(NamedTuple):
    """A worker: its name (those of one machine have numbers) and its threads."""

    name: int | str
    threads: int

    def device(self, chosen: str | None) -> str | None:
        """The one that is chosen for all; or else, on a machine with several GPUs, that of this worker's number."""
        gpus = torch.cuda.device_count()
        return f"cuda:{self.name % gpus}" if chosen is None and gpus > 1 and isinstance(self.name, int) else chosen


def place_of(worker: Any) -> Place:
    return Place(worker.name, worker.state.nthreads)


class UnfitWorkerError(ValueError):
    """A worker without what it needs; everything that it would do would fail."""


def check_workers(client: Any, output: Path, folders: Collection[Path], prepare: Callable[[Place], object]) -> Needs:
    """Ends with one sentence if a worker has another version of warpzoo or none, does not see one of the folders, may
    not write into `output`, or fails to `prepare`; returns what those that join later must have."""
    started = client.cluster is not None
    if started and not client.scheduler_info()["workers"]:
        print("Waiting for the first worker")
    try:
        client.wait_for_workers(1, timeout=None if started else SECONDS_FOR_A_WORKER)
    except TimeoutError as error:
        raise ValueError(f"the scheduler {client.scheduler.address} must have a worker, got none.") from error
    for address, version in client.run(_version_there(), on_error="return").items():
        if version != warpzoo.__version__:
            raise UnfitWorkerError(f"{_other_version(version)} (worker {address})")
    mark = output / f".seen-{secrets.token_hex(4)}"
    needs = Needs(warpzoo.__version__, mark, (output, *sorted(folders)[:MOST_FOLDERS]))
    output.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        for address, why in client.run(_unfit, needs, prepare, on_error="return").items():
            if isinstance(why, str):
                raise UnfitWorkerError(f"{why} (worker {address})")
            if isinstance(why, FAILURES):
                raise UnfitWorkerError(f"{plain_reason(why)} (worker {address})")
            if isinstance(why, BaseException):
                raise why
    finally:
        mark.unlink(missing_ok=True)
    return needs


def _unfit(needs: Needs, prepare: Callable[[Place], object], dask_worker: Any) -> str | None:
    """On a worker: why it cannot do the work, after which it is prepared for it."""
    if why := unfit_for(needs):
        return why
    if not needs.mark.exists():
        return f"{needs.folders[0]} must be one folder for all workers, got another one of this name"
    if not os.access(needs.folders[0], os.W_OK):
        return f"{needs.folders[0]} must be a folder that all workers may write into"
    try:
        prepare(place_of(dask_worker))
    except FAILURES as error:
        return plain_reason(error)
    return None


@cache
def unfit_for(needs: Needs) -> str | None:
    """What of it this process does not have, as a sentence."""
    if needs.version != warpzoo.__version__:
        return _other_version(warpzoo.__version__)
    for folder in needs.folders:
        if not folder.exists():
            return f"{folder} must be on storage that all workers see, and is not there"
    return None


def _version_there() -> Callable[[], str | None]:
    """A function that a worker without the package can run, too: being local, it travels as code and not as a name."""

    def version() -> str | None:
        try:
            import warpzoo
        except ImportError:
            return None
        return warpzoo.__version__

    return version


def _other_version(version: str | None) -> str:
    return f"all workers must have warpzoo {warpzoo.__version__}, got {version or 'one without it'}"
