"""How soon `warpzoo register` answers, and what drawing a report takes; `benchmark.py start` calls it.

Every row is run in a fresh process, in turn with the same of an earlier commit (`--before`), medians over the repeats.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from warpzoo.data.phantom import beating_heart

ROOT = Path(__file__).parents[1]
BARS = {"affine, 64 × 64": 2.5, "a network, 256 × 256": 4.0, "report, 256 × 256": 0.1}
REPORT = """
import sys, time, torch
from warpzoo.geometry.grid import Grid
from warpzoo.report.page import write_report
shape = [int(size) for size in sys.argv[1].split(",")]
images = torch.rand(3, *[size // 8 for size in shape], generator=torch.Generator().manual_seed(0))
images = torch.nn.functional.interpolate(images[None], size=shape, mode="bilinear" if len(shape) == 2 else "trilinear")
displacement = images[0, :1].expand(len(shape), *shape) * 4 - 2
metrics = {"ncc_before": 0.5, "ncc": 0.9, "folding": 0.0, "folding_corners": 0.0}
def draw():
    write_report("report", *images[0], displacement, Grid(shape), metrics, {"method": "affine"})
draw()
wall, processor = time.perf_counter(), time.process_time()
for _ in range(3):
    draw()
print((time.perf_counter() - wall) / 3, (time.process_time() - processor) / 3)
"""


def commands() -> dict[str, list[str]]:
    """What is measured: arguments of Python."""
    register = ["-m", "warpzoo", "register"]
    return {
        "import torch": ["-c", "import torch"],
        "import monai": ["-c", "import monai"],
        "affine, 64 × 64": [*register, "fixed_64.png", "moving_64.png", "--method", "affine"],
        "affine,svf, 64 × 64": [*register, "fixed_64.png", "moving_64.png", "--method", "affine,svf"],
        "a network, 256 × 256": [*register, "fixed_256.png", "moving_256.png", "--method", "dirnet"],
        "report, 256 × 256": ["-c", REPORT, "256,256"],
        "report, 160 × 192 × 144": ["-c", REPORT, "160,192,144"],
    }


def make_pairs(folder: Path) -> None:
    for name, phase in (("fixed", 0.0), ("moving", 1.0)):
        heart = beating_heart(phase=phase).image.squeeze().numpy()
        picture = Image.fromarray((255 * heart / heart.max()).astype(np.uint8))
        picture.save(folder / f"{name}_256.png")
        picture.resize((64, 64)).save(folder / f"{name}_64.png")


def seconds_of(arguments: list[str], sources: Path, folder: Path, threads: int) -> tuple[float, float]:
    """Wall and processor time of a process, or what it says of itself."""
    environment = {**os.environ, "PYTHONPATH": str(sources / "common"), "OMP_NUM_THREADS": str(threads)}
    begun, before = time.perf_counter(), os.times()
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    after = os.times()
    if REPORT in arguments:
        wall, processor = map(float, ended.stdout.split())
        return wall, processor
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, used


def report(threads: int, repeats: int, before: str | None) -> tuple[dict, str]:
    """Every number, and the medians as a table."""
    sides = {"now": ROOT}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pairs(folder)
        if before:
            sides = {"before": folder / "sources", **sides}
            sides["before"].mkdir()
            packed = subprocess.run(["git", "archive", before, "common", "bundles"], cwd=ROOT, capture_output=True)
            subprocess.run(["tar", "-x", "-C", sides["before"]], input=packed.stdout, check=True)
        found: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for row, arguments in commands().items():
            measured = {"now": ROOT} if row.startswith("import") else sides
            seconds_of(arguments, ROOT, folder, threads)  # from the disk into memory
            found[row] = {side: [] for side in measured}
            for _ in range(repeats):
                for side, sources in measured.items():
                    found[row][side].append(seconds_of(arguments, sources, folder, threads))
            print(f"{row}: {found[row]}", flush=True)
    lines = ["| | " + " | ".join(f"{side}: wall | processor" for side in sides) + " | bar |"]
    lines += ["|---" * (2 * len(sides) + 2) + "|"]
    for row, times in found.items():
        cells = []
        for side in sides:
            cells += [f"{median(part):.2f} s" for part in zip(*times[side], strict=True)] if side in times else ["", ""]
        lines.append(f"| {row} | {' | '.join(cells)} | {f'{BARS[row]:g} s' if row in BARS else ''} |")
    lines += ["", f"Medians of {repeats} in turn, {threads} threads, load {os.getloadavg()[0]:.1f} at the end."]
    return found, "\n".join(lines) + "\n"
