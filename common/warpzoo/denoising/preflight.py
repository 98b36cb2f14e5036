"""What will spoil a denoising, said before it starts: what was seen in the noisy image, and what will come of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from warpzoo.denoising.patches import Patches
from warpzoo.denoising.stacks import Stack
from warpzoo.denoising.tiles import plan_tiles
from warpzoo.errors import Finding
from warpzoo.images.content import SATURATED

CORRELATED = 0.25
"""Correlation of neighbouring pixels' noise above which results are visibly worse (real cameras: up to about 0.15)."""
SCANNED = {2: 2048, 3: 160}
"""Pixels a side that are looked at together for values that are no numbers, in 2-D and 3-D."""
FRAMES = 200
WINDOW = 64


def preflight(stack: Stack) -> list[Finding]:
    """What is doubtful about a noisy image, from a sample of it; empty if nothing is."""
    findings = [*broken(stack)]
    if findings:
        return findings
    sample = Patches([stack], WINDOW if stack.dims == 2 else [1, WINDOW, WINDOW]).sample(64)
    sample = sample.reshape(-1, *sample.shape[-2:])
    for axis, name in ((-1, "in a row"), (-2, "in a column")):
        correlation = noise_correlation(sample, axis)
        if correlation > CORRELATED:
            findings.append(
                Finding(
                    "warning",
                    f"{stack.path} has noise that is alike in pixels next to each other {name} (correlation "
                    f"{correlation:.2f}): it may have been resized, compressed, averaged or filtered, or the camera "
                    f"does that. Such noise looks like structure, and much of it will stay.",
                    "Denoise the image as the microscope wrote it, before any other step.",
                )
            )
    if stack.dtype.kind in "iu":
        values, counts = np.unique(sample, return_counts=True)
        highest = int(values[-1])
        share = float(counts[-1] / counts.sum())
        # a camera may use fewer bits than its file; without a limit the brightest values become rarer and rarer
        limit = highest == np.iinfo(stack.dtype).max or (len(values) > 16 and counts[-1] > 10 * counts[-5:-1].mean())
        if share > SATURATED and limit:
            findings.append(
                Finding(
                    "warning",
                    f"{stack.path} has {100 * share:.1f} % of its pixels at {highest}, its highest value: "
                    f"what is cut off there cannot be averaged back, and bright parts will come out too dark.",
                    "Take the image again with less gain or exposure, if that is possible.",
                )
            )
        if len(values) > 16 and np.diff(values).min() > 1:
            findings.append(
                Finding(
                    "warning",
                    f"{stack.path} has values that are {np.diff(values).min():.0f} apart at the least: its contrast "
                    f"was stretched after it was taken.",
                    "That does no harm if it was a plain gain; after a gamma or a clipping, intensities mean little.",
                )
            )
    return findings


def little_to_learn_from(stack: Stack, patch: int | Sequence[int]) -> list[Finding]:
    """Whether an image is smaller than the patches that a network is trained on."""
    sides = [patch] * stack.dims if isinstance(patch, int) else list(patch)
    if all(size >= side for size, side in zip(stack.shape[1:], sides, strict=True)):
        return []
    shape, wanted = (" × ".join(map(str, numbers)) for numbers in (stack.shape[1:], sides))
    return [
        Finding(
            "warning",
            f"{stack.path} has {shape} pixels, less than the {wanted} that training looks at: its mirror image is put "
            f"beside it, and there is little to learn from.",
            "Use weights trained on others like it, or give several as the frames of one file.",
        )
    ]


def other_intensities(stack: Stack, weights: Path) -> list[Finding]:
    """Whether an image's intensities are those that weights were trained with."""
    state = torch.load(weights, map_location="cpu", weights_only=True) if weights.is_file() else {}
    if not {"mean", "deviation"} <= state.keys():
        return []  # what is wrong with the file is said when it is used
    mean, deviation = float(state["mean"]), float(state["deviation"])
    sample = Patches([stack], WINDOW).sample(64)
    ratio = float(sample.std()) / deviation
    if abs(float(sample.mean()) - mean) < 2 * deviation and 1 / 3 < ratio < 3:
        return []
    return [
        Finding(
            "warning",
            f"{stack.path} has intensities of {sample.mean():.4g} ± {sample.std():.4g}, the weights were trained on "
            f"{mean:.4g} ± {deviation:.4g}: noise and structure look different to them.",
            "Train on this image, or on one of the same exposure and offset.",
        )
    ]


def broken(stack: Stack) -> list[Finding]:
    """Frames that nothing can be done with: no numbers, or one value everywhere."""
    constant = []
    step = max(1, stack.shape[0] // FRAMES)
    if stack.dtype.kind == "f":
        for tile in plan_tiles(stack.shape, SCANNED[stack.dims], 0):
            if not np.isfinite(stack.read(tile.frame, tile.keep)).all():
                return [
                    Finding(
                        "error",
                        f"{stack.path}, frame {tile.frame}, has pixels that are NaN or infinite: all that is computed "
                        f"from them would be, too.",
                        "Replace them by the background's value in the program that made the file.",
                    )
                ]
    for frame in range(0, stack.shape[0], step):
        middle = tuple(slice(max(0, size // 2 - 512), min(size, size // 2 + 512)) for size in stack.shape[1:])
        values = stack.read(frame, middle)
        if values.min() == values.max():
            constant.append(frame)
    if not constant:
        return []
    everything = len(constant) == len(range(0, stack.shape[0], step))
    which = "everywhere" if everything else f"in {len(constant)} frames, the first of them frame {constant[0]}"
    return [
        Finding(
            "error" if everything else "warning",
            f"{stack.path} has one and the same value {which}: there is nothing to denoise"
            + ("." if everything else ", and training on them is time lost."),
            "Look at the file in a viewer; it may be an empty export or the wrong channel.",
        )
    ]


def noise_correlation(patches: np.ndarray, axis: int) -> float:
    """Correlation of the noise of neighbours along an axis (-1: in a row), over patches (count, rows, columns).

    Judged across the other axis: second differences there leave out what is smooth, and the flattest quarter of the
    patches are those with the least structure in them.
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
