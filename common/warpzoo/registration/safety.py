"""Whether what was found is to be believed, by how alike it makes a pair, and what to take instead."""

from __future__ import annotations

from warpzoo.errors import Finding, warning
from warpzoo.geometry.transforms import Transform
from warpzoo.images.image import Image
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.likeness import Likeness, likeness
from warpzoo.registration.optimisation import Optimisation


def checked(
    fixed: Image,
    moving: Image,
    start: Transform | None,
    found: Transform | None,
    guidance: Guidance,
    measured: tuple[Likeness, Likeness],
    safe: bool,
) -> tuple[Transform | None, list[Finding]]:
    """What was found, and a warning if the images are less alike by it than at the start, as `measured` of both.

    With `safe` that is replaced by the start or what the method affine finds from there, whichever makes them more
    alike.
    """
    before, after = measured
    if not after.is_below(before):
        return found, []
    doubt = f"The images are less alike after the registration ({after}) than before ({before})."
    if not safe:
        return found, [warning(doubt, "Look at the report; --safe takes the start or the method affine instead.")]
    affine = Optimisation("affine")(fixed, moving, start, guidance)
    if likeness(fixed, moving, affine, guidance).total > before.total:
        return affine, [warning(doubt, "The transform is that of the method affine instead.")]
    return start, [warning(doubt, "The transform is that of the start instead.")]
