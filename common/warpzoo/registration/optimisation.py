"""Methods that optimise a transform for the pair at hand: without a network, or from what a network has predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from warpzoo.geometry.composition import composed, identity, parts_of
from warpzoo.geometry.grid import Grid, are_parallel
from warpzoo.geometry.transforms import Affine, BSpline, DisplacementField, Transform
from warpzoo.images.image import Image
from warpzoo.registration import deformation, placement
from warpzoo.registration.budget import Budget
from warpzoo.registration.deformation import FreeFormModel, Model, VelocityModel, deform, refine_spline
from warpzoo.registration.descent import Descent
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.label_maps import are_labels, as_channels
from warpzoo.registration.methods import OPTIMISED
from warpzoo.registration.placement import PARTS, place
from warpzoo.registration.pyramid import AT_ONCE, ImagePyramid, coarser, finest_at_once, pyramid
from warpzoo.registration.similarities import (
    DESCRIBED_AT_ONCE,
    MOST_DESCRIBED,
    SEEN,
    SIMILARITIES,
    SMOOTHER,
    check_similarity,
)

DEFORMATIONS: dict[str, type[Model]] = {"ffd": FreeFormModel, "svf": VelocityModel}
USUAL = {"rigid": "ncc", "affine": "ncc", "ffd": "lncc", "svf": "lncc"}
"""The similarity that each method maximises if none is named."""
BETWEEN_CONTRASTS = "mi"
"""And of images whose contrasts differ."""
OF_LABELS = "mse"
"""Of label maps."""
BUDGET = {"rigid": Budget(200), "affine": Budget(300), "ffd": Budget(200), "svf": Budget(200)}
REFINED_LEVELS = 2
"""A network has seen what is coarser."""


@dataclass(frozen=True)
class Optimisation:
    """A method without a network, see `optimise`.

    most_voxels: of the finest level of a deformation if there is no resolution.
    smoothing: of the deformation that it starts from, in voxels that it compares at the finest level that is worked on
        whole: what a network has found is right at large and rough in detail, and detail that is there already is not
        undone.
    levels: how many of the finest worked on whole it goes through where it starts from a deformation; all if None.
    dims: of the images that it is for; any if None.
    """

    name: str
    similarity: str | None = None
    budget: Budget | None = None
    device: str = "cpu"
    resolution: float | None = None
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
        return self.prepared(fixed, moving, start, guidance)(self.similarity)

    def prepared(
        self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None
    ) -> Callable[[str | None], Transform]:
        """What finds the transform by a similarity, or by the usual one."""
        labels = are_labels(fixed, moving)
        arrays = as_channels(fixed.array, moving.array) if labels else (fixed.array, moving.array)
        one, other = (array[None].to(self.device) for array in arrays)
        levels, begun = None, start
        if begins_deformed(start):
            levels = self.levels
            if self.smoothing:
                whole = finest_at_once(fixed.grid)
                voxel = max(min(whole.spacing), min(self.finest(fixed, start).spacing))
                begun = smoothed(start, whole, self.smoothing * voxel)

        def run(similarity: str | None) -> Transform:
            return optimise(
                self.name,
                one,
                fixed.grid,
                other,
                moving.grid,
                begun,
                similarity or (OF_LABELS if labels else None),
                budget=self.budget,
                levels=levels,
                guidance=guidance,
                resolution=self.resolution,
                most=self.most_voxels,
            )

        return run

    def finest(self, fixed: Image, start: Transform | None) -> Grid:
        """The voxels at which images are compared at the end."""
        return finest_level(self.name, fixed.grid, self.resolution, most_compared(self.similarity, self.most_voxels))

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
        method = "affine" if isinstance(start, Affine) else "svf"
        return finest_level(method, fixed.grid, self.resolution, most_compared(self.similarity))

    def within(self, seconds: float) -> Refinement:
        return replace(self, budget=self.budget.within(seconds))


def begins_deformed(start: Transform | None) -> TypeGuard[Transform]:
    """Whether a deformation comes first in what is known."""
    return start is not None and not isinstance(parts_of(start)[0], Affine)


def smoothed(start: Transform, grid: Grid, length: float) -> Transform:
    """The same with the deformation that comes first in it smoothed on a grid: by a Gaussian whose standard deviation
    is that length."""
    from scipy.ndimage import gaussian_filter  # slow to import

    first, *rest = parts_of(start)
    sides = [0.0, 0.0, *(length / spacing for spacing in grid.spacing)]
    smooth = gaussian_filter(first.field(grid).detach().numpy(), sides, mode="nearest")
    return composed(DisplacementField(torch.from_numpy(smooth), grid), *rest)


def most_compared(similarity: str | None, most: int = deformation.MOST_VOXELS) -> int:
    """Voxels of the finest level of a deformation, fewer by a similarity that takes much memory for each."""
    return min(most, MOST_DESCRIBED) if similarity in SEEN else most


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

    A deformation is never less similar than `start` where it is worked on whole, nor is any of its tiles; rigid and
    affine look only at what the images share.

    Args:
        method: one of `warpzoo.registration.methods.OPTIMISED`.
        start: what is known already; what is found goes before it. Rigid and affine look for large misplacements if
            there is none.
        similarity: one of `SIMILARITIES`; by default that in `USUAL`.
        budget: iterations or seconds; by default enough for all levels.
        levels: how many of the finest to go through; all of them if there is no start.
        guidance: what steers it beside the images, fitted to them.
        resolution: of the finest level, see `find_methods`.
        most: voxels of the finest level of a deformation if there is no resolution; any number if None.

    Example:
        >>> affine = optimise("affine", fixed, fixed_grid, moving, moving_grid)
        >>> transform = optimise("svf", fixed, fixed_grid, moving, moving_grid, start=affine)
    """
    if method not in OPTIMISED:
        raise ValueError(f"method must be one of {', '.join(OPTIMISED)}, got {method!r}.")
    chosen = check_similarity(similarity or USUAL[method])
    if chosen in SEEN and method in PARTS:
        chosen = BETWEEN_CONTRASTS
    most, at_once = most_compared(chosen, most), DESCRIBED_AT_ONCE if chosen in SEEN else AT_ONCE
    measure = SIMILARITIES[chosen]
    with Descent(budget or BUDGET[method], title or method) as descent:
        pair = ImagePyramid(fixed, fixed_grid, moving, moving_grid, start, guidance, resolution, SEEN.get(chosen))
        if method in DEFORMATIONS:
            smoother = SMOOTHER.get(chosen, {}).get(fixed_grid.dims, 1.0)
            found = deform(DEFORMATIONS[method], pair, measure, descent, levels, most, at_once, smoother)
        else:
            found = place(method, pair, measure, descent, searching=start is None)
    return descent.finished(identity(fixed_grid) if found is None and start is None else composed(found, start))
