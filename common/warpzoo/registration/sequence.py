"""Sequences of a microscope: a series whose frames drift and are noisy, registered to one of themselves.

Convention: all is in pixels, x counts columns, y rows and z slices. What belongs to any series is in `series` and its
neighbours; here is what is asked of a sequence beside.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warpzoo.bundles import bundles
from warpzoo.files import FileError, shortened
from warpzoo.images.formats.numbered import missing_of
from warpzoo.images.image import Image, read_image
from warpzoo.images.series import Series
from warpzoo.images.source import Source
from warpzoo.registration.alignment import Alignment
from warpzoo.registration.budget import Budget
from warpzoo.registration.methods import find_methods
from warpzoo.registration.network import NetworkMethod
from warpzoo.registration.optimisation import Optimisation
from warpzoo.registration.pair import Method
from warpzoo.registration.sequence_training import train_on_frames
from warpzoo.registration.settling import linear_count
from warpzoo.transforms.tracks import Tracks, read_tracks

WITHOUT_NETWORK = "affine"
LEARNT = "model.pt"
"""The weights of a network that was trained on the frames."""
STEPS = "20"
"""Of refinement at each level."""
AFTER_NOISE = 6.0
"""Pixels at which frames are compared in the end for a deformation, once a network has denoised them: what is finer is
texture that changes, and what is left of the noise."""


def usual_method(dims: int) -> str:
    """The network that registers noisy frames of so many dimensions and denoises them, as its metadata say, or what
    needs no network."""
    there = [
        ":".join([one.name, *one.variants_for(dims)])
        for one in bundles("registration")
        if one.metadata.get("denoises") and one.weights(one.variants_for(dims)).exists()
    ]
    return there[0] if there else WITHOUT_NETWORK


def sequence_methods(
    chain: str,
    refine: str | float = STEPS,
    weights: str | None = None,
    variant: str | None = None,
    device: str | None = None,
    similarity: str | None = None,
    resolution: float | None = None,
) -> list[Method]:
    """The methods of a chain, with a refinement of the matrix that a network gives, before what finds deformations."""
    methods = find_methods(chain, similarity, 0, 0, weights, variant, device, resolution)
    cleaned = False
    for number, method in enumerate(methods):
        cleaned |= isinstance(method, NetworkMethod) and method.denoises
        if cleaned and resolution is None and isinstance(method, Optimisation) and not method.linear:
            methods[number] = replace(method, resolution=AFTER_NOISE)
    budget, count = Budget.read("refine", refine), linear_count(methods)
    if budget.seconds:
        raise ValueError(f"refine must be a number of steps at each level, such as {STEPS}, got {refine!r}.")
    if budget and any(isinstance(method, NetworkMethod) for method in methods[:count]):
        methods.insert(count, Alignment(int(budget.amount)))
    return methods


def time_axis_of(source: Source) -> tuple[int | None, str]:
    """Which axis of a file is time, counted from 0, the slowest first, if it calls none so and there is but one that
    may be; and what there is to say about that."""
    axes, sizes = source.axes, source.shape
    named = {axis: size for axis, size in zip(axes, sizes, strict=True) if size > 1}
    others = [number for number, axis in enumerate(axes) if axis not in "XYCS" and axis in named]
    if "T" in named or len(others) != 1:
        return None, ""
    place = others[0]
    doubt = f"{source.header.path} calls its axis of {sizes[place]} slices (Z): they are taken as frames."
    return len(axes) - 1 - place, doubt if axes[place] == "Z" else ""


def gaps_of(path: Path) -> str:
    """What there is to say about numbers that are missing in a folder of numbered files."""
    runs = [f"{first}" if first == last else f"{first} to {last}" for first, last in missing_of(path)]
    if not runs:
        return ""
    return f"{path} has no files with the numbers {shortened(', '.join(runs))}: frames count the files that are there."


def region_of(roi: str | Image, reference: Image) -> Image:
    """What the reference is compared in: a rectangle x,y,width,height in its pixels, or an image above 0 there."""
    if isinstance(roi, Image):
        return roi
    if not re.fullmatch(r"\s*-?\d+(\s*,\s*-?\d+){3}\s*", roi):
        if not Path(roi).expanduser().exists():
            raise ValueError(f"roi must be x,y,width,height in pixels, or an image file, got {roi!r}.")
        return read_image(Path(roi).expanduser())
    x, y, width, height = map(int, roi.split(","))
    columns, rows = reference.grid.shape[:2]
    if width < 1 or height < 1 or x >= columns or y >= rows or x + width <= 0 or y + height <= 0:
        raise ValueError(f"roi must lie in the {columns} columns and {rows} rows of the frames, got {roi}.")
    mask = torch.zeros_like(reference.array[:1])
    mask[:, max(0, x) : x + width, max(0, y) : y + height] = 1
    return Image(mask, reference.grid, reference.header)


def tracks_of(path: Path, series: Series) -> tuple[Tracks, str]:
    """The points of a sequence's frames, and what there is to say about them."""
    pixel = None if series.stack is None else series.stack.source.pixel
    tracks = read_tracks(path, series.grid.dims, pixel)
    for frame in tracks.frames:
        if not 0 <= frame < len(series):
            raise FileError(f"{path} must have points in the frames 0 to {len(series) - 1}, got frame {frame}.")
    sides = np.array(series.grid.shape)
    outside = np.any((tracks.positions < -0.5) | (tracks.positions > sides - 0.5), axis=1)
    if not outside.any():
        return tracks, ""
    first = outside.argmax()
    return tracks, (
        f"{path} has {outside.sum()} of {len(outside)} points outside the images, the first in frame "
        f"{tracks.frames[first]}: they are moved as far as the transform says."
    )


def prepared(
    given: dict[str, Any],
    methods: Sequence[Method],
    roi: str | Image | None,
    points: Path | None,
    train: str | None,
    seed: int,
    folder: Path,
) -> list[str]:
    """Puts a region, points and what is learnt on the frames into the arguments of `register_series` and its methods;
    returns sentences on what is doubtful. What is learnt is kept in `folder`, and taken from there."""
    series, companions, doubts = given["series"], given["companions"], []
    if roi is not None:
        companions = replace(companions, masks={**companions.masks, "fixed": region_of(roi, series[0])})
    if points is not None:
        tracks, doubt = tracks_of(points, series)
        companions = replace(companions, tracks=tracks)
        doubts += [doubt] if doubt else []
    given["companions"] = companions
    if train is not None:
        networks = [method for method in methods if isinstance(method, NetworkMethod)]
        if not networks:
            raise ValueError(f"train must not be given for a method without a network, got {train!r}.")
        network, learnt = networks[0], folder / LEARNT
        if not learnt.exists():
            train_on_frames(network, series, Budget.read("train", train), seed, learnt)
        shutil.copyfile(learnt, folder.parent / LEARNT)
        network.weights = learnt
    return doubts
