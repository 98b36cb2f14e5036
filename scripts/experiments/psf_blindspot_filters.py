"""SNR of classical filters on clean images with added Gaussian noise (the study's Table 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from experiments.common import Options, table
from experiments.psf_blindspot import fields, filtered, provenance
from warpzoo.metrics.intensity import snr

STUDY_SNR = 13.48
STUDY = {"median": 24.26, "gaussian": 29.53, "box": 26.27}


def run(options: Options) -> dict[str, Any]:
    """Clean images with Gaussian noise of the study's SNR; the images are the fields' means."""
    random = np.random.default_rng(options.seed)
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name, _, _, clean in fields(options):
        deviation = float(np.sqrt((clean.astype(float) ** 2).mean() / 10 ** (STUDY_SNR / 10)))
        noisy = (clean + random.normal(0, deviation, clean.shape)).astype(np.float32)
        numbers, images = filtered(noisy, clean)
        rows[name] = {"noisy": {"snr": decibels(noisy, clean)}}
        rows[name] |= {row: {"size": numbers[row]["size"], "snr": decibels(images[row], clean)} for row in numbers}
    return {**options.record(), "rows": rows}


def decibels(image: np.ndarray, clean: np.ndarray) -> float:
    return round(float(snr(*(torch.from_numpy(np.float32(one))[None, None] for one in (image, clean)))), 2)


def page(result: Mapping[str, Any], command: str) -> str:
    names = list(result["rows"])
    lines = []
    for row in result["rows"][names[0]]:
        values = [result["rows"][name][row] for name in names]
        kind = row.partition(",")[0]
        reported = STUDY_SNR if row == "noisy" else STUDY.get(kind)
        sizes = "–" if row == "noisy" else ", ".join(f"{value['size']:g}" for value in values)
        cells = [f"{value['snr']:.2f}" for value in values]
        lines.append([row, *cells, sizes, "–" if reported is None else f"{reported:.2f}"])
    return "\n\n".join(
        [
            "## SNR of filters on images with added Gaussian noise",
            f"Mean images of {len(names)} real fields with Gaussian noise of the SNR that the study's images had. "
            + provenance(result, command),
            table(["SNR in dB", *names, "sizes", "in the study (LIVECell)"], lines),
            "SNR is 10 log₁₀ of the clean image's power over that of what is left of the noise. Sizes in pixels, or in "
            "standard deviations of the noise for nlm, tv and wavelet. The study names no sizes. Its box 3-D filter "
            "needs volumes: `warpzoo denoise --method box3d`.",
        ]
    )
