"""What sees where things are: networks for affine registration that end in different ways, trained for the same time.

Every head learns from the same pairs, brains in known random placements, for the same seconds of one core, and is
measured on the same pairs that it has not seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.utils import optional_import
from torch import nn

from experiments.common import Options, read_config, table
from warpzoo.bundles import open_bundle
from warpzoo.training import PlacedPairs
from warpzoo.training.placements import placement_error

SECONDS = 120
BATCH = 8
RATES = {"flatten": 1e-3}
"""Twice that of the others, of which a fully connected layer on everything diverges."""
RATE = 2e-3
CLIPPED = 100.0
STN = "stn_affine.network.STNAffine"
DEEP = "deep_affine.network.DeepAffine"
KEY_POINTS = "stn_affine.network.KeyPointAffine"
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "flatten, one matrix": (STN, {"head": "one"}),
    "flatten, separate": (STN, {"head": "separate"}),
    "flatten, separate, 2 passes": (STN, {"head": "separate", "passes": 2}),
    "gap": (DEEP, {"pooling": "gap"}),
    "moments": (DEEP, {"pooling": "moments"}),
    "moments, 2 passes": (DEEP, {"pooling": "moments", "passes": 2}),
    "key points": (KEY_POINTS, {"passes": 1}),
    "key points, 2 passes": (KEY_POINTS, {"passes": 2}),
}
"""Network and options of each row."""
COUNT = 100


def run(options: Options) -> dict[str, Any]:
    open_bundle(options.bundle.parent / "deep_affine")
    config = read_config(options, dataset_dir=str(options.data))
    records, size = config.get_parsed_content("records"), config.get_parsed_content("size")
    pairs = PlacedPairs(records, size, rotation=45, imagined=0, contrasts=0, seed=2, count=COUNT)
    count = min(COUNT, options.limit or COUNT)
    rows = {}
    for head, (target, settings) in HEADS.items():
        torch.manual_seed(options.seed)
        module, _, name = target.rpartition(".")
        if target == STN:
            settings = {"image_size": size, **settings}
        network = optional_import(module, name=name)[0](**settings)
        steps = train(network, PlacedPairs(records, size), head)
        rows[head] = measured(network, [pairs[index] for index in range(count)]) | {
            "steps": steps,
            "parameters": sum(one.numel() for one in network.parameters()),
        }
    return {**options.record(), "size": list(size), "seconds": SECONDS, "rows": rows}


def train(network: nn.Module, pairs: PlacedPairs, head: str) -> int:
    """Trains it for `SECONDS` of this process; returns the number of steps."""
    rate = RATES.get(head.partition(",")[0], RATE)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    begun, steps = time.process_time(), 0
    while (part := (time.process_time() - begun) / SECONDS) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * part))
        batch = [pairs[int(index)] for index in torch.randint(len(pairs), (BATCH,))]
        image, truth = (torch.stack([pair[key] for pair in batch]) for key in ("image", "truth"))
        errors = [placement_error(matrix, truth, pairs.size).mean() for matrix in network.matrices(image)]
        optimizer.zero_grad()
        torch.stack(errors).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIPPED)
        optimizer.step()
        steps += 1
    return steps


@torch.no_grad()
def measured(network: nn.Module, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """The errors of the pairs, in voxels, before and after, and the milliseconds of one pass."""
    network.eval()
    errors, before, times = [], [], []
    for pair in pairs:
        image, truth, shape = pair["image"][None], pair["truth"][None], list(pair["image"].shape[1:])
        begun = time.process_time()
        matrix = network.matrices(image)[-1]
        times.append(time.process_time() - begun)
        errors.append(round(float(placement_error(matrix, truth, shape)), 3))
        before.append(round(float(placement_error(torch.eye(*matrix.shape[1:])[None], truth, shape)), 3))
    return {"errors": errors, "before": before, "milliseconds": round(1000 * float(np.median(times)), 1)}


def page(result: Mapping[str, Any], command: str) -> str:
    rows = result["rows"]
    before = np.array(next(iter(rows.values()))["before"])
    lines = [["none", f"{np.median(before):.2f}", f"{100 * np.mean(before > 5):.0f}", "–", "–", "–"]]
    for head in HEADS:
        row = rows[head]
        errors = np.array(row["errors"])
        lines.append(
            [
                head,
                f"{np.median(errors):.2f}",
                f"{100 * np.mean(errors > 5):.0f}",
                str(row["steps"]),
                f"{row['parameters'] / 1000:.0f}",
                f"{row['milliseconds']:.0f}",
            ]
        )
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return "\n\n".join(
        [
            "## How a network ends",
            f"Two brains in known random placements (up to 45° about any axis, scales 0.8 to 1.25, shears 0.1, shifts "
            f"20 %), {len(before)} pairs on {' × '.join(map(str, result['size']))} voxels; every network was trained "
            f"for {result['seconds']} s of one core. Made by `{command}`; seed {result['seed']}, {result['machine']} "
            f"at a load of {result['load']} when it began, {versions}.",
            table(
                ["head", "median error, voxels", "above 5, %", "steps", "parameters, thousands", "ms per pair"], lines
            ),
            "The error is the mean distance of where points about the middle are taken and where they belong. "
            "*Flatten* is the paper's network, *gap* the affine network of de Vos et al., *moments* the same with the "
            "first and second moments of every feature map beside its mean, *key points* the centres of mass of maps "
            "and the affine map between them in closed form; with two passes the network looks again at what it has "
            "placed. The placements are new, the two brains are those of the training.",
        ]
    )
