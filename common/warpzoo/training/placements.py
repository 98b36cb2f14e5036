"""The objective of a network for affine registration: to find a known placement, or else to make the images alike."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from warpzoo.geometry.affine import affine_field, half_longest_side
from warpzoo.geometry.sampling import warp

REACH = 0.7
"""Of half the longest side: within that about the middle a placement is judged."""


class Placing(Protocol):
    """A network whose `matrices(image)` are those after each of its passes."""

    def __call__(self, image: Tensor) -> Tensor: ...

    def matrices(self, image: Tensor) -> list[Tensor]: ...


class PlacementObjective(nn.Module):
    """How far, in voxels, a network places points from where they belong, in the mean over its passes.

    Where no truth is given (another's images, one pair that is adapted to) it is `similarity` that is minimised.

    Args:
        network: with `matrices`.
        similarity: a loss of `warpzoo.losses`, called with (fixed, warped).
        weight: of the similarity beside a known truth.
    """

    def __init__(self, network: Placing, similarity: nn.Module, weight: float = 0.0) -> None:
        super().__init__()
        self.network: Placing = network
        self.similarity = similarity
        self.weight = weight

    def forward(self, image: Tensor, truth: Tensor | None = None) -> dict[str, Tensor]:
        """(batch, 2, *spatial)[, (batch, dims, dims + 1)] → {"loss"[, "error"]}, scalars; the error is the last
        pass's."""
        matrices = self.network.matrices(image)
        losses = []
        terms = {}
        if truth is not None:
            errors = [placement_error(matrix, truth, list(image.shape[2:])).mean() for matrix in matrices]
            losses.append(torch.stack(errors).mean())
            terms["error"] = errors[-1].detach()
        if truth is None or self.weight:
            warped = warp(image[:, :1], affine_field(matrices[-1], list(image.shape[2:])))
            similarity = self.similarity(image[:, 1:], warped)
            losses.append(similarity if truth is None else self.weight * similarity)
        return {"loss": torch.stack(losses).sum(), **terms}


def placement_error(matrix: Tensor, truth: Tensor, shape: list[int]) -> Tensor:
    """The mean distance, in voxels, of where two matrices take points about the middle of a grid, (batch,)."""
    dims = len(shape)
    axes = [torch.linspace(-REACH, REACH, 5, device=matrix.device)] * dims
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    apart = (matrix - truth)[:, :, :dims] @ points + (matrix - truth)[:, :, dims:]
    return half_longest_side(shape) * apart.square().sum(1).add(1e-12).sqrt().mean(1)


def with_truth(batch: dict[str, Any], device: Any, non_blocking: bool = False, **_: Any) -> tuple[Any, ...]:
    """MONAI's `prepare_batch` for `PlacedPairs`: the objective also gets the truth."""
    image, truth = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "truth"))
    return image, None, (truth,), {}
