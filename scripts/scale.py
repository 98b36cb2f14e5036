"""Throughput and cost of `--cluster`: what docs/scale.md rests on.

python scripts/scale.py throughput --data DATA [--pairs 24]   # pairs a minute with 1 and 2 workers, in turn
python scripts/scale.py denoise [--frames 24]                 # frames a minute with 1 and 2 workers, in turn
python scripts/scale.py overhead [--pairs 2000]               # of the cluster, for a pair whose work is a stub
python scripts/scale.py stub [--pairs 100000]                 # the same with the scheduler in a process of its own

throughput: the middle slices of the Sunnybrook hearts (diastole to systole, dirnet) and hippocampi of different people
(fcn_multires), without a report; workers are warmed up by two pairs before, and those of one and of two take turns.
denoise: an OME-Zarr of frames of 512² made here (seed 0), each a chunk, by the weights that psf_blindspot ships and by
nlm; likewise in turn, and the results are compared byte for byte.
overhead, stub: the time from the first to the last outcome over the number of pairs, on two workers; the scheduler's
memory is that of its process.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import warpzoo
from warpzoo.cluster import Place, check_workers, connected, outcomes
from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Image, write_image
from warpzoo.record import checksum, machine

TURNS = 2


def hearts(data: Path, folder: Path, count: int) -> list[dict[str, Path]]:
    import torch

    archive, pairs = np.load(data / "cardiac/sunnybrook_ed_es_pairs.npz"), []
    for number in range(count):
        files = {}
        for role, name in (("fixed", "ed"), ("moving", "es")):
            values = torch.from_numpy(archive[name][number].astype(np.float32))[None]
            image = Image.in_memory(values, Grid(values.shape[1:]), f"{name}.nii.gz")
            files[role] = write_image(folder / f"{number}_{name}.nii.gz", image.array, image.header)
        pairs.append(files)
    return pairs


def hippocampi(data: Path, count: int) -> list[dict[str, Path]]:
    files = sorted((data / "hippocampus/images").glob("*.nii.gz"))[: count + 1]
    return [{"fixed": one, "moving": other} for one, other in zip(files, files[1:], strict=False)]


def throughput(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name, connected("local:1") as one, connected("local:2") as two:
        folder = Path(name)
        lists = {
            "hearts, 256², dirnet": ("dirnet", hearts(options.data, folder, options.pairs)),
            "hippocampi, about 35×50×36, fcn_multires": ("fcn_multires", hippocampi(options.data, options.pairs)),
            "hippocampi, affine,svf": ("affine,svf", hippocampi(options.data, options.pairs // 4)),
        }
        print("| list | 1 worker, pairs a minute | 2 workers | ratio |\n|---|---|---|---|")
        for title, (method, pairs) in lists.items():
            rates: dict[int, list[float]] = {1: [], 2: []}
            for turn in range(TURNS + 1):
                for workers, client in ((1, one), (2, two)):
                    out = folder / f"{method}_{turn}_{workers}"
                    todo = pairs if turn else pairs[:2]
                    begun = time.perf_counter()
                    cohort = warpzoo.register_many(todo, out, method, client=client, report=False, threads=1)
                    seconds = time.perf_counter() - begun
                    assert not cohort.failures, cohort.failures
                    if turn:
                        rates[workers].append(60 * len(todo) / seconds)
            first, second = (float(np.median(rates[workers])) for workers in (1, 2))
            print(f"| {title} | {first:.0f} | {second:.0f} | {second / first:.2f} |", flush=True)


def denoise(options: argparse.Namespace) -> None:
    from warpzoo.bundles import shipped
    from warpzoo.cohorts.stacks import Workers
    from warpzoo.denoising.denoise import denoise_stack
    from warpzoo.images.stacks import open_stack

    how: dict[str, dict[str, Any]] = {
        "psf_blindspot, weights given": {"weights": shipped("denoising").weights()},
        "nlm": {"method": "nlm", "size": 1.0, "tile": 512},
    }
    with tempfile.TemporaryDirectory() as name, connected("local:1") as one, connected("local:2") as two:
        folder = Path(name)
        stacks = [open_stack(noisy_frames(folder / f"{count}.zarr", count)) for count in (2, options.frames)]
        print("| denoiser | 1 worker, frames a minute | 2 workers | ratio |\n|---|---|---|---|")
        for title, settings in how.items():
            rates: dict[int, list[float]] = {1: [], 2: []}
            written = set()
            for turn in range(TURNS + 1):
                for workers, client in ((1, one), (2, two)):
                    out, stack = folder / "out.zarr", stacks[min(turn, 1)]
                    begun = time.perf_counter()
                    denoise_stack(stack, out, workers=Workers(client, 1), **settings)
                    if turn:
                        rates[workers].append(60 * stack.shape[0] / (time.perf_counter() - begun))
                        written.add(checksum(out))
                    shutil.rmtree(out)
            assert len(written) == 1, "other results with two workers than with one"
            first, second = (float(np.median(rates[workers])) for workers in (1, 2))
            print(f"| {title} | {first:.0f} | {second:.0f} | {second / first:.2f} |", flush=True)


def noisy_frames(path: Path, count: int) -> Path:
    import zarr
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    axes = [{"name": "t", "type": "time"}, *({"name": name, "type": "space"} for name in "yx")]
    scale = [{"type": "scale", "scale": [1, 1, 1]}]
    described = {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group = zarr.create_group(path, zarr_format=2, attributes={"multiscales": [described]})
    array = group.create_array("0", shape=(count, 512, 512), chunks=(1, 512, 512), dtype="uint16")
    for frame in range(count):
        array[frame] = random.poisson(400 * gaussian_filter(random.random((512, 512)), 3))
    return path


def nothing(place: Place) -> None:
    """Workers need no preparation for a stub."""


def stub(item: dict[str, Any], place: Place) -> None:
    """What a pair costs beside its work: its paths arrive, and that it went well comes back."""


def listed(count: int) -> list[dict[str, Any]]:
    """Pairs as `list_pairs` gives them."""
    folder = Path("/storage/project/subjects")
    return [
        {"id": str(n), "fixed": folder / "template.nii.gz", "moving": folder / f"sub-{n:06}/anat/T1w.nii.gz"}
        for n in range(count)
    ]


@contextmanager
def own_scheduler() -> Iterator[tuple[Any, int]]:
    """A client of a scheduler in a process of its own, with two workers; and that process's number."""
    import subprocess
    import sys

    from distributed import Client

    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder, "scheduler.json")
        program = [sys.executable, "-m"]
        scheduler = subprocess.Popen(
            [*program, "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", there],
            stderr=subprocess.DEVNULL,
        )
        workers = [
            subprocess.Popen(
                [*program, "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard", "--no-nanny"]
                + ["--scheduler-file", str(there)],
                stderr=subprocess.DEVNULL,
            )
            for _ in range(2)
        ]
        try:
            while not there.exists():
                time.sleep(0.1)
            with Client(scheduler_file=str(there), set_as_default=False) as client:
                client.wait_for_workers(2, timeout=120)
                yield client, scheduler.pid
        finally:
            for process in (*workers, scheduler):
                process.terminate()
                process.wait()


def drive(client: Any, count: int, scheduler: psutil.Process) -> None:
    with tempfile.TemporaryDirectory() as folder:
        needs = check_workers(client, Path(folder), [], nothing)
        for _ in outcomes(client, stub, listed(50), needs):
            pass
        before, most = scheduler.memory_info().rss, 0
        spent, own, begun = scheduler.cpu_times().user, time.process_time(), time.perf_counter()
        for ended, _ in enumerate(outcomes(client, stub, listed(count), needs)):
            if ended % 200 == 0:
                most = max(most, scheduler.memory_info().rss)
        seconds, own = time.perf_counter() - begun, time.process_time() - own
        spent = scheduler.cpu_times().user - spent
    print(
        f"{count} stub pairs: {1000 * seconds / count:.2f} ms each, of which the client's process computed "
        f"{1000 * own / count:.2f} ms and the scheduler's {1000 * spent / count:.2f} ms; the scheduler's process had "
        f"{before / 2**20:.0f} MB before and {max(most, before) / 2**20:.0f} MB at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "denoise", "overhead", "stub"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--frames", type=int, default=24)
    options = parser.parse_args()
    print(f"{machine()['processor']}, {psutil.cpu_count()} cores, {psutil.getloadavg()[0]:.1f} busy when it began")
    if options.what == "throughput":
        options.pairs = options.pairs or 24
        throughput(options)
    elif options.what == "denoise":
        denoise(options)
    elif options.what == "overhead":
        with connected("local:2") as client:
            drive(client, options.pairs or 2000, psutil.Process())
    else:
        with own_scheduler() as (client, pid):
            drive(client, options.pairs or 100_000, psutil.Process(pid))


if __name__ == "__main__":
    main()
