"""From what a user calls a cluster to a Dask client: this machine, a running scheduler, or a batch system."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from warpzoo.errors import nearest
from warpzoo.files import reading, shortened

SYSTEMS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}
SUBMITS = {"slurm": "sbatch", "pbs": "qsub", "sge": "qsub", "lsf": "bsub"}
SECONDS_TO_CONNECT = 10
DEATHS = 3
"""How often an item is begun again after the worker that it was on has died."""
SCHEDULING = {
    "distributed.scheduler.allowed-failures": DEATHS,
    "distributed.scheduler.worker-saturation": 1.0,  # none waits behind one that kills its worker
    "distributed.worker.memory.target": False,  # results are numbers: there is nothing to spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,  # it would look at the stack of every worker 100 times a second
}


@contextmanager
def connected(cluster: str) -> Iterator[Any]:
    """A `distributed.Client` of "local", "local:4", "tcp://scheduler:8786" or a file such as slurm.yaml.

    What is started here ends with the block, a scheduler that was running goes on. The dashboard's address is printed.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise ValueError("cluster must not be given without Dask: pip install 'warpzoo[cluster]'.") from error
    text = str(cluster).strip()
    if re.match(r"(tcp|tls|ws|wss|ucx|ucxx)://", text):
        _reach(text)
        with Client(text, timeout=SECONDS_TO_CONNECT, set_as_default=False) as client:
            _say_dashboard(client)
            yield client
        return
    with dask.config.set(SCHEDULING), _started(text) as started, Client(started, set_as_default=False) as client:
        _say_dashboard(client)
        yield client


def _reach(address: str) -> None:
    """Ends with one sentence where none answers. A Client that is not answered would also say so at the end."""
    from distributed import Security
    from distributed.core import connect

    async def reached() -> None:
        how = Security().get_connection_args("client")
        comm = await connect(address, timeout=SECONDS_TO_CONNECT, **how)
        await comm.close()

    try:
        asyncio.run(reached())
    except (OSError, TimeoutError, TypeError, ValueError) as error:
        raise ValueError(
            f"cluster must be the address of a running scheduler, got {address}, where none answers within "
            f"{SECONDS_TO_CONNECT} s."
        ) from error


def _started(text: str) -> Any:
    """A cluster as "local", "local:4" or a file describes it."""
    if local := re.fullmatch(r"local(?::(\d+))?", text):
        from dask.system import CPU_COUNT
        from distributed import LocalCluster

        gpus = torch.cuda.device_count()
        count = int(local[1]) if local[1] else gpus or CPU_COUNT
        if count < 1:
            raise ValueError(f"cluster must have one worker or more, got {text}.")
        return LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, silence_logs=50, dashboard_address="127.0.0.1:8787"
        )
    if Path(text).suffix.lower() in (".yaml", ".yml"):
        return _batch_system(Path(text).expanduser())
    raise ValueError(
        f"cluster must be local, local:N, the address of a scheduler such as tcp://host:8786, or a file such as "
        f"slurm.yaml, got {text!r}."
    )


def _batch_system(path: Path) -> Any:
    """The jobs of a batch system: a file with its name, and below it how many `workers` and dask-jobqueue's own
    settings."""
    import yaml

    with reading(path, "a YAML file of a batch system"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or len(content) != 1 or not isinstance(next(iter(content.values())), dict):
        raise ValueError(f"{path} must hold one of {', '.join(SYSTEMS)} and its settings below it, got {content!r}.")
    [(system, settings)] = content.items()
    if system not in SYSTEMS:
        raise ValueError(f"{path} must be of {', '.join(SYSTEMS)}, got {system!r}{nearest(system, SYSTEMS)}.")
    try:
        import dask_jobqueue
    except ImportError as error:
        raise ValueError(f"{path} must not be given without dask-jobqueue: pip install 'warpzoo[cluster]'.") from error
    if isinstance(settings.get("walltime"), int):
        raise ValueError(
            f'walltime of {path} must be in quotes, such as "12:00:00", got {settings["walltime"]}: YAML reads times '
            f"without them as numbers."
        )
    settings = {"cores": 1, "processes": 1, **settings}
    count = settings.pop("workers", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"workers of {path} must be a whole number, 1 or more, got {count!r}.")
    try:
        # one that is asked for here, before any work, says what is wrong with the settings
        started = getattr(dask_jobqueue, SYSTEMS[system])(**settings)
        started.job_script()
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).partition(". ")[0].split())
        raise ValueError(f"{path} must have settings of dask-jobqueue's {SYSTEMS[system]}: {reason}.") from error
    if shutil.which(SUBMITS[system]) is None:
        started.close()
        raise ValueError(f"{path} must be used where {SUBMITS[system]} is, which submits jobs; there is none here.")
    _submit(started, -(-count // settings["processes"]), path)
    return started


def _submit(started: Any, jobs: int, path: Path) -> None:
    """Asks for jobs and waits until the batch system has taken them (`scale` would not say that it refuses)."""
    from distributed.core import Status

    for _ in range(jobs):
        started.worker_spec.update(started.new_worker_spec())
    try:
        started.sync(lambda: started)
    except (OSError, RuntimeError) as error:
        refused = [job for job in started.workers.values() if job.status is Status.created]
        for job in refused:
            job.status = Status.closed  # there is nothing to wait for at the end
        reason = shortened(" ".join(str(error).rpartition("stderr:")[2].split()) or "it does not say why", 300)
        if len(refused) == jobs:
            started.close()
            raise ValueError(f"the batch system of {path} must take its jobs, but refuses: {reason}") from error
        print(f"The batch system has taken {jobs - len(refused)} of {jobs} jobs: {reason}")


def _say_dashboard(client: Any) -> None:
    if find_spec("bokeh") is None:
        print("Dashboard: none, it needs bokeh (pip install bokeh)")
    else:
        print(f"Dashboard: {client.dashboard_link}")
