"""What can be measured of a series: the motion and the likeness of each frame, means over time, and which frames are
unlike the others.

Convention: shifts are of the middle of the fixed image, from it to the frame, angles those of the affine map nearest to
the transform: in millimetres (RAS) and degrees, in pixels (columns, rows) for images without a spacing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.composition import split
from warpzoo.images.image import Image, flip_lps
from warpzoo.registration.measures import correlation_of
from warpzoo.registration.pair import Registration
from warpzoo.registration.results import flat_numbers
from warpzoo.registration.series import SeriesRegistration

FEW = 5
"""Frames from which on one can be told to be unlike the others."""
FAR = 5.0
"""Robust standard deviations below the median at which a frame is unlike the others,"""
LESS = 0.1
"""and by how much of the median at least."""
MIRRORED = 0.5
"""A larger part of a frame does not fold: the whole is mirrored."""
REACHED = 0.5
"""Of what the reference shows, below which a frame that does not reach it may lie anywhere: the cell has left."""
MOTION = ("shift", "angle", "scale", "shear")
"""How the names of numbers begin that say where a frame is."""
MATRIX = tuple(f"{row}{column}" for row in "xyz" for column in "xyz0")
"""The entries of a matrix, as columns."""
NOT_AVERAGED = ("frame", "seconds", "ok", "reached", "saturated", *MATRIX)
HARDLY = 0.3
"""Correlation with a frame, or with the mean, of the same series below which a frame may lie anywhere."""
FEWEST_PLACES = 20
"""That a matrix is fitted to."""
CUT_OFF = 0.002
"""A part of a frame at its greatest value, larger by that than is usual, is saturated: a light, or dirt."""
LESS_ALIKE = 0.02
"""Correlation below the median at which such a frame may be drawn to it."""
LEAP = 0.05
"""Of the longest side, beyond which a step from one frame to the next may be wrong if it leads to less likeness."""


class Moments:
    """Mean and standard deviation over time of the frames "before" and "after" on the fixed grid, each where it has
    been seen."""

    def __init__(self, fixed: Image) -> None:
        self.sums = {name: np.zeros((3, *fixed.grid.shape)) for name in ("before", "after")}

    def add(self, registration: Registration, seen: Mapping[str, Tensor]) -> None:
        for name, image in (("before", registration.before), ("after", registration.warped)):
            values, inside = image.array[0].double().numpy(), seen[name][0, 0].double().numpy()
            self.sums[name] += np.stack([inside, values * inside, values**2 * inside])

    def mean(self, name: str) -> Tensor:
        count, total, _ = self.sums[name]
        return torch.from_numpy(total / np.maximum(count, 1)).float()

    def deviation(self, name: str) -> Tensor:
        mean, square = self.sums[name][1:] / np.maximum(self.sums[name][0], 1)
        return torch.from_numpy(np.sqrt((square - mean**2).clip(0))).float()


class Registered(NamedTuple):
    """A frame as it was registered; what of the fixed image it reaches; and on the fixed grid without noise, if it was
    denoised."""

    registration: Registration
    seen: Mapping[str, Tensor]
    clean: Image | None = None

    @classmethod
    def of(cls, registration: Registration, clean: Image | None = None) -> Registered:
        return cls(registration, registration.seen, clean)


def row_of(
    done: SeriesRegistration, frame: int, registered: Registered, before: Registered | None = None
) -> dict[str, Any]:
    """The numbers of a frame; of one that failed, those of the transform that it is resampled with.

    `before` is the last one that did not fail: if each frame is registered to that before it, how alike they are is
    what counts, as what a sequence shows may have nothing left in common with the first frame.
    """
    registration, seen, _ = registered
    ok, seconds = frame not in done.failed, done.series.seconds
    row: dict[str, Any] = {"frame": frame}
    if seconds is not None:
        row["seconds"] = round(frame * seconds, 6)
    row |= {"ok": ok, **motion(registration)}
    if ok:
        row |= seen_ncc(done, registered, before if done.to == "previous" else None)
        if done.to != "fixed":
            values = registration.moving.array
            row["saturated"] = round(float((values == values.amax()).float().mean()), 6)
            row["reached"] = round(float(seen["after"][0, 0][done.shown].float().mean()), 6)
        measured = registration.metrics if registration.guidance.masks else registration.consequences
        others = {name: value for name, value in measured.items() if name not in row}
        row |= flat_numbers(others)
    return row


def matrix_in_pixels(registration: Registration) -> np.ndarray:
    """The transform, or the affine map nearest to it, from voxels of the fixed image to voxels of the frame, as a
    matrix (dims + 1, dims + 1); axes are in the order of the image's: x first."""
    deformation, world = split(registration.transform, registration.fixed.grid.dims)
    if deformation is not None:
        world = _nearest(registration)[0]
    return np.linalg.inv(registration.moving.grid.affine) @ world @ registration.fixed.grid.affine


def _nearest(registration: Registration) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of the world that is nearest to the transform where the frame reaches the fixed image, and how
    long displacements are there: what lies outside is nobody's motion."""
    grid, transform = registration.fixed.grid, registration.displacement
    steps = [np.linspace(0, size - 1, min(size, 9)) for size in grid.shape]
    places = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, grid.dims)
    reached = registration.seen["after"][0, 0].numpy()[tuple(np.rint(places).astype(int).T)]
    if reached.sum() > FEWEST_PLACES:
        places = places[reached]
    voxels = torch.from_numpy(places)
    with torch.no_grad():
        here = grid.to_world(voxels).numpy() - grid.centre
        there = transform.world(grid.to_world(voxels))[0].double().numpy() - grid.centre
    fitted = np.linalg.lstsq(np.column_stack([here, np.ones(len(here))]), there, rcond=None)[0]
    matrix = np.eye(grid.dims + 1)
    matrix[:-1, :-1] = fitted[:-1].T
    matrix[:-1, -1] = fitted[-1] + grid.centre - matrix[:-1, :-1] @ grid.centre
    return matrix, np.linalg.norm(there - here, axis=1)


def motion(registration: Registration) -> dict[str, float]:
    """The shift of the middle, angle, scale and shear of the affine map that is nearest to the transform, and how long
    its displacements are on average and at most."""
    grid = registration.fixed.grid
    matrix, lengths = _nearest(registration)
    linear = matrix[:-1, :-1]
    shift = linear @ grid.centre + matrix[:-1, -1] - grid.centre
    if registration.fixed.header.pixels and not registration.fixed.header.indexed:
        shift = shift * np.diag(flip_lps(grid.dims))[: grid.dims]
    left, _, right = np.linalg.svd(linear)
    rotation = left @ right
    if grid.dims == 2:
        angle = np.arctan2(rotation[1, 0] - rotation[0, 1], np.trace(rotation))
    else:
        angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    upper = np.linalg.qr(linear)[1]
    numbers = {
        **{f"shift_{axis}": value for axis, value in zip("xyz", shift, strict=False)},
        "angle": np.rad2deg(angle),
        "scale": abs(np.linalg.det(linear)) ** (1 / grid.dims),
        "shear": upper[0, 1] / upper[0, 0],
        "displacement": lengths.mean(),
        "displacement_most": lengths.max(),
    }
    return {name: round(float(value), 6) + 0.0 for name, value in numbers.items()}  # without -0.0


def seen_ncc(done: SeriesRegistration, frame: Registered, other: Registered | None) -> dict[str, float]:
    """The correlation of the frame, before and after, with the fixed image or with another frame, of the voxels that
    are reached; and after, both without noise, if they were denoised."""
    images = {"ncc_before": frame.registration.before, "ncc": frame.registration.warped, "ncc_denoised": frame.clean}
    others = dict.fromkeys(images, done.fixed)
    seen = frame.seen
    if other is not None:
        seen = {when: inside * other.seen[when] for when, inside in seen.items()}
        others = {"ncc_before": other.registration.before, "ncc": other.registration.warped}
    if frame.clean is not None:
        others["ncc_denoised"] = done.clean_fixed if other is None or other.clean is None else other.clean
    return {
        name: correlation_of(others[name], image, seen["before" if name == "ncc_before" else "after"])
        for name, image in images.items()
        if image is not None
    }


def flags(done: SeriesRegistration, rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Of each frame that failed, or is unlike the others after it was registered, a sentence."""
    flagged = {}
    for frame, reason in done.failed.items():
        what = ("as it is", "with the transform of frame {}", "with a transform between those of frames {} and {}")
        sources = done.sources(frame)
        flagged[frame] = f"not registered, and resampled {what[len(sources)].format(*sources)}: {reason}"
    measured = {row["frame"]: row for row in rows if row["ok"]}
    median, spread = _usual([alike(row) for row in measured.values()])
    steps: dict[int, float] = {}
    for before, after in pairwise(measured.values()):
        steps[after["frame"]] = float(np.linalg.norm([after[name] - before[name] for name in _shifts(after)]))
    usual_step, steps_spread = _usual([*steps.values()])
    usual_cut = _usual([row.get("saturated", 0.0) for row in measured.values()])[0]
    grid = done.fixed.grid
    leap = max(LEAP * max(np.multiply(grid.shape, grid.spacing)), usual_step + FAR * steps_spread)
    unit = "pixels" if done.fixed.header.pixels else "mm"
    last: Mapping[str, Any] | None = None
    for frame, row in measured.items():
        value, reasons, hint = alike(row), list[str](), ""
        if len(measured) >= FEW and value < median - max(FAR * spread, LESS * abs(median)):
            other = {"previous": "frame before it", "fixed": "fixed image"}.get(done.to, "reference")
            reasons.append(f"much less like the {other} than the other frames")
        elif done.to != "fixed" and value < HARDLY:
            reasons.append("hardly like what it was registered to, so that it may lie anywhere")
            if done.to != "previous":
                hint = "; what changes from frame to frame may be followed by the reference previous"
        if row.get("saturated", 0.0) > usual_cut + CUT_OFF and value < median - LESS_ALIKE:
            reasons.append(f"{row['saturated']:.2g} of it is saturated, where {usual_cut:.2g} is usual")
        if steps.get(frame, 0.0) > leap and value < (1 - LESS) * median:
            reasons.append(f"{steps[frame]:.3g} {unit} from the frame before, where {usual_step:.3g} is usual")
        if moved := done.found(frame).moved:
            reasons.append(moved)
        if row.get("folding", 0.0) > MIRRORED:
            reasons.append("its transform turns it inside out")
        if row.get("reached", 1.0) < REACHED and value < (1 - LESS) * median:
            reasons.append(f"it reaches {row['reached']:.0%} of what the reference shows")
        far = 0.0 if last is None else np.linalg.norm([row[name] - last[name] for name in _shifts(row)])
        if not reasons and far > leap and value < (1 - LESS) * median:
            assert last is not None
            reasons.append(f"{far:.3g} {unit} from frame {last['frame']}, the last one that was not doubtful")
        if reasons:
            flagged[frame] = f"{', and '.join(reasons)}. Look whether it is right{hint}."
        else:
            last = row
    return dict(sorted(flagged.items()))


def alike(row: Mapping[str, Any]) -> float:
    """How like the fixed image, or the frame before it, a frame is: both without noise if they were denoised, as noise
    is like nothing."""
    likeness: float = row.get("ncc_denoised", row["ncc"])
    return likeness


def _usual(values: Sequence[float]) -> tuple[float, float]:
    """Median and robust standard deviation."""
    if not values:
        return 0.0, 0.0
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(np.array(values) - median)))


def _shifts(row: Mapping[str, Any]) -> list[str]:
    return [name for name in row if name.startswith("shift_")]


def means(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of every number of the registration that is measured of frames, not of where they are; of folds, and of what
    displacements are at most, the worst."""
    values = defaultdict[str, list[float]](list)
    for row in rows:
        for name, value in row.items():
            if name not in NOT_AVERAGED and not name.startswith(MOTION):
                values[name].append(value)
    worst = ("folding", "folding_corners", "displacement_most")
    return {name: float(max(some) if name in worst else np.mean(some)) for name, some in values.items()}
