"""What a network is trained for: modules that wrap it and turn a batch of unlabelled images into a loss.

An objective holds what only training needs (augmentation, both directions, the terms of the loss). MONAI's
SupervisedTrainer drives it, DistributedDataParallel wraps it, checkpoints store `objective.network` alone.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from warpzoo.checks import check_truth
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.velocity import compose
from warpzoo.losses import Agreement, MultiResolutionLoss
from warpzoo.networks import padded, pooled


class RegistrationObjective(nn.Module):
    """similarity(fixed, warped) + weight · regulariser(displacement) of a network image → [warped | displacement],
    and how much both ways of registering a pair disagree.

    Args:
        network: takes moving and fixed as two channels.
        similarity: a loss of `warpzoo.losses`, called with (fixed, warped).
        regulariser: a loss on the displacement.
        weight: of the regulariser.
        symmetric: register each pair both ways and average.
        agreement: weight of `Agreement` between both ways; above 0 it needs `symmetric`.
        augmentation: applied to the batch in training.
    """

    def __init__(
        self,
        network: nn.Module,
        similarity: nn.Module,
        regulariser: nn.Module | None = None,
        weight: float = 0.0,
        symmetric: bool = False,
        agreement: float = 0.0,
        augmentation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if (regulariser is None) != (weight == 0):
            raise ValueError(
                f"weight must be above 0 with a regulariser and 0 without, got {weight} with {regulariser}."
            )
        if not 0 <= agreement < float("inf"):
            raise ValueError(f"agreement must be a weight of 0 or more, got {agreement}.")
        self.symmetric = check_truth("symmetric", symmetric)
        if agreement and not self.symmetric:
            raise ValueError(
                f"agreement must be 0 unless each pair is registered both ways (symmetric), got {agreement}."
            )
        self.network = network
        self.similarity = similarity
        self.regulariser = regulariser
        self.weight = weight
        self.agreement = Agreement() if agreement else None
        self.agreement_weight = agreement
        self.augmentation = augmentation

    def forward(self, image: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """(batch, 2, *spatial) → {"loss", "similarity"[, "regularity"][, "disagreement"]}, scalars.

        `mask` says which voxels of both count in the similarity, (batch, 2, *spatial) of 0 and 1; it is not augmented.
        """
        if self.augmentation is not None:
            image = self.augmentation(image)
        if self.symmetric:
            image = torch.cat([image, image.flip(1)])
            mask = None if mask is None else torch.cat([mask, mask.flip(1)])
        fixed, prediction = image[:, 1:], self.network(image)
        warped, displacement = prediction.split([1, prediction.shape[1] - 1], dim=1)
        similarity = self.similarity(fixed, warped, *counted(mask, displacement))
        terms = {"loss": similarity, "similarity": similarity.detach()}
        if self.regulariser is not None:
            regularity = self.regulariser(displacement)
            terms["loss"] = terms["loss"] + self.weight * regularity
            terms["regularity"] = regularity.detach()
        if self.agreement is not None:
            disagreement = self.agreement(fixed, warped, displacement)
            terms["loss"] = terms["loss"] + self.agreement_weight * disagreement
            terms["disagreement"] = disagreement.detach()
        return terms


class Levelled(Protocol):
    """A network that predicts a displacement at several resolutions; the coarsest voxels are `coarsest` wide."""

    coarsest: int

    def __call__(self, image: Tensor) -> Tensor: ...

    def levels(self, image: Tensor) -> list[Tensor]: ...


class MultiResolutionObjective(nn.Module):
    """`loss` of a network whose `levels(image)` are displacements at several resolutions, finest first.

    They are on the image padded to a multiple of `network.coarsest`. Each level is compared with the images pooled to
    it. There may be more levels than the loss has weights for: the coarsest are then not compared.

    An image of four channels has moving and fixed as the network sees them, and then as they are compared.

    Args:
        passes: up to so many passes, drawn for each batch, have registered the pair before: what is learnt is then to
            go on from there, and to leave alone what fits.
    """

    def __init__(
        self, network: Levelled, loss: MultiResolutionLoss, augmentation: nn.Module | None = None, passes: int = 0
    ) -> None:
        super().__init__()
        self.network: Levelled = network
        self.loss = loss
        self.augmentation = augmentation
        self.passes = passes

    def forward(self, image: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """(batch, 2 or 4, *spatial) → {"loss"}, a scalar; `mask` as for `RegistrationObjective`."""
        if self.augmentation is not None:
            image = self.augmentation(image)
        if self.passes and self.training:
            image = self._registered(image, int(torch.randint(self.passes + 1, ())))
        levels: list[tuple[Tensor, Tensor, Tensor]] = []
        masks: list[Tensor] = []
        compared = image[:, -2:]
        for displacement in self.network.levels(image[:, :2])[: len(self.loss.weights)]:
            compared = pooled(compared) if levels else padded(compared, self.network.coarsest)
            if mask is not None:
                mask = pooled(mask) if levels else padded(mask, self.network.coarsest)
                masks += counted(mask, displacement)
            levels.append((compared[:, 1:], warp(compared[:, :1], displacement), displacement))
        return {"loss": self.loss(levels, masks or None)}

    @torch.no_grad()
    def _registered(self, image: Tensor, passes: int) -> Tensor:
        """The image after so many passes, each moving channel resampled once."""
        pairs, total = image.unflatten(1, (-1, 2)), torch.zeros(0)
        for number in range(passes):
            found = self.network(pairs[:, 0])[:, 1:]
            total = found if number == 0 else compose(found, total)
            warped = warp(image[:, ::2], total)
            pairs = torch.stack([warped, image[:, 1::2]], 2)
        return pairs.flatten(1, 2)


def counted(mask: Tensor | None, displacement: Tensor) -> list[Tensor]:
    """Which fixed voxels count and lie where the moving image does, (batch, 1, *spatial); nothing without a mask."""
    if mask is None:
        return []
    return [mask[:, 1:] * warp(mask[:, :1], displacement.detach(), mode="nearest")]


def total_loss(terms: dict[str, Tensor], _: Tensor | None = None) -> Tensor:
    """The trainer's loss function: the objective has computed it already."""
    return terms["loss"]
