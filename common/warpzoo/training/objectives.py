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

SOFT = 0.1
"""Voxels: a distance of less counts by its square."""
FLAT = 0.02
"""Of an image's range: it shows nothing where it deviates less in windows of 3 voxels."""
FAINT = 0.05
"""What such a voxel counts."""


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

    An image of four channels has moving and fixed as the network sees them, and then as they are compared; further
    ones are the displacement that the network should find, NaN where it is not known.

    Args:
        known: weight of the distance from a known displacement, in voxels of each level.
        passes: up to so many passes, drawn for each batch, have registered the pair before: what is learnt is then to
            go on from there, and to leave alone what fits.
    """

    def __init__(
        self,
        network: Levelled,
        loss: MultiResolutionLoss,
        augmentation: nn.Module | None = None,
        passes: int = 0,
        known: float = 0.0,
    ) -> None:
        super().__init__()
        self.network: Levelled = network
        self.loss = loss
        self.augmentation = augmentation
        self.passes = passes
        self.known = known

    def forward(self, image: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """(batch, 2, 4 or 4 + dims, *spatial) → {"loss", "similarity", "regularity"[, "distance"]}, scalars; `mask` as
        for `RegistrationObjective`."""
        if self.augmentation is not None:
            image = self.augmentation(image)
        image, truth = image[:, :4], image[:, 4:]
        total: Tensor | None = None
        if self.passes and self.training:
            image, total = self._registered(image, int(torch.randint(self.passes + 1, ())))
        levels: list[tuple[Tensor, Tensor, Tensor]] = []
        masks: list[Tensor] = []
        compared = image[:, -2:]
        for displacement in self.network.levels(image[:, :2])[: len(self.loss.weights)]:
            compared = pooled(compared) if levels else padded(compared, self.network.coarsest)
            if mask is not None:
                mask = pooled(mask) if levels else padded(mask, self.network.coarsest)
                masks += counted(mask, displacement)
            levels.append((compared[:, 1:], warp(compared[:, :1], displacement), displacement))
        terms = self.loss.terms(levels, masks or None)
        if self.known and truth.shape[1]:
            distance = self._distance([(fixed, found) for fixed, _, found in levels], truth, total)
            terms |= {"loss": terms["loss"] + self.known * distance, "distance": distance.detach()}
        return terms

    def _distance(self, levels: list[tuple[Tensor, Tensor]], truth: Tensor, total: Tensor | None) -> Tensor:
        """From what is known, on average over where the fixed image shows something, summed over the levels."""
        there = truth.isfinite().all(1, keepdim=True)
        truth = padded(truth.nan_to_num(), self.network.coarsest)
        there = padded(there.to(truth), self.network.coarsest)
        total = None if total is None else padded(total, self.network.coarsest)
        distances = []
        for level, (weight, (fixed, found)) in enumerate(zip(self.loss.weights, levels, strict=True)):
            if level:
                truth, there = 0.5 * pooled(truth), pooled(there)
                total = None if total is None else 0.5 * pooled(total)
            whole = found if total is None else compose(found, total)
            counts = there * shows(fixed)
            apart = ((whole - truth).square().sum(1, keepdim=True) + SOFT**2).sqrt() - SOFT
            distances.append(weight * (counts * apart).sum() / counts.sum().clamp_min(1))
        return torch.stack(distances).sum()

    @torch.no_grad()
    def _registered(self, image: Tensor, passes: int) -> tuple[Tensor, Tensor | None]:
        """The image after so many passes, each moving channel resampled once, and their displacement."""
        pairs = image.unflatten(1, (-1, 2))
        total: Tensor | None = None
        for _ in range(passes):
            found = self.network(pairs[:, 0])[:, 1:]
            total = found if total is None else compose(found, total)
            warped = warp(image[:, ::2], total)
            pairs = torch.stack([warped, image[:, 1::2]], 2)
        return pairs.flatten(1, 2), total


def shows(image: Tensor) -> Tensor:
    """Where an image (batch, 1, *spatial) shows something, 1, and where it is flat, little, as a displacement there is
    anybody's guess."""
    pool = nn.functional.avg_pool2d if image.dim() == 4 else nn.functional.avg_pool3d
    mean, squares = (pool(one, 3, 1, 1, count_include_pad=False) for one in (image, image.square()))
    deviation = (squares - mean.square()).clamp_min(0).sqrt()
    extent = image.flatten(1).amax(1) - image.flatten(1).amin(1)
    seen = deviation > FLAT * extent.view(-1, *[1] * (image.dim() - 1))
    return seen.to(image).clamp_min(FAINT)


def counted(mask: Tensor | None, displacement: Tensor) -> list[Tensor]:
    """Which fixed voxels count and lie where the moving image does, (batch, 1, *spatial); nothing without a mask."""
    if mask is None:
        return []
    return [mask[:, 1:] * warp(mask[:, :1], displacement.detach(), mode="nearest")]


def total_loss(terms: dict[str, Tensor], _: Tensor | None = None) -> Tensor:
    """The trainer's loss function: the objective has computed it already."""
    return terms["loss"]
