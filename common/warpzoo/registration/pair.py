"""The pure call: two images and a chain of methods in, a transform and what can be measured of it out.

Convention: a transform takes points of the fixed image's world to the moving image's, so that
`moving(transform(x)) ≈ fixed(x)`. A method is called with the fixed image, the moving image and where it starts (None:
by the headers alone), and returns the whole transform: what it has found goes before where it started.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from warpzoo.checks import check_truth
from warpzoo.errors import Finding, raise_if
from warpzoo.geometry.composition import identity
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import DisplacementField, Transform, resample
from warpzoo.images.image import Image
from warpzoo.registration.descent import Interrupted
from warpzoo.registration.measures import agreement, distance, overlap
from warpzoo.registration.preflight import looks_like_labels, preflight
from warpzoo.transforms.landmarks import Landmarks


class Method(Protocol):
    """Takes a pair from one transform to a better one.

    name: what it is called.
    expectations: what it was made for, see `preflight`.
    """

    @property
    def name(self) -> str: ...

    @property
    def expectations(self) -> Mapping[str, Any]: ...

    def __call__(self, fixed: Image, moving: Image, start: Transform | None) -> Transform: ...


@dataclass(frozen=True)
class Companions:
    """What belongs to a pair of images and does not steer their registration.

    labels: label maps of "fixed" and "moving".
    points: landmarks of "fixed" and "moving", in corresponding order.
    also: further images and label maps of the moving space, by the name of the warped result.
    """

    labels: Mapping[str, Image] = field(default_factory=dict)
    points: Mapping[str, Landmarks] = field(default_factory=dict)
    also: Mapping[str, Image] = field(default_factory=dict)

    def check(self, fixed: Image, moving: Image) -> None:
        """That they fit the images, before time is spent on the pair."""
        for image in (self.labels.get("moving"), *self.also.values()):
            if image is not None and image.grid.dims != moving.grid.dims:
                raise ValueError(
                    f"{image.header.path} must be {moving.grid.dims}-D as {moving.header.path} is, got "
                    f"{image.grid.dims}-D."
                )
        if "fixed" in self.labels and self.labels["fixed"].grid != fixed.grid:
            raise ValueError(
                f"{self.labels['fixed'].header.path} must lie on the fixed image's {fixed.grid}, got "
                f"{self.labels['fixed'].grid}."
            )
        counts = {side: len(landmarks.points) for side, landmarks in self.points.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"fixed and moving landmarks must come in pairs, in the same order, got {counts['fixed']} fixed and "
                f"{counts['moving']} moving ones."
            )


@dataclass(frozen=True)
class Registration:
    """What registering a pair gave.

    transform: takes points of the fixed world to the moving world; of the kind that the methods found.
    method: the names of the methods, joined by commas.
    findings: what is doubtful about the pair.
    seconds: spent in each method, and on the checks before them as "check".
    notes: what happened on the way: a sentence if Ctrl-C ended an optimisation, whose best is the transform then.
    """

    fixed: Image
    moving: Image
    transform: Transform
    method: str
    companions: Companions = Companions()
    findings: tuple[Finding, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def interrupted(self) -> bool:
        return bool(self.notes)

    @cached_property
    def displacement(self) -> DisplacementField:
        """The transform on the fixed image's grid."""
        return DisplacementField(self.transform.field(self.fixed.grid).detach(), self.fixed.grid)

    @cached_property
    def before(self) -> Image:
        """The moving image on the fixed grid by the headers alone."""
        return resampled(self.moving, identity(self.fixed.grid), self.fixed)

    @cached_property
    def warped(self) -> Image:
        """The moving image on the fixed grid."""
        return self.warp(self.moving)

    def warp(self, image: Image) -> Image:
        """An image or label map of the moving space on the fixed grid."""
        return resampled(image, self.displacement, self.fixed)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Similarity and folding, and overlap and landmark distance where there are labels and landmarks."""
        labels, points = self.companions.labels, self.companions.points
        numbers: dict[str, Any] = agreement(self.fixed, self.before, self.warped, self.displacement)
        if "fixed" in labels:
            before = resampled(labels["moving"], identity(self.fixed.grid), self.fixed)
            numbers |= overlap(labels["fixed"], labels["moving"], before, self.warp(labels["moving"]))
        if "fixed" in points:
            numbers |= distance(points["fixed"], points["moving"], self.displacement)
        return numbers

    def report(self, path: str | Path) -> Path:
        """A page with everything to look at: `path` is an .html file, or a folder for report.html and report.png."""
        from warpzoo.registration.results import draw_report

        return draw_report(path, self)

    def save(self, folder: str | Path, report: bool = True) -> Path:
        """Writes warped image, transform, metrics and report, as the command does; returns the folder."""
        from warpzoo.registration.results import write_results

        paths = {"fixed": self.fixed.header.path, "moving": self.moving.header.path}
        return write_results(Path(folder), self, {role: p for role, p in paths.items() if p.exists()}, {}, report)


def register_pair(
    fixed: Image,
    moving: Image,
    methods: Sequence[Method],
    start: Transform | None = None,
    companions: Companions | None = None,
    strict: bool = False,
    interruptible: bool = True,
) -> Registration:
    """Registers the moving image to the fixed one, on any grids.

    Args:
        methods: see `find_methods`; each starts from the transform of the one before.
        start: what is known already of the transform.
        strict: whether warnings of the preflight are errors.
        interruptible: whether Ctrl-C ends the optimisation at hand and keeps its best, rather than ending everything.
    """
    strict = check_truth("strict", strict)
    companions = companions or Companions()
    companions.check(fixed, moving)
    findings = [finding for image in companions.also.values() for finding in looks_like_labels(image)]
    seconds = {"check": 0.0}
    transform, notes = start, []
    for number, method in enumerate(methods):
        entered = time.perf_counter()
        findings += preflight(fixed, moving, method.expectations, placed=transform is not None)
        raise_if(findings, strict)
        begun = time.perf_counter()
        seconds["check"] += begun - entered
        try:
            transform = method(fixed, moving, transform)
        except Interrupted as stop:
            if not interruptible:
                raise KeyboardInterrupt from stop
            transform = stop.transform
            left = ", ".join(one.name for one in methods[number + 1 :])
            rest = f", and {left} did not run" if left else ""
            notes.append(f"{method.name} was interrupted: the transform is the best that it had found so far{rest}.")
        seconds[method.name] = seconds.get(method.name, 0.0) + time.perf_counter() - begun
        if notes:
            break
    return Registration(
        fixed,
        moving,
        identity(fixed.grid) if transform is None else transform,
        ",".join(method.name for method in methods),
        companions,
        tuple(dict.fromkeys(findings)),
        seconds,
        tuple(notes),
    )


def resampled(image: Image, transform: Transform, fixed: Image) -> Image:
    """An image on the fixed grid. Beyond its edge lies its least value; labels (whole numbers) are taken from the
    nearest voxel, 0 beyond the edge."""
    labels = not image.array.is_floating_point()
    mode, value = ("nearest", 0.0) if labels else ("linear", float(image.array.min()))
    array = resample(image.array[None], image.grid, transform, fixed.grid, mode=mode, value=value)[0]
    return image.on(fixed, array)


def on_working_grid(fixed: Image, moving: Image, start: Transform | None, grid: Grid) -> Tensor:
    """Moving, as far as it is aligned already, and fixed as channels on a grid, (1, 2, *grid)."""
    channels = []
    for image, transform in ((moving, start), (fixed, None)):
        array = image.array[None]
        if transform is not None or image.grid != grid:
            array = resample(array, image.grid, transform or identity(grid), grid, padding="border")
        channels.append(array)
    return torch.cat(channels, dim=1)
