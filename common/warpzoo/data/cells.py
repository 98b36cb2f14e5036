"""Simulated time-lapse images of live-cell nuclei, with the true place of key points in every frame.

Convention: frames (frames, *shape), float32; points (frames, count, dims) in pixels, the same points in every frame; a
matrix (frames, dims, dims + 1) takes pixels of the first frame to those of a later one, as `Affine.from_world` wants it
for images without a spatial header: frame t, warped by it, is registered to the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from warpzoo.data.nucleus import Nucleus, Paths

BACKGROUND, NUCLEUS = 100.0, 400.0
"""Mean intensities: of what is no nucleus, and of what a nucleus has above it."""
NEIGHBOURS = ("stays", "divides", "leaves")


class Preset(NamedTuple):
    """Size and motion of one of the published sequences."""

    shape: tuple[int, ...]
    frames: int
    motion: float
    """The mean distance of the key points, over all later frames, from where they are in the first."""


PRESETS = {
    "A1": Preset((532, 532), 25, 30),
    "A2": Preset((532, 532), 38, 50),
    "B1": Preset((300, 400), 30, 18),
    "B2": Preset((300, 400), 34, 6),
    "B3": Preset((300, 400), 38, 9),
    "B4": Preset((300, 400), 42, 8),
    "C": Preset((27, 200, 175), 9, 12),
}


class CellSequence(NamedTuple):
    """A sequence and what is true of it."""

    clean: Tensor
    """What an ideal camera would show, (frames, *shape)."""
    noisy: Tensor
    """The same with noise; values may be negative."""
    points: Tensor
    """Key points of the nucleus in the middle, float64."""
    contour: Tensor
    """Which of them lie on its contour, the others inside, (count,), boolean."""
    matrices: Tensor
    """The affine part of its motion, float64."""


def cell_sequence(
    preset: str = "B1",
    shape: Sequence[int] | None = None,
    frames: int | None = None,
    motion: float | None = None,
    snr: float | None = 1.5,
    seed: int = 0,
    elastic: float = 0.13,
    turnover: float = 0.3,
    bleaching: float = 0.3,
    flicker: float = 0.03,
    psf: float = 1.2,
    focus: float = 0.6,
    correlation: float = 0.0,
    neighbour: str | None = None,
    leaves: bool = False,
) -> CellSequence:
    """A nucleus that drifts, turns and deforms, under a microscope.

    Args:
        preset: one of `PRESETS`, for what the next three do not say.
        shape: rows and columns, or slices, rows and columns.
        frames: how many.
        motion: mean distance of the key points from where they are in the first frame, pixels; default: the preset's,
            in proportion to the shape.
        snr: the nucleus' mean intensity above the background, in deviations of the noise there, in the first frame;
            None for no noise.
        elastic: the mean length of the elastic displacement, as a part of `motion`.
        turnover: the part of the texture that is replaced in the long run.
        bleaching: the part of the intensity that is lost by the last frame.
        flicker: deviation of the lamp from frame to frame.
        psf: standard deviation of the point-spread function, pixels.
        focus: about how much larger it becomes while the focus drifts.
        correlation: standard deviation, in pixels, by which the noise is blurred; 0 for independent pixels.
        neighbour: a second nucleus that "stays", "divides" or "leaves" the field of view; default: none.
        leaves: whether the nucleus itself leaves in the last third of the frames.

    Example:
        >>> sequence = cell_sequence("B1", shape=(128, 128), frames=25, snr=1.5, seed=3)
        >>> to_first = Affine.from_world(sequence.matrices[-1:], Grid((128, 128)))
        >>> aligned = resample(to_first, sequence.noisy[-1:][None], Grid((128, 128)))
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
    if neighbour is not None and neighbour not in NEIGHBOURS:
        raise ValueError(f"neighbour must be one of {', '.join(NEIGHBOURS)} or None, got {neighbour!r}.")
    published = PRESETS[preset]
    shape = list(published.shape if shape is None else shape)
    if len(shape) not in (2, 3) or min(shape[-2:]) < 32 or min(shape) < 8:
        raise ValueError(
            f"shape must be rows and columns of at least 32 pixels, and 8 slices if any, got {tuple(shape)}."
        )
    frames = published.frames if frames is None else frames
    if frames < 1:
        raise ValueError(f"frames must be 1 or more, got {frames}.")
    if motion is None:
        motion = published.motion * min(shape[-2:]) / min(published.shape[-2:])

    generator = torch.Generator().manual_seed(seed)
    paths = Paths(frames, generator)
    side = min(shape[-2:])
    spread = (0.24 + 0.06 * torch.rand(2, generator=generator)) * side
    radii = [*(0.28 * size for size in shape[:-2]), *spread.tolist()]
    middle = torch.tensor([0.5 * (size - 1) for size in shape])
    nucleus = Nucleus(middle, radii, frames, generator, motion, elastic * motion, turnover)
    if leaves:
        late = torch.linspace(0, 3, frames).sub(2).clamp_min(0)
        nucleus.shift = nucleus.shift + late[:, None] * torch.tensor([0.0] * (len(shape) - 1) + [1.2 * shape[-1]])
    else:  # the middle of its way in the middle of the image
        nucleus.move_to(middle - 0.5 * (nucleus.shift.amin(0) + nucleus.shift.amax(0)))
    cells = [nucleus]
    if neighbour is not None:
        cells += _neighbours(neighbour, shape, radii, frames, generator, motion, turnover)

    points = torch.cat([nucleus.contour_points(32), nucleus.inner_points(32)], 1)
    blur = psf + focus * paths(1)[:, 0].abs()
    light = torch.linspace(1, 1 - bleaching, frames) * (1 + flicker * torch.randn(frames, generator=generator))
    clean = torch.empty(frames, *shape)
    for frame in range(frames):
        image = torch.zeros(shape)
        for cell in cells:
            cell.draw(image, frame)
            cell.step()
        seen = gaussian_filter((BACKGROUND + NUCLEUS * image).numpy(), float(blur[frame]), truncate=3)
        clean[frame] = float(light[frame]) * torch.from_numpy(seen)
    return CellSequence(
        clean,
        clean if snr is None else noisy(clean, snr, seed, correlation),
        torch.stack([nucleus.at(points, frame).T for frame in range(frames)]).double(),
        torch.arange(points.shape[1]) < 32,
        torch.stack([nucleus.matrix(frame) for frame in range(frames)]),
    )


def noisy(clean: Tensor, snr: float, seed: int = 0, correlation: float = 0.0) -> Tensor:
    """Frames (frames, *shape) as a camera would take them: half of the noise's variance in a nucleus is that of counted
    photons, half is the camera's, the same everywhere. `snr` and `correlation` are those of `cell_sequence`."""
    if not snr > 0:
        raise ValueError(f"snr must be above 0, got {snr}.")
    generator = torch.Generator().manual_seed(seed + 2**31)
    variance = 0.5 * (NUCLEUS / snr) ** 2
    gain = variance / (BACKGROUND + NUCLEUS)
    noise = gain * torch.poisson(clean / gain, generator=generator) - clean
    noise = noise + math.sqrt(variance) * torch.randn(clean.shape, generator=generator)
    if correlation:
        dims = clean.dim() - 1
        impulse = np.zeros([9 + 8 * math.ceil(correlation)] * dims)
        impulse[tuple(size // 2 for size in impulse.shape)] = 1
        power = float(np.square(gaussian_filter(impulse, correlation)).sum())
        blurred = gaussian_filter(noise.numpy(), [0.0] + [correlation] * dims)
        noise = torch.from_numpy(blurred) / math.sqrt(power)
    return clean + noise


def _neighbours(
    fate: str,
    shape: Sequence[int],
    radii: Sequence[float],
    frames: int,
    generator: torch.Generator,
    motion: float,
    turnover: float,
) -> list[Nucleus]:
    """Another nucleus in a corner; one that divides is two, which part."""
    size = [(0.5 if fate == "divides" else 0.75) * radius for radius in radii]
    corner = [0.5 * (side - 1) for side in shape[:-2]] + [0.08 * shape[-2], 0.08 * shape[-1]]
    time = torch.linspace(0, 1, frames)[:, None]
    diagonal = torch.tensor([0.0] * (len(shape) - 2) + [-1.0, -1.0]) * size[-1]
    made = []
    for sign in (1, -1) if fate == "divides" else (1,):
        nucleus = Nucleus(torch.tensor(corner), size, frames, generator, 0.3 * motion, 0.1 * motion, turnover)
        if fate == "leaves":
            nucleus.shift = nucleus.shift + 3 * time * diagonal
        elif fate == "divides":
            apart = torch.tensor([0.0] * (len(shape) - 2) + [1.0, -1.0]) * size[-1]
            nucleus.shift = nucleus.shift + sign * (0.3 + 0.9 * (2 * time - 1).clamp_min(0)) * apart
        made.append(nucleus)
    return made
