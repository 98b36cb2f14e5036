"""A sequence of simulated volumes like the paper's C: how far key points are from where they belong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.common import Options, table
from experiments.denoisereg_cells import ROWS as IN_PLANES
from experiments.denoisereg_cells import SEED, SNRS, TRUE, last_frame, measured, methods_of, provenance
from warpzoo.data.cells import cell_sequence, noisy
from warpzoo.registration import find_methods

PRESET = "C"
VARIANT = "3d"
ROWS = (
    "unregistered",
    "phase correlation",
    "demons",
    "affine",
    "denoised, affine",
    "DenoiseReg",
    "DenoiseReg, refined",
    "DenoiseReg* + svf",
    "DenoiseReg, refined, + svf",
    "DenoiseReg, refined, + svf, coarse",
)


def run(options: Options) -> dict[str, Any]:
    weights = options.weights / f"{VARIANT}.pt"
    network = find_methods(str(options.bundle), variant=VARIANT, weights=str(weights), device="cpu")[0]
    chains = {row: chain for row in ROWS if (chain := methods_of(IN_PLANES[row])) is not None}
    seed = SEED + 1000 * options.seed + 100
    sequence = last_frame(cell_sequence(PRESET, snr=None, seed=seed))
    found = {}
    for snr in SNRS[: options.limit]:
        entry = measured(network, chains, sequence, noisy(sequence.clean, snr, seed))
        found[f"{snr:g}"] = entry.numbers
    return {**options.record(), "snr": found, "shape": list(sequence.clean.shape[1:])}


def page(result: Mapping[str, Any], command: str) -> str:
    found = result["snr"]
    rows = next(iter(found.values()))["rows"]
    lines = []
    for row in [name for name in (*ROWS, TRUE) if name in rows]:
        cells = [
            np.mean(numbers["rows"][row][where]) for numbers in found.values() for where in ("contour", "interior")
        ]
        lines.append([row, *(f"{cell:.2f}" for cell in cells)])
    gains = ", ".join(f"{entry['psnr'][1] - entry['psnr'][0]:.1f} dB at {snr}" for snr, entry in found.items())
    return "\n\n".join(
        [
            "## A simulated volume with time",
            f"{provenance(result, command)} The last frame of a sequence like the paper's C, "
            f"{' × '.join(map(str, result['shape']))} voxels, is registered to the first; weights `{VARIANT}.pt`. Mean "
            "distances, in voxels, of key points of the surface (contour) and inside from where they belong.",
            table(["", *(f"SNR {snr}, {where}" for snr in found for where in ("contour", "interior"))], lines),
            f"Denoised, the frames have a higher PSNR by {gains}. The rows are those of the tables above.",
        ]
    )
