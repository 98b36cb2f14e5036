"""Items to results on the workers of a client: as many under way as keep all of them busy, whatever dies."""

from __future__ import annotations

import os
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch

from warpzoo.cluster.workers import Needs, Place, UnfitWorkerError, place_of, unfit_for
from warpzoo.record import command, on_behalf_of

AT_ONCE = 1000
"""Items that the scheduler knows of: more than any cluster has workers, and little to remember."""
ONE_AT_A_TIME = threading.Lock()
"""Of a worker process with several threads: seeds, numbers of threads and networks belong to the process."""

Item = TypeVar("Item")


class Died(NamedTuple):
    """What an item ends with if every worker that it was given to has died."""

    reason: str


class ClusterLostError(ConnectionError):
    """The scheduler cannot be reached any more."""


def outcomes(
    client: Any,
    function: Callable[[Item, Place], Any],
    items: Sequence[Item],
    needs: Needs,
    threads: int | None = None,
) -> Iterator[tuple[Item, Any]]:
    """Each item with what `function(item, place)` gives on some worker, or `Died`, in the order in which they end.

    An item whose worker dies is done again elsewhere, some times, so doing one twice must do no harm. If the loop over
    this ends early, nothing further is begun. An exception of `function` is raised here. PyTorch has `threads` on each
    worker, by default as many as the worker has.
    """
    from distributed import as_completed

    run, line, todo = secrets.token_hex(4), command(), enumerate(items)
    under_way: dict[str, tuple[Any, Item]] = {}

    def begin(count: int) -> list[Any]:
        futures = []
        for number, item in islice(todo, count):
            key = f"warpzoo-{run}-{number}"
            future = client.submit(_on_a_worker, function, item, needs, line, threads, key=key, pure=False)
            under_way[key] = (future, item)
            futures.append(future)
        return futures

    try:
        ended = as_completed(begin(AT_ONCE), loop=client.loop, with_results=True, raise_errors=False)
        for future, result in ended:
            _, item = under_way.pop(future.key)
            outcome = _outcome(client, future, result)
            ended.update(begin(1))
            yield item, outcome
    finally:
        if under_way and client.status == "running":
            client.cancel([future for future, _ in under_way.values()], force=True)


def _outcome(client: Any, future: Any, result: Any) -> Any:
    from distributed import KilledWorker

    if future.status == "finished":
        return result
    error = result[1] if isinstance(result, tuple) else result
    if isinstance(error, KilledWorker):
        return Died(_why_killed(client, error))
    if future.status == "error" and isinstance(error, Exception):
        raise error
    raise ClusterLostError(
        f"the scheduler {client.scheduler.address if client.scheduler else ''} was lost: what is done is kept, and the "
        f"same command goes on from there."
    ) from error


def _why_killed(client: Any, error: Any) -> str:
    """The reason as far as the cluster knows it: a limit of memory leaves a trace, any other end does not."""
    address = error.last_worker.address
    times = f"the worker that it was on died {error.allowed_failures + 1} times"
    limit = error.last_worker.memory_limit
    for _, event in client.get_events("worker-restart-memory"):
        if event.get("worker") == address:
            return (
                f"{times}, of memory: it takes {event['rss'] / 1e9:.1f} GB and more, a worker may take "
                f"{limit / 1e9:.1f} GB; use fewer workers or smaller images."
            )
    return f"{times} (killed, pre-empted, crashed, or out of memory)."


def _on_a_worker(function: Callable[[Any, Place], Any], item: Any, needs: Needs, line: str, threads: int | None) -> Any:
    """One item, quietly: bars and warnings of many workers would be mixed in one terminal."""
    from distributed import get_worker

    if why := unfit_for(needs):
        raise UnfitWorkerError(why)
    with ONE_AT_A_TIME, open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place, before = place_of(get_worker()), torch.get_num_threads()
        torch.set_num_threads(threads or place.threads)
        try:
            with on_behalf_of(line):
                return function(item, place)
        finally:
            torch.set_num_threads(before)
