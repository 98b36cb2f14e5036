"""How much memory `warpzoo sequence` takes for few frames and for many (Linux), and how long: each in a process of its
own.

python scripts/sequence_memory.py                          # 30 and 1,000 frames of 512²
python scripts/sequence_memory.py 30 300 --side 256 --method affine
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

STEP = 2
"""Pixels that the cell drifts by at most from one frame to the next."""


def write_frames(path: Path, count: int, side: int, seed: int = 0) -> None:
    """A textured disc that wanders about, with noise; one frame in memory at a time."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((side, side)) - side / 2
    texture = gaussian_filter(random.normal(size=(side, side)), 4)
    cell = 100 + (np.hypot(rows, columns) < side / 4) * (400 + 100 * texture / texture.std())
    values = tifffile.memmap(path, shape=(count, side, side), dtype=np.uint16, metadata={"axes": "TYX"})
    place = np.zeros(2, int)
    for frame in range(count):
        values[frame] = np.roll(cell, place, (0, 1)) + random.normal(0, 20, (side, side))
        place = np.clip(place + random.integers(-STEP, STEP + 1, 2), -side // 10, side // 10)
    values.flush()


def measured(count: int, side: int, options: list[str]) -> tuple[float, float]:
    """Megabytes of its own that the process held at most, without files that are mapped, and seconds."""
    with TemporaryDirectory() as folder:
        write_frames(Path(folder) / "cells.tif", count, side)
        line = [sys.executable, "-m", "warpzoo", "sequence", "cells.tif", "--output", "out", *options]
        begun = time.perf_counter()
        process = subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        most = 0
        while process.poll() is None:
            said = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            most = max(most, int(said[1]) if said else 0)
            time.sleep(0.02)
        if process.returncode:
            raise RuntimeError(f"{' '.join(line)} ended with {process.returncode}")
        return most / 1024, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", nargs="*", type=int, default=[30, 1000])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--method", default="phase_correlation")
    given = parser.parse_args()
    for count in given.frames:
        megabytes, seconds = measured(count, given.side, ["--method", given.method])
        print(f"{count} frames of {given.side}², {given.method}: {megabytes:.0f} MB, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
