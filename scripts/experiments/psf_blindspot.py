"""What the experiments of psf_blindspot share: noisy fields, filters with and without the truth, and networks trained
on one image within a minute of one core."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from monai.bundle import ConfigWorkflow
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from experiments.common import Options, installed_version
from warpzoo.bundles import open_bundle
from warpzoo.denoising.filters import FILTERS, STRENGTHS, Filter, choose_size, noise_deviation
from warpzoo.denoising.results import quality
from warpzoo.networks import load_weights

BUDGET = "57s"  # what comes before and after it takes less than 3 s more
CLOCK = {"_target_": "time.process_time", "_mode_": "callable"}
DEFAULT = "PSF 1 (default)"
WITHOUT_PSF = "none (Noise2Void)"
NETWORKS: dict[str, Sequence[str]] = {
    WITHOUT_PSF: ["none"],
    "PSF 0.5": ["psf_0.5"],
    DEFAULT: [],
    "PSF 1.5": ["psf_1.5"],
    "PSF learnt": ["learnable"],
    "PSF 1, no Wiener filter": ["no_wiener"],
    "plain U-Net, none": ["unet", "none"],
    "plain U-Net, PSF 1": ["unet"],
}
BM3D = "bm3d"
"""A package that is free for non-commercial use only, and no filter of ours: `pip install bm3d` for its rows."""
TUNED, CHOSEN = "tuned on the clean image", "chosen without"
Images = dict[str, np.ndarray]


def fields(options: Options) -> Iterator[tuple[str, Path, np.ndarray, np.ndarray]]:
    """Name, file, noisy and clean image of every field."""
    folder = options.data / "microscopy" / "fmd"
    paths = sorted((folder / "noisy").glob("*.tif"))[: options.limit]
    if not paths:
        raise ValueError(f"{folder / 'noisy'} holds no .tif; --data must be the folder that holds microscopy/fmd.")
    for path in paths:
        noisy, clean = (tifffile.imread(one).astype(np.float32) for one in (path, folder / "average50" / path.name))
        yield path.stem, path, noisy, clean


def measured(image: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    tensors = (torch.from_numpy(np.asarray(one, dtype=np.float32))[None, None] for one in (image, clean))
    return {name: round(value, 3) for name, value in quality(*tensors).items()}


def filtered(noisy: np.ndarray, clean: np.ndarray) -> tuple[dict[str, dict[str, Any]], Images]:
    """Every filter with the size that is best on the clean image, and with the one J-invariance chooses."""
    noise = noise_deviation(noisy)
    rows, images = {}, {}
    for name, one in plane_filters().items():
        tried = {size: one.apply(noisy, size, noise) for size in one.sizes}
        tuned = min(tried, key=lambda size: float(((tried[size] - clean) ** 2).mean()))
        began = time.process_time()
        chosen = 1.0 if name == BM3D else choose_size(noisy, name, noise)
        image = one.apply(noisy, chosen, noise)
        seconds = time.process_time() - began
        for how, size in ((TUNED, tuned), (CHOSEN, chosen)):
            images[f"{name}, {how}"] = tried[size]
            rows[f"{name}, {how}"] = {
                **measured(tried[size], clean),
                "size": size,
                "mean_ratio": round(float(tried[size].mean() / noisy.mean()), 4),
                "cpu_seconds": round(seconds, 1) if how == CHOSEN else None,
            }
        assert np.array_equal(image, tried[chosen])
    return rows, images


def plane_filters() -> dict[str, Filter]:
    """The filters of planes and, where it is installed, BM3D, to which the noise's level is told: so many times what it
    is estimated to be."""
    filters = {name: one for name, one in FILTERS.items() if name != "box3d"}
    if installed_version(BM3D) is None:
        return filters
    from bm3d import bm3d

    def apply(image: np.ndarray, size: float, noise: float) -> np.ndarray:
        return bm3d(image.astype(np.float64), size * noise).astype(np.float32)

    return filters | {BM3D: Filter(apply, STRENGTHS, None)}


def trained(
    options: Options,
    path: Path,
    clean: np.ndarray,
    variants: Sequence[str],
    budget: str | None = None,
    start: Path | None = None,
) -> tuple[dict[str, Any], Any]:
    """Trains on that one file, from weights that are given or from nothing; its numbers and the denoised image."""
    noisy = tifffile.imread(path).astype(np.float32)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        training = training_of(options, path, Path(folder, "model.pt"), variants, budget or BUDGET, start)
        training.run()
        seconds = time.process_time() - began
        network = training.parser.get_parsed_content("network").eval()
        load_weights(f"{folder}/model.pt", network)
    in_slices = noisy.ndim > training.parser.get_parsed_content("spatial_dims")
    image = torch.from_numpy(noisy)[:, None] if in_slices else torch.from_numpy(noisy)[None, None]
    with torch.no_grad():
        image = network(image).numpy().reshape(noisy.shape)
    sigma = getattr(network.psf, "sigma", None)
    numbers = {
        **measured(image, clean),
        "mean_ratio": round(float(image.mean() / noisy.mean()), 4),
        "cpu_seconds": round(seconds, 1),
        "steps": training.parser.get_parsed_content("train#trainer").state.iteration,
        "sigma": None if sigma is None else [round(side, 2) for side in sigma().tolist()],
    }
    return numbers, image


def training_of(
    options: Options, images: Path, weights: Path, variants: Sequence[str], budget: str, start: Path | None = None
) -> ConfigWorkflow:
    """The bundle's training on a file or a folder, for so long of the processor's time."""
    return open_bundle(options.bundle).workflow(
        "train",
        variants,
        images=str(images),
        weights=str(weights),
        initial_weights=None if start is None else str(start),
        val_interval=0,
        budget=budget,
        clock=CLOCK,
        seed=options.seed,
        device="$torch.device('cpu')",
    )


def provenance(result: Mapping[str, Any], command: str) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    limit = f" (the first {result['limit']} only)" if result["limit"] else ""
    return (
        f"Made by `{command}`{limit}; seed {result['seed']}, one thread of {result['machine']}, {versions}. "
        f"Seconds are the processor's."
    )


def moved_to(noisy: np.ndarray, clean: np.ndarray) -> tuple[list[float], np.ndarray]:
    """How far the shot lies from the mean of all, in pixels, and the mean moved there."""
    shift, _, _ = phase_cross_correlation(noisy, clean, upsample_factor=100, normalization=None)
    return [round(float(side), 2) for side in shift], ndimage.shift(clean, shift, order=3, mode="nearest")


def against_filters(name: str, rows: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    """The default network against the best filter with and without the clean image."""
    ours = rows[DEFAULT]
    sentences = []
    for how in (TUNED, CHOSEN):
        best = max((row for row in rows if row.endswith(how)), key=lambda row: rows[row][metric])
        sentences.append(
            f"{ours[metric] - rows[best][metric]:+.2f} dB against the best filter {how} ({best.partition(',')[0]})"
        )
    return f"{name}, default network: {'; '.join(sentences)}; mean intensity × {ours['mean_ratio']:.4f}."


def peak_memory() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
