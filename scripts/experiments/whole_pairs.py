"""Whole pairs, from files to files, by every tool: accuracy, time and memory.

Every tool runs in a process of its own on one thread; processor seconds and the most memory are what the system counts
for that process. Where a transform takes points is read off by warping three images whose values are the moving
coordinates in millimetres, by the tool's own resampling.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.pairs import Case, cases
from experiments.tools import TOOLS

ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[2:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], "w").write(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20]))
"""
"""A process of little memory between: the system counts towards a child what its parent holds."""


def run(commands: list[list[str]], folder: Path) -> tuple[float, float]:
    """Processor seconds and the most memory in GB of commands, one after the other."""
    seconds = memory = 0.0
    for command in commands:
        measured = folder / "measured.json"
        with (folder / "log.txt").open("w") as log:
            line = [sys.executable, "-c", MEASURED, str(measured), *command]
            subprocess.run(line, cwd=folder, stdout=log, stderr=log, env=os.environ | ENVIRONMENT, check=True)
        code, used, most = json.loads(measured.read_text())
        if code:
            raise RuntimeError(f"{command[:4]} must end well, got {(folder / 'log.txt').read_text()[-2000:]}")
        seconds, memory = seconds + used, max(memory, most)
    return seconds, memory


def by_tool(case: Case, tool: str, tools: Mapping[str, Callable[[str], list[list[str]]]] = TOOLS) -> dict[str, Any]:
    """What a tool makes of a pair."""
    commands = tools[tool]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder)
        begun = time.perf_counter()
        seconds, memory = run(commands("register"), folder)
        elapsed = time.perf_counter() - begun
        for axis in range(3):
            run(commands(f"coordinate{axis}"), folder)
        about = {"kind": case.kind, "pair": case.name, "tool": tool}
        return about | case.measures(folder) | {"seconds": seconds, "elapsed": elapsed, "memory_gb": memory}


def peers(data: Path, tools: list[str], seeds: list[int], hippocampi: int) -> Iterator[dict[str, Any]]:
    """Every tool on every pair, in turn."""
    for case in cases(data, seeds, hippocampi):
        yield from (by_tool(case, tool) for tool in tools)


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| pairs | tool | error, mm | Dice | folds | processor time | memory |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for kind, tool in dict.fromkeys((row["kind"], row["tool"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["tool"]) == (kind, tool)]

        def mean(name: str, digits: int, own: list[dict[str, Any]] = own) -> str:
            values = [row[name] for row in own if name in row]
            return f"{np.mean(values):.{digits}f}" if values else ""

        yield (
            f"| {kind} ({len(own)}) | {tool} | {mean('error_mm', 3)} | {mean('dice', 3)} "
            f"| {100 * max(row['folds'] for row in own):.2g} % | {median(row['seconds'] for row in own):.1f} s "
            f"| {max(row['memory_gb'] for row in own):.2f} GB |"
        )
