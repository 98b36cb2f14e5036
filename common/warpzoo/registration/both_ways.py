"""How far a registration may be believed, and where: the pair is registered the other way round as well.

A point of the fixed image goes there by the one transform and back by the other. Both were found apart, so that where
it does not come home at least one of them is wrong; where it does, both may still be wrong alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.composition import composed
from warpzoo.geometry.transforms import DisplacementField, Transform, resample
from warpzoo.images.image import Image
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.pair import Method, Registration, register_pair

MOST = 0.95
"""The share of the fixed image in which the disagreement is at most the second number of the metrics."""


@dataclass(frozen=True)
class BothWays(Registration):
    """A registration that knows the way back as well.

    back: from the moving image's world to the fixed one's, found like the transform.
    """

    back: Transform | None = None

    @cached_property
    def disagreement(self) -> Tensor:
        """How far each voxel of the fixed image is from itself after going there and back, in the world's unit,
        (*shape); NaN where that leads out of the moving image."""
        assert self.back is not None
        grid, seen = self.fixed.grid, torch.ones(1, 1, *self.moving.grid.shape)
        back = DisplacementField(self.back.field(self.moving.grid), self.moving.grid)
        steps = composed(self.displacement, back).field(grid)[0].detach().float()
        unit = torch.tensor(grid.affine[:-1, :-1]).to(steps)
        apart = torch.linalg.vector_norm(torch.einsum("ij,j...->i...", unit, steps), dim=0)
        inside = resample(seen, self.moving.grid, self.displacement, grid, mode="nearest", padding="constant", value=0)
        return apart.masked_fill(inside[0, 0] == 0, torch.nan)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        known = self.disagreement[self.disagreement.isfinite()]
        if not len(known):
            return super().metrics
        most = float(np.quantile(known.numpy(), MOST))
        return super().metrics | {"disagreement": float(known.mean()), "disagreement_95": most}


def register_both_ways(
    fixed: Image,
    moving: Image,
    methods: Sequence[Method],
    start: Transform | None = None,
    guidance: Guidance | None = None,
    budget: float | None = None,
    gaining: bool = False,
    interruptible: bool = True,
    **options: Any,
) -> BothWays:
    """As `register_pair` with all its options, and the other way round as well; each way has half of the budget."""
    budget = None if budget is None else 0.5 * budget
    shared: dict[str, Any] = {"budget": budget, "gaining": gaining}
    there = register_pair(
        fixed, moving, methods, start, guidance=guidance, interruptible=interruptible, **shared, **options
    )
    turned = None if start is None else start.inverse()
    other = None if guidance is None else guidance.turned
    interruptible = interruptible and not there.interrupted  # a second Ctrl-C ends everything
    back = register_pair(moving, fixed, methods, turned, guidance=other, interruptible=interruptible, **shared)
    known = {one.name: getattr(there, one.name) for one in fields(there)} | {
        "seconds": {**there.seconds, "the other way round": sum(back.seconds.values())},
        "notes": (*there.notes, *(f"The other way round: {note}" for note in back.notes)),
        "interrupted": there.interrupted or back.interrupted,
    }
    return BothWays(**known, back=back.transform)
