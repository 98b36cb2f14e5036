"""What a known PSF is worth: photons of known light seen through it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy import ndimage

from experiments.common import Options, table
from experiments.psf_blindspot import BUDGET, DEFAULT, NETWORKS, WITHOUT_PSF, filtered, measured, provenance, trained

PLAIN = ["plain U-Net, PSF 1", "plain U-Net, none"]
LONGER = "170s"


def run(options: Options) -> dict[str, Any]:
    """Textured nuclei of known light, seen through a Gaussian of 1 pixel, in photons."""
    random = np.random.default_rng(options.seed)
    light = nuclei(random)
    clean = ndimage.gaussian_filter(light, 1.0, mode="nearest").astype(np.float32)
    noisy = random.poisson(clean).astype(np.uint16)
    rows, _ = filtered(noisy.astype(np.float32), clean)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulated.tif"
        tifffile.imwrite(path, noisy)
        for network, variants in NETWORKS.items():
            rows[network], _ = trained(options, path, clean, variants)
        for network in PLAIN:
            rows[f"{network}, {LONGER}"], _ = trained(options, path, clean, NETWORKS[network], LONGER)
    return {**options.record(), "rows": {"noisy": measured(noisy, clean), **rows}, "budget": BUDGET}


def nuclei(random: np.random.Generator, side: int = 384, count: int = 60) -> np.ndarray:
    """Ellipses with bright spots on a dim background: the light before the microscope, in photons per pixel."""
    light = np.full((side, side), 0.3)
    rows, columns = np.indices(light.shape)
    for _ in range(count):
        centre, angle = random.uniform(0, side, 2), random.uniform(0, np.pi)
        long, short = random.uniform(10, 18), random.uniform(7, 12)
        along = (rows - centre[0]) * np.cos(angle) + (columns - centre[1]) * np.sin(angle)
        across = (columns - centre[1]) * np.cos(angle) - (rows - centre[0]) * np.sin(angle)
        inside = (along / long) ** 2 + (across / short) ** 2 < 1
        light[inside] = random.uniform(1.5, 4)
        spots = inside & (random.random(light.shape) < 0.03)
        light[spots] += random.uniform(12, 36)
    return light


def page(result: Mapping[str, Any], command: str) -> str:
    lines = []
    for row, value in result["rows"].items():
        sigma = value.get("sigma")
        lines.append(
            [
                row,
                *(
                    f"{value[name]:.{digits}f}"
                    for name, digits in (("psnr", 2), ("scale_invariant_psnr", 2), ("ssim", 3))
                ),
                "–" if not sigma else " × ".join(f"{side:g}" for side in sigma),
            ]
        )
    long = [f"{network}, {LONGER}" for network in PLAIN]
    worth = {
        what: result["rows"][known]["psnr"] - result["rows"][none]["psnr"]
        for what, (known, none) in {
            "the plain U-Net": PLAIN,
            f"the plain U-Net in {LONGER}": long,
            "the default network": [DEFAULT, WITHOUT_PSF],
        }.items()
    }
    return "\n\n".join(
        [
            "## Simulated nuclei with a known PSF",
            f"Nuclei of known light, a Gaussian PSF of 1 pixel, photons; networks trained on the noisy image alone for "
            f"{result['budget']} of one core. {provenance(result, command)}",
            table(["", "PSNR", "scale-invariant PSNR", "SSIM", "σ of the PSF, px"], lines),
            f"The known PSF is worth {', '.join(f'{gained:+.2f} dB to {what}' for what, gained in worth.items())}.",
        ]
    )
