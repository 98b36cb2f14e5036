"""Where the time of a training step goes: `python scripts/profile_step.py dirnet`.

Runs a bundle's own objective, augmentation and optimiser on random images and sorts the operations' own time into the
network's layers, `grid_sample`, and the rest (losses, splines, grids, copies, optimiser).
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from pathlib import Path

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from warpzoo.bundles import open_bundle
from warpzoo.record import machine

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("conv", "batch_norm", "batchnorm", "elu", "pool", "addmm")
SAMPLING = ("grid_sampler", "gridsampler")


def share_of(event: FunctionEvent) -> str:
    """Which of the three an operation's own time belongs to: that of the layer or `grid_sample` it was called by."""
    called_by: FunctionEvent | None = event
    while called_by is not None:
        name = called_by.name.lower()
        if any(part in name for part in SAMPLING):
            return "grid_sample"
        if any(part in name for part in LAYERS):
            return "layers"
        called_by = called_by.cpu_parent
    return "rest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="dirnet")
    parser.add_argument("--variant", nargs="*", default=[], help="names of variants to put over train.json, in order")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--give-back", action="store_true", help="freed memory goes back to the system, as it does without `initialize`"
    )
    chosen = parser.parse_args()

    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    root = ROOT / "bundles" / chosen.bundle
    config = open_bundle(root).config("train", chosen.variant, crop=None, device=torch.device("cpu"))
    if not chosen.give_back:
        config.get_parsed_content("initialize")
    objective, optimizer = config.get_parsed_content("objective"), config.get_parsed_content("optimizer")
    objective.train()

    def step(image: torch.Tensor) -> None:
        optimizer.zero_grad()
        objective(image)["loss"].backward()
        optimizer.step()

    images = [torch.rand(chosen.batch, 2, *chosen.size) for _ in range(chosen.steps)]
    step(images[0])
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for image in images:
            step(image)
    spent: dict[str, float] = defaultdict(float)
    rest: dict[str, float] = defaultdict(float)
    for event in profiled.events():
        share = share_of(event)
        spent[share] += event.self_cpu_time_total
        if share == "rest":
            rest[event.name] += event.self_cpu_time_total
    total = sum(spent.values())
    size = " x ".join(map(str, chosen.size))
    names = " ".join([chosen.bundle, *chosen.variant])
    print(f"{names}: batch {chosen.batch} of {size}, {machine()}, load {os.getloadavg()[0]:.1f}")
    print(f"a step takes {total / chosen.steps / 1e6:.2f} s, of which")
    for name in ("layers", "grid_sample", "rest"):
        print(f"  {100 * spent[name] / total:5.1f} %  {name}")
    print("the largest of the rest:")
    for name in sorted(rest, key=rest.__getitem__, reverse=True)[:8]:
        print(f"  {100 * rest[name] / total:5.1f} %  {name}")


if __name__ == "__main__":
    main()
