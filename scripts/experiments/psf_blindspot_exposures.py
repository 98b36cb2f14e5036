"""Filters and networks on fields of low exposure whose high exposure is known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from experiments.common import Options, table
from experiments.psf_blindspot import (
    BUDGET,
    DEFAULT,
    NETWORKS,
    WITHOUT_PSF,
    against_filters,
    filtered,
    measured,
    moved_to,
    provenance,
    trained,
)

SIDE = 512
LOW, HIGH = "-lowsnr-sample.png", "-highsnr-sample.png"


def run(options: Options) -> dict[str, Any]:
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    shifts: dict[str, list[float]] = {}
    for name, noisy, clean in exposures(options):
        shifts[name], clean = moved_to(noisy, clean)
        clean = as_bright_as(noisy, clean)
        rows[name] = {"noisy": measured(noisy, clean), **filtered(noisy, clean)[0]}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "noisy.tif")
            tifffile.imwrite(path, noisy)
            for network in tqdm((WITHOUT_PSF, DEFAULT), desc=name):
                rows[name][network], _ = trained(options, path, clean, NETWORKS[network])
    return {**options.record(), "rows": rows, "shifts": shifts, "budget": BUDGET}


def exposures(options: Options) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, low and high exposure of every field, where the high one has most structure."""
    folder = options.data / "microscopy" / "lowsnr_pairs"
    paths = sorted(folder.glob(f"*{LOW}"))[: options.limit]
    if not paths:
        raise ValueError(f"{folder} holds no *{LOW}; --data must be the folder that holds microscopy/lowsnr_pairs.")
    for path in paths:
        name = path.name.removesuffix(LOW)
        noisy, clean = (np.asarray(Image.open(folder / f"{name}{which}"), np.float32) for which in (LOW, HIGH))
        window = busiest(clean)
        yield name, noisy[window], clean[window]


def busiest(image: np.ndarray) -> tuple[slice, ...]:
    """The window of so many pixels a side, or the image, with the most structure."""
    sides = [min(side, SIDE) for side in image.shape]
    centred = [slice(side // 2, whole - (side - 1) // 2) for side, whole in zip(sides, image.shape, strict=True)]
    structure = ndimage.uniform_filter(ndimage.gaussian_gradient_magnitude(image, 2), sides)[tuple(centred)]
    corner = np.unravel_index(structure.argmax(), structure.shape)
    return tuple(slice(int(first), int(first) + side) for first, side in zip(corner, sides, strict=True))


def as_bright_as(noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """The high exposure with the gain and offset that fit the low one best: each was stretched by itself."""
    gain, offset = np.polyfit(clean.ravel().astype(float), noisy.ravel().astype(float), 1)
    return (gain * clean + offset).astype(np.float32)


def page(result: Mapping[str, Any], command: str) -> str:
    names = list(result["rows"])
    rows = result["rows"]
    lines = [
        [row, *(f"{rows[name][row]['psnr']:.2f} / {rows[name][row]['ssim']:.3f}" for name in names)]
        for row in rows[names[0]]
    ]
    shifts = ", ".join(f"{np.hypot(*result['shifts'][name]):.2f} ({name})" for name in names)
    return "\n\n".join(
        [
            "## Fields of low exposure",
            f"{len(names)} fields, of each the window of {SIDE} × {SIDE} pixels with most structure. The reference is "
            f"the high exposure, moved onto the low one (by {shifts} pixels), with the gain and offset that fit best; "
            f"networks are trained on the low exposure alone for {result['budget']} of one core. "
            f"{provenance(result, command)}",
            table(["PSNR / SSIM", *names], lines),
            "PSNR in dB in the range of the high exposure. Nothing of the method was chosen on these fields.",
            *(against_filters(name, rows[name], "psnr") for name in names),
        ]
    )
