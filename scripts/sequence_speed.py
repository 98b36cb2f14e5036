"""Where the seconds of `warpzoo sequence` go, from the file to the report, after the start of the program, and those of
pystackreg in turns with it, which reads the same file, registers and resamples, and neither denoises nor writes.

python scripts/sequence_speed.py                             # 30 frames of 256², the shipped network, two threads
python scripts/sequence_speed.py --frames 10 --side 128 --method affine --threads 1
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import wraps
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
import torch

from warpzoo.commands.sequence import sequence
from warpzoo.data.cells import cell_sequence
from warpzoo.images.series import Series, WrittenSeries
from warpzoo.record import machine
from warpzoo.registration import groups, series_files, series_results, settling
from warpzoo.registration.alignment import Alignment
from warpzoo.registration.network import NetworkMethod
from warpzoo.registration.optimisation import Optimisation
from warpzoo.registration.pair import Registration
from warpzoo.report.film import Film

PARTS: dict[str, list[tuple[Any, str]]] = {
    "reading": [(Series, "__getitem__")],
    "denoising": [(NetworkMethod, "denoised")],
    "placing by the network": [(NetworkMethod, "__call__")],
    "aligning": [(groups, "align_pairs"), (groups, "best_of"), (Alignment, "__call__"), (Optimisation, "__call__")],
    "aligning pairs of frames": [(settling, "align_pairs"), (settling, "best_of")],
    "checking the images": [(groups, "preflight"), (groups, "broken_values")],
    "keeping what was found": [(series_files.InFolder, "write"), (series_files.InFolder, "read")],
    "resampling": [(Registration, "warp")],
    "numbers of each frame": [(series_results, "row_of"), (series_results, "seen_by")],
    "mean and deviation": [(series_results.Moments, "add")],
    "writing frames": [(WrittenSeries, "put")],
    "film": [(Film, "add"), (Film, "figure")],
    "report": [(series_results, "draw_series")],
}


class Clock:
    """Seconds of each part, by the wall and of the processor, without those of the parts within it."""

    def __init__(self) -> None:
        self.wall, self.processor = defaultdict[str, float](float), defaultdict[str, float](float)
        self.within: list[str] = ["other"]
        self.last = self.now()

    def now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def turn(self) -> None:
        """What has passed belongs to the innermost part."""
        now = self.now()
        self.wall[self.within[-1]] += now[0] - self.last[0]
        self.processor[self.within[-1]] += now[1] - self.last[1]
        self.last = now

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            self.turn()
            self.within.append(part)
            try:
                return call(*arguments, **named)
            finally:
                self.turn()
                self.within.pop()

        return timed


def ours(path: Path, method: str | None, threads: int) -> Clock:
    clock, before = Clock(), []
    for part, places in PARTS.items():
        for owner, name in places:
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, clock.timed(part, getattr(owner, name)))
    try:
        with TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            clock.last = clock.now()
            sequence(str(path), output=f"{folder}/out", method=method, threads=threads)
            clock.turn()
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)
    return clock


def stackreg(path: Path) -> Clock:
    from pystackreg import StackReg

    clock = Clock()
    StackReg(StackReg.AFFINE).register_transform_stack(tifffile.imread(path).astype(float), reference="first")
    clock.turn()
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--snr", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--method", help="of warpzoo sequence (default: the network that denoises)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cells.tif"
        cells = cell_sequence("B1", (given.side, given.side), given.frames, snr=given.snr, seed=given.seed)
        values = cells.noisy.clamp(0, 65535).round().numpy().astype(np.uint16)
        tifffile.imwrite(path, values, imagej=True, metadata={"axes": "TYX"})
        ours(path, given.method, given.threads)  # imports, weights
        turns = [(ours(path, given.method, given.threads), stackreg(path)) for _ in range(given.turns)]
    print(
        f"{given.frames} frames of {given.side}², SNR {given.snr:g}, seed {given.seed}; {given.threads} threads of "
        f"{machine()['processor']} at a load of {load:.1f}\n"
        f"medians of {given.turns} turns, seconds by the wall and of the processor"
    )
    for part in (*PARTS, "other"):
        print_line(part, [(one.wall[part], one.processor[part]) for one, _ in turns])
    for name, place in (("warpzoo sequence", 0), ("pystackreg", 1)):
        clocks = [turn[place] for turn in turns]
        print_line(name, [(sum(one.wall.values()), sum(one.processor.values())) for one in clocks])


def print_line(name: str, seconds: Sequence[Sequence[float]]) -> None:
    print(f"{name:26} {median(one[0] for one in seconds):6.2f} {median(one[1] for one in seconds):6.2f}")


if __name__ == "__main__":
    main()
