"""A transform optimised for the pair at hand: with no network at all, or from where another method has come."""

from __future__ import annotations

from torch import Tensor

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Transform
from warpzoo.registration.budget import Budget
from warpzoo.registration.deformation import FreeFormModel, VelocityModel, deform
from warpzoo.registration.descent import Descent
from warpzoo.registration.methods import OPTIMISED
from warpzoo.registration.placement import place
from warpzoo.registration.pyramid import Pair, composed
from warpzoo.registration.similarities import SIMILARITIES

DEFORMATIONS: dict[str, type[VelocityModel] | type[FreeFormModel]] = {"ffd": FreeFormModel, "svf": VelocityModel}
USUAL = {"rigid": "ncc", "affine": "ncc", "ffd": "lncc", "svf": "lncc"}
"""The similarity that each method maximises if none is named."""
BUDGET = {"rigid": Budget(200), "affine": Budget(300), "ffd": Budget(240), "svf": Budget(240)}


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
) -> Transform:
    """The transform from the fixed to the moving image, (1, 1, *spatial) each, on any grids.

    A deformation is never less similar than `start`; rigid and affine look only at what the images share.

    Args:
        method: one of `warpzoo.registration.methods.OPTIMISED`.
        fixed: the image that stays.
        fixed_grid: where its voxels lie.
        moving: the image that is to be carried.
        moving_grid: likewise.
        start: what is known already; what is found is put before it. Rigid and affine look for large misplacements if
            there is none.
        similarity: one of `SIMILARITIES`; by default that in `USUAL`.
        budget: iterations or seconds; by default enough for all levels.
        levels: how many of the finest to go through; all of them if there is no start.
        title: of the progress bar.

    Example:
        >>> affine = optimise("affine", fixed, fixed_grid, moving, moving_grid)
        >>> transform = optimise("svf", fixed, fixed_grid, moving, moving_grid, start=affine)
    """
    if method not in OPTIMISED:
        raise ValueError(f"method is {method!r}; it wants one of {', '.join(OPTIMISED)}.")
    measure = SIMILARITIES[check_similarity(similarity or USUAL[method])]
    pair = Pair(fixed, fixed_grid, moving, moving_grid, start)
    with Descent(budget or BUDGET[method], title or method) as descent:
        if method in DEFORMATIONS:
            found = deform(DEFORMATIONS[method], pair, measure, descent, levels)
        else:
            found = place(method, pair, measure, descent, searching=start is None)
    return composed(found, start)


def check_similarity(name: str) -> str:
    if name not in SIMILARITIES:
        raise ValueError(f"similarity is {name!r}; it wants one of {', '.join(SIMILARITIES)}.")
    return name
