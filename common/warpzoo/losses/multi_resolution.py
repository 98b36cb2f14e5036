"""One loss for a field that is predicted at several resolutions at once.

Each level has its own voxels: images pooled to it, and a displacement in voxels of that level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MultiResolutionLoss(nn.Module):
    """Sum over levels of weight * (similarity(fixed, warped) + regularisation_weight * regulariser(displacement)).

    Levels come finest first, as (fixed, warped, displacement), one for each of `weights`.
    """

    def __init__(
        self,
        similarity: nn.Module,
        regulariser: nn.Module,
        weights: Sequence[float] = (1.0, 0.6, 0.3),
        regularisation_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not weights or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise ValueError(f"weights must be one number, 0 or more, for each level, got {list(weights)}.")
        if not (math.isfinite(regularisation_weight) and regularisation_weight >= 0):
            raise ValueError(f"regularisation_weight must be 0 or more, got {regularisation_weight}.")
        self.similarity = similarity
        self.regulariser = regulariser
        self.weights = tuple(weights)
        self.regularisation_weight = regularisation_weight

    def forward(self, levels: Sequence[tuple[Tensor, Tensor, Tensor]], masks: Sequence[Tensor] | None = None) -> Tensor:
        """`masks`, one for each level, say which voxels count in the similarity."""
        return self.terms(levels, masks)["loss"]

    def terms(
        self, levels: Sequence[tuple[Tensor, Tensor, Tensor]], masks: Sequence[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The same as {"loss", "similarity", "regularity"}: what it is the sum of, without gradients and without the
        regularisation's weight."""
        if len(levels) != len(self.weights):
            raise ValueError(f"levels must be {len(self.weights)} resolutions, one for each weight, got {len(levels)}.")
        others = [()] * len(levels) if masks is None else [(mask,) for mask in masks]
        found = [
            (weight, self.similarity(fixed, warped, *mask), self.regulariser(displacement))
            for weight, (fixed, warped, displacement), mask in zip(self.weights, levels, others, strict=True)
        ]
        losses = [
            weight * (similarity + self.regularisation_weight * regularity) for weight, similarity, regularity in found
        ]
        return {
            "loss": torch.stack(losses).sum(),
            "similarity": torch.stack([weight * similarity.detach() for weight, similarity, _ in found]).sum(),
            "regularity": torch.stack([weight * regularity.detach() for weight, _, regularity in found]).sum(),
        }

    def extra_repr(self) -> str:
        return f"weights={self.weights}, regularisation_weight={self.regularisation_weight}"
