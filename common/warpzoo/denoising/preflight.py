"""Checks of a noisy image before denoising starts: problems, their consequences and remedies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from warpzoo.denoising.hot_pixels import HotPixels
from warpzoo.denoising.patches import Patches
from warpzoo.denoising.tiles import plan_tiles
from warpzoo.errors import Finding, fatal, warning
from warpzoo.images.content import SATURATED, outlying
from warpzoo.images.stacks import Stack
from warpzoo.networks.weights import read_weights

CORRELATED = 0.25
"""Correlation of the noise of neighbouring pixels above which results are visibly worse (cameras: up to about 0.15)."""
SCANNED = {2: 2048, 3: 160}
"""Side, in pixels, of the tiles that are checked for NaN and infinite values, in 2-D and 3-D."""
FRAMES = 200
WINDOW = 64


def preflight(stack: Stack) -> list[Finding]:
    """The problems of a noisy image, from a sample of it; empty if there are none."""
    return [*broken(stack)] or [*doubtful(stack)]


def doubtful(stack: Stack) -> Iterator[Finding]:
    """Correlated noise, hot pixels, saturation, stretched contrast."""
    sample = Patches([stack], WINDOW if stack.dims == 2 else [1, WINDOW, WINDOW]).sample(64)
    sample = sample.reshape(-1, *sample.shape[-2:])
    correlations = {name: noise_correlation(sample, axis) for axis, name in ((-1, "in a row"), (-2, "in a column"))}
    if found := [f"{name} (correlation {value:.2f})" for name, value in correlations.items() if value > CORRELATED]:
        yield warning(
            f"{stack.path} has noise that is correlated between neighbouring pixels {' and '.join(found)}: it may have "
            f"been resized, compressed, averaged or filtered, perhaps in the camera. Such noise looks like structure, "
            f"and much of it will remain.",
            "Denoise the image as the microscope wrote it, before any other step.",
        )
    hot = hot_pixels(sample)
    if hot:
        yield warning(
            f"{stack.path} has single pixels very much brighter than all around them, about {1e6 * hot:.0f} in a "
            f"million: a network replaces such hot pixels by their neighbours, filters other than median smear them.",
            "Where they are real points of light, they must be spread over their neighbours: use finer pixels.",
        )
    if far := outlying(torch.from_numpy(sample)):
        yield warning(
            f"{stack.path} has values up to {far[0]:.4g}, where nearly all are below {far[1]:.4g}: beside them, the "
            f"image is flat to a network.",
            "Replace them by the values around them, if they are errors.",
        )
    if stack.dtype.kind not in "iu":
        return
    values, counts = np.unique(sample, return_counts=True)
    highest, share = int(values[-1]), float(counts[-1] / counts.sum())
    # a camera may use fewer bits than its file; without saturation the brightest values become gradually rarer
    limit = highest == np.iinfo(stack.dtype).max or (len(values) > 16 and counts[-1] > 10 * counts[-5:-1].mean())
    if share > SATURATED and limit:
        yield warning(
            f"{stack.path} has {100 * share:.1f} % of its pixels at {highest}, its highest value: "
            f"saturated values cannot be recovered, and bright parts will be too dark.",
            "If possible, acquire the image again with less gain or exposure.",
        )
    if len(values) > 16 and np.diff(values).min() > 1:
        yield warning(
            f"{stack.path} has values that are at least {np.diff(values).min():.0f} apart: its contrast "
            f"was stretched after acquisition.",
            "A linear stretch is harmless; after a gamma or clipping, intensities are not quantitative.",
        )


def little_to_learn_from(stack: Stack, patch: int | Sequence[int]) -> Iterator[Finding]:
    """A warning if an image is smaller than the training patches."""
    sides = [patch] * stack.dims if isinstance(patch, int) else list(patch)
    if any(size < side for size, side in zip(stack.shape[1:], sides, strict=True)):
        shape, needed = (" × ".join(map(str, numbers)) for numbers in (stack.shape[1:], sides))
        yield warning(
            f"{stack.path} has {shape} pixels, fewer than a training patch of {needed}: it is extended by reflection, "
            f"and there is little to learn from.",
            "Use weights trained on similar images, or give several images as the frames of one file.",
        )


def other_intensities(stack: Stack, weights: Path) -> Iterator[Finding]:
    """A warning if an image's intensities differ from those that the weights were trained with."""
    state = read_weights(weights)
    if not all(isinstance(state.get(name), Tensor) and state[name].numel() == 1 for name in ("mean", "deviation")):
        return  # weights of another network are refused when they are loaded into it
    mean, deviation = float(state["mean"]), float(state["deviation"])
    sample = Patches([stack], WINDOW).sample(64)
    ratio = float(sample.std()) / deviation
    if not (abs(float(sample.mean()) - mean) < 2 * deviation and 1 / 3 < ratio < 3):
        yield warning(
            f"{stack.path} has intensities of {sample.mean():.4g} ± {sample.std():.4g}, the weights were trained on "
            f"{mean:.4g} ± {deviation:.4g}: noise and structure appear different to the network.",
            "Train on this image, or on one of the same exposure and offset.",
        )


def broken(stack: Stack) -> Iterator[Finding]:
    """Frames that cannot be denoised: with NaN or infinite values, or constant."""
    for tile in plan_tiles(stack.shape, SCANNED[stack.dims], 0) if stack.dtype.kind == "f" else []:
        if not np.isfinite(stack.read(tile.frame, tile.keep)).all():
            yield fatal(
                f"{stack.path}, frame {tile.frame}, has pixels that are NaN or infinite, and so would be the result.",
                "Replace them by the background's value in the program that wrote the file.",
            )
            return
    frames, constant = range(0, stack.shape[0], max(1, stack.shape[0] // FRAMES)), []
    for frame in frames:
        middle = tuple(slice(max(0, size // 2 - 512), min(size, size // 2 + 512)) for size in stack.shape[1:])
        values = stack.read(frame, middle)
        if values.min() == values.max():
            constant.append(frame)
    way_out = "Open the file in a viewer; it may be an empty export or the wrong channel."
    if len(constant) == len(frames):
        yield fatal(f"{stack.path} is constant everywhere: there is nothing to denoise.", way_out)
    elif constant:
        yield warning(
            f"{stack.path} is constant in {len(constant)} frames, the first of them frame {constant[0]}: there is "
            f"nothing to denoise, and training on them wastes time.",
            way_out,
        )


def hot_pixels(patches: np.ndarray) -> float:
    """The share of hot pixels in patches (count, rows, columns)."""
    images, hot = torch.from_numpy(patches)[:, None], HotPixels()
    hot.fit(images)
    return float(hot.found(images).float().mean())


def noise_correlation(patches: np.ndarray, axis: int) -> float:
    """Correlation of the noise of neighbours along an axis (-1: in a row), over patches (count, rows, columns).

    Second differences along the other axis suppress smooth structure; the quarter of the patches with the least power,
    which has the least structure, is used.
    """
    other = -1 if axis == -2 else -2
    noise = np.diff(patches.astype(np.float64), n=2, axis=other)
    noise -= noise.mean(axis=(1, 2), keepdims=True)
    power = (noise**2).mean(axis=(1, 2))
    alive = power > 0
    if not alive.any():
        return 0.0
    along = np.moveaxis(noise, axis, -1)
    correlations = (along[..., 1:] * along[..., :-1]).mean(axis=(1, 2))[alive] / power[alive]
    flattest = np.argsort(power[alive])[: max(1, int(alive.sum()) // 4)]
    return float(np.median(correlations[flattest]))
