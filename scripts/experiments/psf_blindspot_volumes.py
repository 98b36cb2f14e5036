"""What the neighbouring slices are worth: a volume of known light, denoised slice by slice and as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy import ndimage

from experiments.common import Options, table
from experiments.psf_blindspot import BUDGET, measured, provenance, trained
from warpzoo.denoising.filters import FILTERS, noise_deviation

SHAPE = (32, 128, 128)
LONGER = "170s"
PLANES = ("gaussian", "median", "tv")
NETWORKS: dict[str, tuple[list[str], str | None]] = {
    "slice by slice": ([], None),
    "as a volume": (["3d"], None),
    f"as a volume, {LONGER}": (["3d"], LONGER),
}


def run(options: Options) -> dict[str, Any]:
    """Ellipsoids of known light with bright spots, seen through a Gaussian of 1 voxel, in photons."""
    random = np.random.default_rng(options.seed)
    clean = ndimage.gaussian_filter(nuclei(random), 1.0, mode="nearest").astype(np.float32)
    noisy = random.poisson(clean).astype(np.uint16)
    rows = {"noisy": measured(noisy, clean), **filtered(noisy.astype(np.float32), clean)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulated.tif"
        tifffile.imwrite(path, noisy, imagej=True, metadata={"axes": "ZYX"})
        for row, (variants, budget) in NETWORKS.items():
            rows[row], _ = trained(options, path, clean, variants, budget)
    return {**options.record(), "rows": rows, "budget": BUDGET, "shape": SHAPE}


def nuclei(random: np.random.Generator, count: int = 40) -> np.ndarray:
    """The light before the microscope, in photons per voxel."""
    light = np.full(SHAPE, 0.3)
    places = np.moveaxis(np.indices(SHAPE), 0, -1)
    for _ in range(count):
        axes = np.linalg.qr(random.normal(size=(3, 3)))[0] / random.uniform(5, 11, 3)
        inside = (((places - random.uniform(0, 1, 3) * SHAPE) @ axes) ** 2).sum(-1) < 1
        light[inside] = random.uniform(1.5, 4)
        light[inside & (random.random(SHAPE) < 0.01)] += random.uniform(20, 60)
    return light


def filtered(noisy: np.ndarray, clean: np.ndarray) -> dict[str, dict[str, float]]:
    """Filters of slices, and of volumes, each with the size that is best on the clean volume."""
    rows = {}
    for name in (*PLANES, "box3d"):
        one = FILTERS[name]
        noise = noise_deviation(noisy[len(noisy) // 2])
        tried = [
            one.apply(noisy, size, noise)
            if name == "box3d"
            else np.stack([one.apply(plane, size, noise) for plane in noisy])
            for size in one.sizes
        ]
        rows[f"{name}, tuned on the clean volume"] = max(
            (measured(image, clean) for image in tried), key=itemgetter("psnr")
        )
    gaussians = [measured(ndimage.gaussian_filter(noisy, size), clean) for size in FILTERS["gaussian"].sizes]
    rows["gaussian in three directions, tuned on the clean volume"] = max(
        gaussians, key=lambda numbers: numbers["psnr"]
    )
    return rows


def page(result: Mapping[str, Any], command: str) -> str:
    lines = [
        [
            row,
            *(f"{value[name]:.{digits}f}" for name, digits in (("psnr", 2), ("scale_invariant_psnr", 2), ("ssim", 3))),
            str(value.get("steps", "–")),
        ]
        for row, value in result["rows"].items()
    ]
    return "\n\n".join(
        [
            "## A simulated volume",
            f"Nuclei of known light in {' × '.join(map(str, result['shape']))} voxels, a Gaussian PSF of 1 voxel, "
            f"photons; networks trained on that volume alone for {result['budget']} of one core where nothing else is "
            f"said. {provenance(result, command)}",
            table(["", "PSNR", "scale-invariant PSNR", "SSIM", "steps"], lines),
        ]
    )
