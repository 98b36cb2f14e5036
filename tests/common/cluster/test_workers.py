"""Workers that die, that are unfit, and a scheduler that is lost: one sentence each, and nothing is lost."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import nibabel
import numpy as np
import pytest
from distributed import Client, LocalCluster

import warpzoo as package
from warpzoo.cluster import Died, Place, check_workers, outcomes
from warpzoo.cluster.connection import SCHEDULING
from warpzoo.cluster.tasks import ClusterLostError
from warpzoo.errors import plain_reason

from .conftest import rows_of


def nothing(place: Place) -> None:
    """Workers need no preparation."""


def deadly(item: int, place: Place) -> int:
    import os
    import signal

    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item**2


def square(item: int, place: Place) -> int:
    return item**2


def patient(item: int, place: Place) -> int:
    import time

    time.sleep(0.2)
    return item


def failing(item: int, place: Place) -> int:
    raise KeyError(item)


@pytest.fixture(autouse=True)
def _travel(by_value: Callable[[str], None]) -> None:
    by_value(__name__)


def test_errors_that_are_bugs_are_raised(client: Any, tmp_path: Path) -> None:
    needs = check_workers(client, tmp_path, [], nothing)
    with pytest.raises(KeyError, match="0"):
        [*outcomes(client, failing, [0], needs)]


def test_more_items_than_are_under_way_at_once(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpzoo.cluster.tasks.AT_ONCE", 3)
    needs = check_workers(client, tmp_path, [], nothing)
    assert sorted(outcomes(client, square, range(40), needs)) == [(item, item**2) for item in range(40)]


@pytest.mark.parametrize("what", ["input", "output"])
def test_a_folder_that_workers_do_not_see(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folders = [tmp_path / "elsewhere"] if what == "input" else []
    if what == "output":
        monkeypatch.setattr(Path, "touch", lambda *_: None)  # as if it was another folder of this name
    with pytest.raises(ValueError, match="that all workers see" if what == "input" else "one folder for all workers"):
        check_workers(client, tmp_path, folders, nothing)


def start(*arguments: object, **environment: str) -> subprocess.Popen:
    program = [sys.executable, "-m", "distributed.cli.dask_" + str(arguments[0]), *map(str, arguments[1:])]
    return subprocess.Popen(program, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)


@pytest.fixture
def empty() -> Iterator[Client]:
    """A scheduler without workers."""
    with (
        LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("version", ["0.0.9", None])
def test_workers_with_another_package_or_none(empty: Client, tmp_path: Path, version: str | None) -> None:
    (tmp_path / "warpzoo").mkdir()
    (tmp_path / "warpzoo/__init__.py").write_text(f"__version__ = {version!r}" if version else "raise ImportError")
    worker = start("worker", empty.scheduler.address, "--no-nanny", "--no-dashboard", PYTHONPATH=str(tmp_path))
    try:
        with pytest.raises(ValueError, match=f"must have warpzoo .*, got {version or 'one without it'}"):
            check_workers(empty, tmp_path / "out", [], nothing)
    finally:
        worker.kill()
        worker.wait()
    assert not (tmp_path / "out").exists()


def test_a_scheduler_without_workers(empty: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpzoo.cluster.workers.SECONDS_FOR_A_WORKER", 0.2)
    with pytest.raises(ValueError, match="must have a worker, got none"):
        check_workers(empty, tmp_path, [], nothing)


def test_a_lost_scheduler_ends_with_one_sentence(tmp_path: Path) -> None:
    scheduler = start("scheduler", "--port", 0, "--scheduler-file", tmp_path / "there.json", "--no-dashboard")
    worker = start("worker", "--scheduler-file", tmp_path / "there.json", "--no-nanny", "--no-dashboard")
    try:
        while not (tmp_path / "there.json").exists():
            time.sleep(0.05)
        with Client(scheduler_file=str(tmp_path / "there.json"), set_as_default=False, timeout=10) as client:
            needs = check_workers(client, tmp_path, [], nothing)
            ended = outcomes(client, patient, range(100), needs)
            assert len([next(ended), next(ended)]) == 2
            scheduler.send_signal(signal.SIGKILL)
            with pytest.raises(ClusterLostError, match="was lost: what is done is kept") as lost:
                list(ended)
            assert plain_reason(lost.value) == str(lost.value), "and the command says that"
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def test_a_killed_worker_loses_nothing_and_leaves_no_half_file(
    client: Any, images: list[Path], tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    out, method = tmp_path / "out", str(make_bundle("shift", [2.0, 0.0]))

    def kill() -> None:
        while len([*out.glob("*/metrics.json")]) < 3 and not over.wait(0.02):
            pass
        os.kill(victim, signal.SIGKILL)

    over, victim = threading.Event(), next(iter(client.run(os.getpid).values()))
    killer = threading.Thread(target=kill)
    killer.start()
    cohort = package.register_many(rows_of(images, 24), out, method, client=client, report=False)
    over.set()
    killer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(victim, 0)
    assert len(cohort.metrics) == 24
    assert not cohort.failures
    for folder in out.glob("[0-9]*"):
        assert not [*folder.glob(".*")]
        nibabel.load(folder / "warped.nii.gz").get_fdata()
        json.loads((folder / "metrics.json").read_text())


def test_a_pair_beyond_the_limit_of_memory_is_said_and_the_rest_is_done(images: list[Path], tmp_path: Path) -> None:
    """It is begun again once and no more, as the scheduler here is told; the limit is each worker's own."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((1000, 1000, 1000))
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", 352
    large = tmp_path / "large.nii"
    large.write_bytes(header.binaryblock + bytes(4))
    os.truncate(large, 352 + 1000**3)  # a gigabyte of nothing, which takes no place on the disk
    rows = [*rows_of(images, 4), {"id": "large", "fixed": large, "moving": large}]
    settings = {**SCHEDULING, "distributed.scheduler.allowed-failures": 1}
    with (
        dask.config.set(settings),
        LocalCluster(2, threads_per_worker=1, memory_limit="1.2GB", dashboard_address=None, silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cohort = package.register_many(rows[::-1], tmp_path / "out", "affine", client=client, report=False)
        restarts = client.get_events("worker-restart-memory")
    assert sorted(cohort.metrics) == ["2", "3", "4", "5"]
    [row] = csv.DictReader((tmp_path / "out/failures.csv").open())
    assert row["id"] == "large"
    assert re.search(r"died 2 times, of memory: it takes 1\.\d GB and more, a worker may take 1\.2 GB", row["reason"])
    assert len(restarts) == 2
    assert not [*(tmp_path / "out/large").glob("*")]


def test_an_item_that_kills_its_workers_is_given_up_with_the_reason(client: Any, tmp_path: Path) -> None:
    """The others of the list end as Python says."""
    client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
    try:
        needs = check_workers(client, tmp_path, [], nothing)
        found = dict(outcomes(client, deadly, range(12), needs))
    finally:
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 3))
    died = found.pop(3)
    assert isinstance(died, Died)
    assert "died 1 times" in died.reason
    assert found == {item: item**2 for item in range(12) if item != 3}
