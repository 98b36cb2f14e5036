"""What `warpzoo sequence --train` makes of the shipped weights on small sequences: how far key points are from where
the network's own matrices take them, and the refined ones, in parts of how far they are unregistered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.common import Options, table
from experiments.denoisereg_cells import TRUE, true_matrices
from warpzoo import register_sequence
from warpzoo.data.cells import CellSequence, cell_sequence
from warpzoo.images.series import open_series
from warpzoo.registration import find_methods
from warpzoo.registration.budget import Budget
from warpzoo.registration.sequence_interface import source_of
from warpzoo.registration.sequence_training import train_on_frames

PRESET, SHAPE, FRAMES, SNR = "B1", (128, 128), 25, 1.5
SEQUENCES = 3
SEED = 71_000_000
"""Of the first sequence."""
BUDGET = "3min"
BAR = 25
"""Per cent that are wanted of the network alone after it."""
SHIPPED, TRAINED = "as shipped", f"trained for {BUDGET}"
ALONE: dict[str, Any] = {"refine": 0, "consistent": False}
"""What the network alone finds."""


def run(options: Options) -> dict[str, Any]:
    sequences: dict[str, Any] = {}
    for number in tqdm(range(options.limit or SEQUENCES)):
        seed = SEED + 1000 * options.seed + number
        sequence = cell_sequence(PRESET, SHAPE, FRAMES, snr=SNR, seed=seed)
        frames = sequence.noisy.numpy()
        entry = {"unregistered": distance(np.tile(np.eye(3), (FRAMES, 1, 1)), sequence)}
        with TemporaryDirectory() as folder:
            weights = {SHIPPED: options.weights / "model.pt", TRAINED: Path(folder) / "model.pt"}
            method = find_methods("denoisereg", weights=str(weights[SHIPPED]), device="cpu")[0]
            series = open_series(source_of(frames, None, None, None, None))
            train_on_frames(method, series, Budget.read("train", BUDGET), options.seed, weights[TRAINED])  # type: ignore[arg-type]
            for name, file in weights.items():
                for row, settings in {name: ALONE, f"{name}, refined": {}}.items():
                    found = register_sequence(frames, "denoisereg", threads=1, weights=str(file), **settings)
                    entry[row] = distance(found.matrices, sequence)
        entry[TRUE] = distance(true_matrices(sequence).numpy(), sequence)
        sequences[str(seed)] = entry
    return {**options.record(), "sequences": sequences}


def distance(matrices: np.ndarray, sequence: CellSequence) -> float:
    """The mean distance of all key points of all later frames from where the matrices take those of the first frame."""
    points = sequence.points.flip(2).numpy()
    here = np.concatenate([points[0], np.ones((len(points[0]), 1))], 1)
    apart = np.linalg.norm(here @ matrices[1:, :2].transpose(0, 2, 1) - points[1:], axis=2)
    return round(float(apart.mean()), 3)


def page(result: Mapping[str, Any], command: str) -> str:
    entries = result["sequences"]
    lines = [["unregistered", *(f"{one['unregistered']:.2f} px" for one in entries.values())]]
    for row in (SHIPPED, f"{SHIPPED}, refined", TRAINED, f"{TRAINED}, refined", TRUE):
        lines.append([row, *(f"{100 * one[row] / one['unregistered']:.1f} %" for one in entries.values())])
    return "\n\n".join(
        [
            "## Trained on the sequence",
            f"Made by `{command}`; seed {result['seed']}, one thread of {result['machine']} at a load of "
            f"{result['load']} when it began. {FRAMES} frames of {SHAPE[0]}², preset {PRESET} of `warpzoo.data.cells`, "
            f"SNR {SNR:g}; columns are sequences of these seeds. How far the key points of all later frames are from "
            "where the matrices take those of the first one, in parts of how far they are unregistered; of the network "
            f"alone, trained for {BUDGET} on the frames, less than {BAR} % are wanted.",
            table(["seed", *entries], lines),
        ]
    )
