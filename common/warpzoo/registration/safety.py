"""Whether what was found is to be believed, by how alike it makes a pair, and what to take instead."""

from __future__ import annotations

from warpzoo.errors import Finding, warning
from warpzoo.geometry.transforms import Transform
from warpzoo.images.image import Image
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.likeness import Likeness, likeness
from warpzoo.registration.optimisation import Optimisation

OF_NOISE = Likeness(0.12, 0.07)
"""What deforming noise onto an image comes to."""


def checked(
    fixed: Image,
    moving: Image,
    start: Transform | None,
    found: Transform | None,
    guidance: Guidance,
    measured: tuple[Likeness, Likeness],
    safe: bool,
) -> tuple[Transform | None, list[Finding]]:
    """What was found, and a warning if the images are less alike by it than at the start, as `measured` of both, or are
    hardly alike at all.

    With `safe` that is replaced by the start or what the method affine finds from there, whichever makes them more
    alike.
    """
    before, after = measured
    if not after.is_below(before):
        return found, little_in_common(after)
    doubt = f"The images are less alike after the registration ({after}) than before ({before})."
    if not safe:
        return found, [warning(doubt, "Look at the report; --safe takes the start or the method affine instead.")]
    affine = Optimisation("affine")(fixed, moving, start, guidance)
    if likeness(fixed, moving, affine, guidance).total > before.total:
        return affine, [warning(doubt, "The transform is that of the method affine instead.")]
    return start, [warning(doubt, "The transform is that of the start instead.")]


def little_in_common(after: Likeness) -> list[Finding]:
    """A warning where the images are so little alike that whatever was found may be of noise."""
    if after.windows > OF_NOISE.windows or after.information > OF_NOISE.information:
        return []
    doubt = f"The images have hardly anything in common after the registration ({after}): it may have aligned noise."
    return [warning(doubt, "Look at the report; an image may be of another place, the wrong channel, or all noise.")]
