"""Images that may differ in contrast: what is compared of them, and which of the answers is taken.

Correlation in windows is the most exact of one contrast; mutual information holds whatever the contrasts, and grows
with what is made of noise; descriptors of self-similarity (MIND) are exact between contrasts of one anatomy. No one
measure tells which answer is right of any two images, so an answer is judged by what it has not maximised as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch

from warpzoo.geometry.composition import identity
from warpzoo.geometry.transforms import Transform, resample
from warpzoo.images.image import Image
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.label_maps import are_labels
from warpzoo.registration.likeness import LITTLE_BUT_NOISE, Likeness, likeness
from warpzoo.registration.optimisation import BETWEEN_CONTRASTS, USUAL, Optimisation, begins_deformed
from warpzoo.registration.preflight import VOXELS_LOOKED_AT
from warpzoo.registration.pyramid import coarser, pyramid, thickness_of

DESCRIBED = "mind"
"""What is held against windows where contrasts seem to differ: better of one anatomy, worse of two."""
SAME_CONTRAST = 0.8
"""Edges that go the same way from which on that is not tried."""
THICK = 2.0
"""Cubes in a voxel from which on neither is that: its neighbours along an axis lie too far away to describe it."""
SHARE_KEPT = 0.9
"""Of the information that images share by windows, which by descriptors must be there: they change less."""
SHARE_KEPT_IN_PLANE = 0.98
"""The same in 2-D, of what mutual information itself has reached, where windows have found nothing more."""
UNLIKE = 0.45
"""Correlation in windows below which they are not alike enough to be compared, where an optimisation starts."""
SHARE_GAINED = 0.05
"""Of that: where mutual information gains less, it may have fitted noise."""
SHARE_INFORMED = 0.15
"""Of what mutual information gains by itself: where it gains so much by windows, they saw the same contrast."""
ASTRAY = 0.02
"""Of the longest side, on average, by which what a network has found is not made better, but lost,"""
STILL_UNLIKE = 0.2
"""if windows correlate less after it."""
FAR = 0.04
"""Of the longest side, on average, that is a large displacement,"""
ON_EACH_OTHER = 0.5
"""and the part of the fixed image that then lies in the moving one."""
HARDLY_ALIKE = 0.1
"""Correlation in windows of placed images that show little but noise, or that are not in their place;"""
CLEARLY = 1.05
"""how many times that of another placement must be, which supposes one contrast."""


@dataclass(frozen=True)
class BetweenContrasts(Optimisation):
    """The same of images whose contrasts may differ, unless a similarity is named."""

    def __call__(
        self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None = None
    ) -> Transform:
        if self.similarity is not None or are_labels(fixed, moving):
            return super().__call__(fixed, moving, start, guidance)
        known = guidance or Guidance()
        if self.linear:
            return self._placed(fixed, moving, start, known)
        return self._deformed(fixed, moving, start, known)

    @property
    def is_timed(self) -> bool:
        """Whether it ends after some seconds, which suffice for one answer."""
        return self.budget is not None and (self.budget.seconds or self.budget.limit < float("inf"))

    def _placed(self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance) -> Transform:
        """By mutual information, or what is found near the headers' place: the former may be high where an image lies
        far from its place."""
        found = self.prepared(fixed, moving, start, guidance)(BETWEEN_CONTRASTS)
        if start is not None or self.is_timed:
            return found
        rate = partial(likeness, fixed, moving, guidance=guidance)
        others = {BETWEEN_CONTRASTS: 1.0} if is_far(found, fixed, moving) else {}
        if rate(found).windows < HARDLY_ALIKE:
            others[USUAL[self.name]] = CLEARLY
        for similarity, ahead in others.items():
            other = self.prepared(fixed, moving, identity(fixed.grid), guidance)(similarity)
            if rate(other).windows > ahead * rate(found).windows:
                found = other
        return found

    def _deformed(self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance) -> Transform:
        """By windows where images are alike in them, else by mutual information unless another is better."""
        rate = partial(likeness, fixed, moving, guidance=guidance)
        run, before = self.prepared(fixed, moving, start, guidance), rate(start)
        in_plane = fixed.grid.dims == 2
        unlike = not (self.is_timed or in_plane or before.edges >= SAME_CONTRAST)
        thick = unlike and max(thickness_of(image.grid) for image in (fixed, moving)) >= THICK
        described = unlike and not thick
        by_windows = cache(partial(_by_windows_or_descriptors, run, rate) if described else partial(run, None))
        if before.windows >= UNLIKE and (not thick or _gains(rate(by_windows()), before)):
            return by_windows()
        found = run(BETWEEN_CONTRASTS)
        if self.is_timed:
            return found
        known = start if begins_deformed(start) else None
        held = _held_against_windows(found, before, known, fixed, by_windows, rate, described)
        return _held_against_descriptors(held, run, rate) if in_plane and held is found else held


def _held_against_windows(
    found: Transform,
    before: Likeness,
    start: Transform | None,
    fixed: Image,
    by_windows: Callable[[], Transform],
    rate: Callable[[Transform], Likeness],
    described: bool,
) -> Transform:
    """A deformation by mutual information, or by windows from the same beginning: the former grows with what is made of
    noise. `start` is what a network has found, if one has, `described` whether descriptors were held against windows
    before."""
    informed = rate(found)
    astray = start is not None and apart(found, start, fixed) > ASTRAY
    noise = informed.windows < (STILL_UNLIKE if astray else LITTLE_BUT_NOISE)
    sure = informed.windows >= (1 + SHARE_GAINED) * before.windows and not noise
    if sure and not described:
        return found
    seen = by_windows()
    reached = rate(seen)
    # mutual information gains by both where it is wrong, too, but there windows gain less
    if described and _gains(reached, before) and not reached.is_below(informed):
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
