"""Methods that optimise a transform for the pair at hand: without a network, or from what a network has predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from warpzoo.geometry.composition import composed, identity, parts_of
from warpzoo.geometry.grid import Grid, are_parallel
from warpzoo.geometry.transforms import Affine, BSpline, DisplacementField, Transform, resample
from warpzoo.images.image import Image
from warpzoo.registration import deformation, placement
from warpzoo.registration.budget import Budget
from warpzoo.registration.deformation import FreeFormModel, Model, VelocityModel, deform, refine_spline
from warpzoo.registration.descent import Descent
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.label_maps import are_labels, as_channels
from warpzoo.registration.likeness import LITTLE_BUT_NOISE, Likeness, likeness
from warpzoo.registration.methods import OPTIMISED
from warpzoo.registration.placement import PARTS, place
from warpzoo.registration.preflight import VOXELS_LOOKED_AT
from warpzoo.registration.pyramid import ImagePyramid, coarser, pyramid
from warpzoo.registration.similarities import MOST_DESCRIBED, SEEN, SIMILARITIES, check_similarity

DEFORMATIONS: dict[str, type[Model]] = {"ffd": FreeFormModel, "svf": VelocityModel}
USUAL = {"rigid": "ncc", "affine": "ncc", "ffd": "lncc", "svf": "lncc"}
"""The similarity that each method maximises if none is named."""
BETWEEN_CONTRASTS = "mi"
"""And of images whose contrasts may differ, of which windows are compared only where they are alike enough."""
DESCRIBED = "mind"
"""What is held against windows where contrasts seem to differ: better of one anatomy, worse of two."""
SAME_CONTRAST = 0.8
"""Edges that go the same way from which on that is not tried."""
SHARE_KEPT = 0.9
"""Of the information that images share by windows, which by descriptors must be there: they change less."""
SHARE_KEPT_IN_PLANE = 0.98
"""The same in 2-D, of what mutual information itself has reached, where windows have found nothing more."""
UNLIKE = 0.45
"""Correlation in windows below which they are not, where an optimisation starts."""
SHARE_GAINED = 0.05
"""Of that: where mutual information gains less, it may have fitted noise."""
SHARE_INFORMED = 0.15
"""Of what mutual information gains by itself: where it gains so much by windows, they saw the same contrast."""
ASTRAY = 0.02
"""Of the longest side, on average, by which what a network has found is not made better, but lost,"""
STILL_UNLIKE = 0.2
"""if windows correlate less after it."""
OF_LABELS = "mse"
"""And of label maps."""
BUDGET = {"rigid": Budget(200), "affine": Budget(300), "ffd": Budget(200), "svf": Budget(200)}
FAR = 0.04
"""Of the longest side, on average, that is a large displacement,"""
ON_EACH_OTHER = 0.5
"""and the part of the fixed image that then lies in the moving one."""
HARDLY_ALIKE = 0.1
"""Correlation in windows of placed images that show little but noise, or that are not in their place;"""
CLEARLY = 1.05
"""how many times that of another placement must be, which supposes one contrast."""
REFINED_LEVELS = 2
"""A network has seen what is coarser."""


@dataclass(frozen=True)
class Optimisation:
    """A method without a network, see `optimise`.

    between_contrasts: whether the images may differ in contrast.
    most_voxels: of the finest level of a deformation if there is no resolution.
    smoothing: of the deformation that it starts from, in voxels that it compares at its finest: what a network has
        found is right at large and rough in detail, and detail that is there already is not undone.
    levels: how many of the finest it goes through where it starts from a deformation; all of them if None.
    dims: of the images that it is for; any if None.
    """

    name: str
    similarity: str | None = None
    budget: Budget | None = None
    device: str = "cpu"
    resolution: float | None = None
    between_contrasts: bool = False
    most_voxels: int = deformation.MOST_VOXELS
    smoothing: float = 0.0
    levels: int | None = None
    dims: int | None = None

    @property
    def expectations(self) -> Mapping[str, Any]:
        return {"displacement": float("inf")} if self.linear else {}

    @property
    def linear(self) -> bool:
        """Whether it finds a matrix."""
        return self.name in PARTS

    def suits(self, fixed: Image, moving: Image) -> bool:
        """Whether it is for such images."""
        return self.dims in (None, fixed.grid.dims)

    @property
    def constrained(self) -> bool:
        """Whether that is not any affine one."""
        return self.name == "rigid"

    def __call__(
        self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None = None
    ) -> Transform:
        labels, guidance = are_labels(fixed, moving), guidance or Guidance()
        arrays = as_channels(fixed.array, moving.array) if labels else (fixed.array, moving.array)
        one, other = (array[None].to(self.device) for array in arrays)
        similarity, before = self.similarity or (OF_LABELS if labels else None), None
        if similarity is None and self.between_contrasts:
            before = None if self.linear else likeness(fixed, moving, start, guidance)
            similarity = None if before is not None and before.windows >= UNLIKE else BETWEEN_CONTRASTS
        levels, begun = None, start
        if start is not None and not isinstance(parts_of(start)[0], Affine):
            levels = self.levels
            if self.smoothing:
                begun = smoothed(start, fixed.grid, self.smoothing * min(self.finest(fixed, start).spacing))
        run = partial(
            optimise,
            *(self.name, one, fixed.grid, other, moving.grid),
            budget=self.budget,
            levels=levels,
            guidance=guidance,
            resolution=self.resolution,
            most=self.most_voxels,
        )
        rate = partial(likeness, fixed, moving, guidance=guidance)
        in_plane = fixed.grid.dims == 2
        if before is None or self.is_timed or before.edges >= SAME_CONTRAST or in_plane:
            by_windows = partial(run, begun, None)
        else:
            by_windows = partial(_by_windows_or_descriptors, partial(run, begun), rate)
        found = by_windows() if before is not None and similarity is None else run(begun, similarity)
        if similarity != BETWEEN_CONTRASTS or self.similarity or self.is_timed:
            return found
        if before is not None:
            held = _held_against_windows(found, before, None if levels is None else start, fixed, by_windows, rate)
            return _held_against_descriptors(held, partial(run, begun), rate) if in_plane and held is found else held
        near = partial(run, identity(fixed.grid))
        return found if start is not None else _held_against_near(found, self.name, fixed, moving, near, rate)

    @property
    def is_timed(self) -> bool:
        """Whether it ends after some seconds."""
        return self.budget is not None and (self.budget.seconds or self.budget.limit < float("inf"))

    def finest(self, fixed: Image, start: Transform | None) -> Grid:
        """The voxels at which images are compared at the end."""
        return finest_level(self.name, fixed.grid, self.resolution, self.most_voxels)

    def within(self, seconds: float) -> Optimisation:
        """The same, ended after so many seconds."""
        return replace(self, budget=(self.budget or BUDGET[self.name]).within(seconds))


@dataclass(frozen=True)
class Refinement:
    """What a network has found, made better on the pair: a matrix stays a matrix, a cubic B-spline keeps its control
    points, and a velocity is put before any other transform."""

    budget: Budget
    similarity: str | None = None
    device: str = "cpu"
    name: str = "refine"
    expectations: Mapping[str, Any] = field(default_factory=dict)
    resolution: float | None = None

    def __call__(
        self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None = None
    ) -> Transform:
        parts = parts_of(start)
        first, rest = (parts[0], parts[1:]) if parts else (None, [])
        images = [image.array[None].to(self.device) for image in (fixed, moving)]
        pair = images[0], fixed.grid, images[1], moving.grid
        steered: dict[str, Any] = {"title": self.name, "guidance": guidance, "resolution": self.resolution}
        if isinstance(first, Affine) and not rest:
            return optimise("affine", *pair, start, self.similarity, self.budget, **steered)
        if isinstance(first, BSpline) and first.order == 3 and are_parallel(first.grid, fixed.grid):
            known = composed(*rest) if rest else None
            chosen = self.similarity or USUAL["svf"]
            measure = SIMILARITIES[chosen]
            with Descent(self.budget, self.name) as descent:
                images_from = ImagePyramid(*pair, known, guidance, self.resolution, SEEN.get(chosen))
                found = refine_spline(first, images_from, measure, descent, REFINED_LEVELS)
            return descent.finished(composed(found, known))
        return optimise("svf", *pair, start, self.similarity, self.budget, REFINED_LEVELS, **steered)

    def finest(self, fixed: Image, start: Transform | None) -> Grid:
        """As of `Optimisation`."""
        return finest_level("affine" if isinstance(start, Affine) else "svf", fixed.grid, self.resolution)

    def within(self, seconds: float) -> Refinement:
        return replace(self, budget=self.budget.within(seconds))


def _held_against_near(
    found: Transform,
    method: str,
    fixed: Image,
    moving: Image,
    near: Callable[[str], Transform],
    rate: Callable[[Transform], Likeness],
) -> Transform:
    """A placement by mutual information, or what is found near the headers' place: the former may be high where an
    image lies far from its place."""
    others = {BETWEEN_CONTRASTS: 1.0} if is_far(found, fixed, moving) else {}
    if rate(found).windows < HARDLY_ALIKE:
        others[USUAL[method]] = CLEARLY
    for similarity, ahead in others.items():
        other = near(similarity)
        if rate(other).windows > ahead * rate(found).windows:
            found = other
    return found


def _held_against_windows(
    found: Transform,
    before: Likeness,
    start: Transform | None,
    fixed: Image,
    by_windows: Callable[[], Transform],
    rate: Callable[[Transform], Likeness],
) -> Transform:
    """A deformation by mutual information, or by windows from the same beginning: the former grows with what is made of
    noise. `start` is what a network has found, if one has."""
    informed = rate(found)
    astray = start is not None and apart(found, start, fixed) > ASTRAY
    noise = informed.windows < (STILL_UNLIKE if astray else LITTLE_BUT_NOISE)
    sure = informed.windows >= (1 + SHARE_GAINED) * before.windows and not noise
    described = fixed.grid.dims == 3 and before.edges < SAME_CONTRAST
    if sure and not described:
        return found
    seen = by_windows()
    reached = rate(seen)
    if described and _gains(reached, before):  # which mutual information does where it is wrong as well
        return seen
    if sure:
        return found
    gained, most = (one.information - before.information for one in (reached, informed))
    if gained > (0.0 if noise else max(0.0, SHARE_INFORMED * most)):
        return seen
    return start if start is not None and astray else found


def _gains(found: Likeness, before: Likeness) -> bool:
    """Whether images are more alike by both measures."""
    return found.windows > before.windows and found.information > before.information


def _by_windows_or_descriptors(
    run: Callable[[str | None], Transform], rate: Callable[[Transform], Likeness]
) -> Transform:
    """By descriptors unless images share clearly more information by windows: neither has maximised that."""
    seen, described = run(None), run(DESCRIBED)
    return described if rate(described).information >= SHARE_KEPT * rate(seen).information else seen


def _held_against_descriptors(
    found: Transform, run: Callable[[str], Transform], rate: Callable[[Transform], Likeness]
) -> Transform:
    """By mutual information, or with descriptors beside it where images of one anatomy share as much: it is exact where
    edges are, and of two anatomies, whose edges differ, it shares less."""
    described = run(DESCRIBED)
    return described if rate(described).information >= SHARE_KEPT_IN_PLANE * rate(found).information else found


def is_far(found: Transform, fixed: Image, moving: Image) -> bool:
    """Whether a transform moves images far that the headers put onto each other."""
    grid = coarser(fixed.grid, pyramid(fixed.grid, VOXELS_LOOKED_AT)[-1])
    there = torch.ones(1, 1, *moving.grid.shape, dtype=torch.uint8)
    reached = resample(there, moving.grid, identity(grid), grid, mode="nearest").float().mean()
    return bool(reached > ON_EACH_OTHER) and apart(found, identity(fixed.grid), fixed) > FAR


def apart(one: Transform, other: Transform, fixed: Image) -> float:
    """How far transforms take the fixed image's voxels from each other on average, as a part of its longest side."""
    grid = coarser(fixed.grid, pyramid(fixed.grid, VOXELS_LOOKED_AT)[-1])
    between = one.field(grid).detach() - other.field(grid).detach()
    return float(between.square().sum(1).sqrt().mean()) / max(grid.shape)


def smoothed(start: Transform, grid: Grid, length: float) -> Transform:
    """The same with the deformation that comes first in it smoothed on a grid: by a Gaussian whose standard deviation
    is that length."""
    from scipy.ndimage import gaussian_filter  # slow to import

    first, *rest = parts_of(start)
    sides = [0.0, 0.0, *(length / spacing for spacing in grid.spacing)]
    smooth = gaussian_filter(first.field(grid).detach().numpy(), sides, mode="nearest")
    return composed(DisplacementField(torch.from_numpy(smooth), grid), *rest)


def finest_level(
    method: str, fixed: Grid, resolution: float | None, most_voxels: int = deformation.MOST_VOXELS
) -> Grid:
    """The grid that a method without a network compares images on at its finest level, `most_voxels` those of a
    deformation."""
    most = (None if resolution else most_voxels) if method in DEFORMATIONS else placement.MOST_VOXELS
    return coarser(fixed, pyramid(fixed, most, resolution or 0.0)[-1])


def optimise(
    method: str,
    fixed: Tensor,
    fixed_grid: Grid,
    moving: Tensor,
    moving_grid: Grid,
    start: Transform | None = None,
    similarity: str | None = None,
    budget: Budget | None = None,
    levels: int | None = None,
    title: str | None = None,
    guidance: Guidance | None = None,
    resolution: float | None = None,
    most: int = deformation.MOST_VOXELS,
) -> Transform:
    """The transform from the fixed to the moving image, (1, channels, *spatial) each, on any grids.

    A deformation is never less similar than `start`; rigid and affine look only at what the images share.

    Args:
        method: one of `warpzoo.registration.methods.OPTIMISED`.
        start: what is known already; what is found goes before it. Rigid and affine look for large misplacements if
            there is none.
        similarity: one of `SIMILARITIES`; by default that in `USUAL`.
        budget: iterations or seconds; by default enough for all levels.
        levels: how many of the finest to go through; all of them if there is no start.
        guidance: what steers it beside the images, fitted to them.
        resolution: of the finest level, see `find_methods`.
        most: voxels of the finest level of a deformation if there is no resolution.

    Example:
        >>> affine = optimise("affine", fixed, fixed_grid, moving, moving_grid)
        >>> transform = optimise("svf", fixed, fixed_grid, moving, moving_grid, start=affine)
    """
    if method not in OPTIMISED:
        raise ValueError(f"method must be one of {', '.join(OPTIMISED)}, got {method!r}.")
    chosen = check_similarity(similarity or USUAL[method])
    if chosen in SEEN and method in PARTS:
        chosen = BETWEEN_CONTRASTS
    most = min(most, MOST_DESCRIBED) if chosen in SEEN else most
    measure = SIMILARITIES[chosen]
    with Descent(budget or BUDGET[method], title or method) as descent:
        pair = ImagePyramid(fixed, fixed_grid, moving, moving_grid, start, guidance, resolution, SEEN.get(chosen))
        if method in DEFORMATIONS:
            found = deform(DEFORMATIONS[method], pair, measure, descent, levels, most)
        else:
            found = place(method, pair, measure, descent, searching=start is None)
    return descent.finished(identity(fixed_grid) if found is None and start is None else composed(found, start))
