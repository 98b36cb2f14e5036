"""The pure call: two images and a chain of methods in, a transform and what can be measured of it out.

Convention: a transform takes points of the fixed image's world to the moving image's, so that
`moving(transform(x)) ≈ fixed(x)`. A method is called with the fixed image, the moving image, where it starts (None: by
the headers alone) and what else steers it, and returns the whole transform: what it has found goes before where it
started.
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
from warpzoo.errors import Finding, raise_if, warning
from warpzoo.geometry.composition import identity
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import DisplacementField, Transform, resample
from warpzoo.images.image import Image
from warpzoo.images.resampling import Resampling
from warpzoo.registration.descent import Interrupted, InterruptedAgain
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.inverse import Inverse
from warpzoo.registration.label_maps import are_labels
from warpzoo.registration.likeness import Likeness, likeness
from warpzoo.registration.measures import agreement, distance, folds, overlap, reached
from warpzoo.registration.preflight import check_start, looks_like_labels, preflight
from warpzoo.registration.safety import checked
from warpzoo.transforms.landmarks import Landmarks


class Method(Protocol):
    """Takes a pair from one transform to a better one.

    name: what it is called.
    expectations: what it was made for, see `preflight`.

    One that has `finest(fixed, start)` tells with it the grid on which it compares images at its finest; one that has
    `within(seconds)` gives with it a method that ends by then; one that has `suits(fixed, moving)` is left out where it
    says with it that the images are not for it.
    """

    @property
    def name(self) -> str: ...

    @property
    def expectations(self) -> Mapping[str, Any]: ...

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance) -> Transform: ...


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
    seconds: spent in each method, as "load" on making those that are networks, and as "check" on looking at images.
    resolution: the spacing of the finest voxels that each method compared.
    likeness: how alike the images are at the start and after each method.
    left_out: the methods whose transform was not taken, as it made the images no more alike.
    notes: what happened on the way: a sentence if Ctrl-C ended an optimisation, whose best is the transform then, or if
        the time was up.
    interrupted: whether Ctrl-C did.
    """

    fixed: Image
    moving: Image
    transform: Transform
    method: str
    companions: Companions = Companions()
    guidance: Guidance = Guidance()
    resampling: Resampling = Resampling()
    findings: tuple[Finding, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    resolution: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    likeness: Mapping[str, Likeness] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    @cached_property
    def displacement(self) -> DisplacementField:
        """The transform on the fixed image's grid."""
        return DisplacementField(self.transform.field(self.fixed.grid).detach(), self.fixed.grid)

    @cached_property
    def before(self) -> Image:
        """The moving image on the fixed grid by the headers alone."""
        if self.moving.grid == self.fixed.grid:
            return self.moving.on(self.fixed, self.moving.array)
        return self._resampled(self.moving, identity(self.fixed.grid))

    @cached_property
    def warped(self) -> Image:
        """The moving image on the fixed grid."""
        return self.warp(self.moving)

    def warp(self, image: Image) -> Image:
        """An image or label map of the moving space on the fixed grid."""
        return self._resampled(image, self.displacement)

    def _resampled(self, image: Image, transform: Transform) -> Image:
        # what lies outside an image is no label
        resampling = Resampling() if are_labels(image) else self.resampling
        return resampling(image, transform, self.fixed)

    @cached_property
    def inverse(self) -> Inverse:
        """The way back, on the moving image's grid."""
        resampling = Resampling() if are_labels(self.fixed) else self.resampling
        return Inverse(self.transform, self.fixed, self.moving, resampling)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Similarity, with masks also inside and outside, folding, and overlap and landmark distance where there are
        labels and landmarks."""
        return {**self.similarity, **self.consequences}

    @cached_property
    def seen(self) -> dict[str, Tensor]:
        """The voxels of the fixed image that lie in the moving one, "before" and "after"."""
        return reached(self.fixed.grid, self.moving.grid, self.displacement)

    @cached_property
    def similarity(self) -> dict[str, float | None]:
        """Of images where both are, with masks also inside and outside."""
        if are_labels(self.fixed, self.moving):
            return {}
        counts = self.guidance.on_grid(self.fixed.grid, self.fixed, self.moving, self.displacement)
        inside = None if counts is None else (counts > 0).all(1, keepdim=True)
        return agreement(self.fixed, self.before, self.warped, self.seen, inside)

    @cached_property
    def consequences(self) -> dict[str, Any]:
        """Folding, overlap of labels, distance of landmarks."""
        labels, points = self.companions.labels, self.companions.points
        numbers: dict[str, Any] = dict(folds(self.transform, self.displacement))
        if "fixed" in labels:
            before = self._resampled(labels["moving"], identity(self.fixed.grid))
            numbers |= overlap(labels["fixed"], labels["moving"], before, self.warp(labels["moving"]))
        if "fixed" in points:
            numbers |= distance(points["fixed"], points["moving"], self.displacement)
        return numbers

    def report(self, path: str | Path) -> Path:
        """A page with everything to look at: `path` is an .html file, or a folder for report.html and report.png."""
        from warpzoo.registration.results import draw_report

        return draw_report(path, self)

    def save(
        self, folder: str | Path, report: bool = True, inverse: bool = False, only: str | Sequence[str] | None = None
    ) -> Path:
        """Writes warped image, transform, displacement, report and metrics, as the command does, `only` some of them,
        and the inverse as well; returns the folder."""
        from warpzoo.registration.results import chosen_outputs, write_results

        paths = {"fixed": self.fixed.header.path, "moving": self.moving.header.path}
        outputs = chosen_outputs(only, report, inverse)
        return write_results(Path(folder), self, {role: p for role, p in paths.items() if p.exists()}, {}, outputs)


def register_pair(
    fixed: Image,
    moving: Image,
    methods: Sequence[Method],
    start: Transform | None = None,
    companions: Companions | None = None,
    guidance: Guidance | None = None,
    resampling: Resampling | None = None,
    strict: bool = False,
    interruptible: bool = True,
    safe: bool = False,
    begin: Transform | None = None,
    gaining: bool = False,
    budget: float | None = None,
    compared: bool = True,
) -> Registration:
    """Registers the moving image to the fixed one, on any grids.

    Args:
        methods: see `find_methods`; each starts from the transform of the one before.
        start: what is known already of the transform.
        companions: what belongs to the images and does not steer.
        guidance: what steers beside the images; it is fitted to them here.
        resampling: how the images that are written are interpolated; the methods always do so linearly.
        strict: whether warnings of the preflight are errors.
        interruptible: whether Ctrl-C ends the optimisation at hand and keeps its best, rather than ending everything.
        safe: whether a result that makes the images less alike is replaced, see `checked`; without, it is a warning.
        begin: a better place to begin than the start, such as that of the image before; the result is still compared
            with the start.
        gaining: whether what a method finds is left out if the images are not more alike by it.
        budget: seconds after which no other method begins; what optimises ends there.
        compared: whether it is measured how alike the images are by what is found, which `safe` and `gaining` need.
    """
    strict = check_truth("strict", strict)
    companions = companions or Companions()
    companions.check(fixed, moving)
    methods = [one for one in methods if not hasattr(one, "suits") or one.suits(fixed, moving)]
    if start is not None:
        check_start(start, fixed, moving)
    guidance, findings = (guidance or Guidance()).fitted(fixed, moving)
    fixed, moving = guidance.seen("fixed", fixed), guidance.seen("moving", moving)
    if guidance.steers and not any(method.expectations.get("guided", True) for method in methods):
        message = "masks and landmarks only count in the metrics: one pass of a network is not steered by them."
        findings.append(warning(message, "Optimise on the pair as well (--refine 40 or --adapt 40)."))
    findings += [finding for image in companions.also.values() for finding in looks_like_labels(image)]
    seconds = {"load": 0.0, "check": 0.0}
    transform, notes, interrupted, left_out = begin or start, [], False, []
    resolution: dict[str, tuple[float, ...]] = {}
    alike: dict[str, Likeness] = {}
    first = entered = time.perf_counter()
    for number, method in enumerate(methods):
        before = transform
        try:
            expectations = method.expectations  # of a network, which is made for them
            made = time.perf_counter()
            findings += preflight(fixed, moving, expectations, transform is not None or number > 0, method.name)
            raise_if(findings, strict)
            if number == 0 and compared and not are_labels(fixed, moving):
                alike["start"] = best = likeness(fixed, moving, start, guidance)
            if finest := getattr(method, "finest", None):
                resolution[method.name] = finest(fixed, transform).spacing
            begun = time.perf_counter()
            seconds["load"] += made - entered
            seconds["check"] += begun - made
            if budget is not None:
                left = budget - (begun - first)
                if left <= 0:
                    notes.append(_ended(f"The time of {budget:g} s was up", methods[number:]))
                    break
                if hasattr(method, "within"):
                    method = method.within(left)
            try:
                transform = method(fixed, moving, transform, guidance)
            except Interrupted as stop:
                if not interruptible:
                    raise KeyboardInterrupt from stop
                transform, interrupted = stop.transform, True
            entered = time.perf_counter()
            seconds[method.name] = seconds.get(method.name, 0.0) + entered - begun
            worse = False
            if alike:
                alike[method.name] = reached = likeness(fixed, moving, transform, guidance)
                worse = gaining and not reached.is_above(best)
                best = best if worse else reached
            if worse:
                transform = before
                left_out.append(method.name)
            if interrupted:
                found = "was left out, as it made the images no more alike" if worse else "is kept"
                notes.append(
                    _ended(f"{method.name} was interrupted: the best that it had found {found}", methods[number + 1 :])
                )
                break
        except InterruptedAgain:
            raise
        except KeyboardInterrupt:
            if not interruptible or (number == 0 and transform is before):
                raise
            transform, interrupted = before if number else transform, True
            missing = [one for one in methods[number:] if one.name not in seconds]
            notes.append(_ended("It was interrupted: what had been found before is kept", missing))
            break
    if alike:
        transform, doubts = checked(
            fixed, moving, start, transform, guidance, (alike["start"], best), check_truth("safe", safe)
        )
        findings += doubts
        raise_if(findings, strict)
    seconds["check"] += time.perf_counter() - entered
    return Registration(
        fixed,
        moving,
        identity(fixed.grid) if transform is None else transform,
        ",".join(method.name for method in methods),
        companions,
        guidance,
        resampling or Resampling(),
        tuple(dict.fromkeys(findings)),
        seconds,
        resolution,
        alike,
        tuple(left_out),
        tuple(notes),
        interrupted,
    )


def _ended(why: str, left: Sequence[Method]) -> str:
    names = ", ".join(method.name for method in left)
    return f"{why}{f', and {names} did not run' if names else ''}."


def on_working_grid(
    fixed: Image, moving: Image, start: Transform | None, grid: Grid, padding: str = "border"
) -> Tensor:
    """Moving, as far as it is aligned already, and fixed as channels on a grid, (1, 2, *grid).

    Beyond an image its edge is repeated, with the `padding` "constant" there is its lowest value.
    """
    channels = []
    for image, transform in ((moving, start), (fixed, None)):
        array = image.array[None]
        if transform is not None or image.grid != grid:
            transform = transform or identity(grid)
            array = resample(array, image.grid, transform, grid, padding=padding, value=float(array.min()))
        channels.append(array)
    return torch.cat(channels, dim=1)
