"""Similarities by name: (fixed, warped, mask) → one number per item of the batch, larger where more similar."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from warpzoo.losses import (
    DESCRIPTORS,
    local_normalised_cross_correlation,
    mattes_mutual_information,
    normalised_cross_correlation,
    self_similarity,
)

Similarity = Callable[[Tensor, Tensor, Tensor | None], Tensor]
WINDOW = 9
BINS = 8, 32
"""Fewest and most."""
DESCRIBED = {2: 2.0, 3: 4.0}
"""How much descriptors weigh against the smoothness of what a level adds, in 2-D and in 3-D,"""
INFORMED = 0.5
"""and in 2-D, where less lies around a point, mutual information beside them."""


def in_windows(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    return local_normalised_cross_correlation(fixed, warped, min(WINDOW, *fixed.shape[2:]), mask)


def squared_error(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """Minus half the mean squared difference: of standardised images, the correlation but for a constant."""
    squares = (fixed - warped).square().mean(1).flatten(1)
    if mask is None:
        return -0.5 * squares.mean(1)
    weights = mask.expand(len(warped), *mask.shape[1:]).flatten(1)
    return -0.5 * (squares * weights).sum(1) / weights.sum(1)


def shared_information(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """With bins for the number of voxels: of few in many bins, any two images seem to share much."""
    bins = round(prod(fixed.shape[2:]) ** 0.5 / 3)
    return mattes_mutual_information(fixed, warped, min(BINS[1], max(BINS[0], bins)), mask)


def described(image: Tensor) -> Tensor:
    """What is compared by `mind`: descriptors, before which in 2-D the image is."""
    descriptors = self_similarity(image)
    return torch.cat([image, descriptors], 1) if image.dim() == 4 else descriptors


def of_descriptors(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """Of what `described` makes of two images."""
    dims = fixed.dim() - 2
    channels = fixed.shape[1] // (1 + DESCRIPTORS[dims]) if dims == 2 else 0
    alike = DESCRIBED[dims] * squared_error(fixed[:, channels:], warped[:, channels:], mask)
    if not channels:
        return alike
    return alike + INFORMED * shared_information(fixed[:, :channels], warped[:, :channels], mask)


SIMILARITIES: dict[str, Similarity] = {
    "ncc": normalised_cross_correlation,
    "lncc": in_windows,
    "mse": squared_error,
    "mi": shared_information,
    "mind": of_descriptors,
}
SEEN: dict[str, Callable[[Tensor], Tensor]] = {"mind": described}
"""What a similarity compares of each level's images where that is not their intensities; it does not turn with them, so
that a deformation is found by it, and a placement is not."""
MOST_DESCRIBED = 2**20
"""Voxels at which they are compared, at most, if no resolution is given: each has a dozen, or two;"""
DESCRIBED_AT_ONCE = 2**22
"""and of those of a resolution, in one tile."""
SMOOTHER = {"mi": {3: 4.0}}
"""How many times smoother a deformation must be that maximises it, by the number of axes: it grows with what is made of
noise, and of many voxels much can be."""


def check_similarity(name: str) -> str:
    if name not in SIMILARITIES:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {name!r}.")
    return name
