"""How alike a pair is under a transform, seen in one contrast and between contrasts, at half a million voxels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from warpzoo.geometry.composition import identity
from warpzoo.geometry.transforms import Transform, resample
from warpzoo.images.image import Image
from warpzoo.losses import mattes_mutual_information
from warpzoo.networks import central_gradient
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.pyramid import coarser, continued, pyramid
from warpzoo.registration.similarities import in_windows

MOST_VOXELS = 2**19
LESS = 1e-3
"""A smaller loss of both measures is none."""
MUCH_LESS = 0.02
"""Of one of them."""
SHARE_LOST = 0.025
"""Of what windows correlate, which is little between contrasts,"""
SHARE_GAINED = 4
"""or how many times that of mutual information must be gained for it,"""
LITTLE_BUT_NOISE = 0.15
"""but where windows correlate less, mutual information has little else to see."""


@dataclass(frozen=True)
class Likeness:
    """Correlation in windows, 0 to 1, mutual information, from 0, and `edges`: how far what grows brighter in one image
    does in the other, from 1, everywhere, to -1, where one is dark in which the other is bright."""

    windows: float
    information: float
    edges: float = 1.0

    def __str__(self) -> str:
        return f"{self.windows:.3f} in windows, mutual information {self.information:.3f}"

    def is_below(self, other: Likeness) -> bool:
        """Whether it is less by both measures: one alone may fall where contrasts differ."""
        return self.windows < other.windows - LESS and self.information < other.information - LESS

    def is_above(self, other: Likeness) -> bool:
        """Whether it is more by both measures together, and by neither much less: windows alone find something alike in
        any two images, and mutual information grows with what is made of noise, by which windows lose."""
        lost = max(other.windows - self.windows, other.information - self.information)
        return self.total > other.total + LESS and lost < MUCH_LESS and self._keeps_windows_of(other)

    def _keeps_windows_of(self, other: Likeness) -> bool:
        lost = other.windows - self.windows
        if lost < SHARE_LOST * other.windows:
            return True
        gained = self.information - other.information
        return self.windows >= LITTLE_BUT_NOISE and gained * other.windows > SHARE_GAINED * lost * other.information

    @property
    def total(self) -> float:
        return self.windows + self.information


def likeness(
    fixed: Image, moving: Image, transform: Transform | None, guidance: Guidance, most: int = MOST_VOXELS
) -> Likeness:
    """How alike the images are under a transform (None: by the headers alone), within the masks if there are any; at
    `most` so many voxels."""
    grid = coarser(fixed.grid, pyramid(fixed.grid, most)[-1])
    own, placed = identity(grid), transform or identity(grid)
    warped = resample(moving.array[None], moving.grid, placed, grid, padding="border")
    reference: Tensor = resample(fixed.array[None], fixed.grid, own, grid, padding="border")
    counts = guidance.on_grid(grid, fixed, moving, placed)
    mask = None if counts is None else (counts > 0).all(1, keepdim=True)
    if mask is not None and not bool(mask.any()):
        return Likeness(0.0, 0.0)
    if mask is not None:  # windows reach beyond the mask
        reference, warped = (continued(image, mask.to(image)) for image in (reference, warped))
    return Likeness(
        float(in_windows(reference, warped, mask).mean()),
        float(mattes_mutual_information(reference, warped, mask=mask).mean()),
        _same_edges(reference, warped, mask),
    )


def _same_edges(fixed: Tensor, warped: Tensor, mask: Tensor | None) -> float:
    """`Likeness.edges`; 1 where there are none."""
    products = fixed.new_zeros(fixed.shape)
    for channel in range(fixed.shape[1]):
        one, other = (central_gradient(image[:, channel : channel + 1]) for image in (fixed, warped))
        products[:, channel] = (one * other).sum(1)
    counted = products if mask is None else products * mask
    total = float(counted.abs().sum())
    return float(counted.sum()) / total if total else 1.0
