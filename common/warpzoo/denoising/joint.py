"""What a network that denoises and registers is trained for: to tell hidden pixels, and to align what it has
denoised.

Convention: images (batch, 2, *spatial) of moving and fixed; matrices as in `geometry.affine`; points (batch, count,
dims) in voxels. Errors are those of standardised images.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from warpzoo.denoising.masking import BlindSpotMask
from warpzoo.geometry.affine import affine_field, half_longest_side
from warpzoo.geometry.sampling import warp
from warpzoo.losses import BlindSpotLoss, MSELoss
from warpzoo.networks import match_histogram


class DenoisesAndPlaces(Protocol):
    """A network that places images by what its encoder finds in them."""

    head: Any

    def __call__(self, image: Tensor) -> Tensor: ...

    def standardise(self, image: Tensor) -> Tensor: ...

    def at_working_size(self, image: Tensor) -> Tensor: ...

    def factors(self, image: Tensor) -> list[int]: ...

    def encode(self, image: Tensor) -> list[Tensor]: ...

    def decode(self, image: Tensor, seen: list[Tensor]) -> Tensor: ...

    def placed(self, moving: Tensor, there: Tensor, here: Tensor) -> list[Tensor]: ...


class JointObjective(nn.Module):
    """Half the sum of the errors at blind spots of both images, plus `weight` · half the sum of how much the denoised
    images differ once one is warped to the other, in both directions, from one pass.

    The second term does not change how images are denoised: no gradient goes into the denoised images. Where key
    points are known, plus `placement` · how far, in voxels, those of one image are brought from those of the other.

    Args:
        network: see `DenoisesAndPlaces`.
        masking: hides pixels.
        reconstruction: the error at the hidden ones.
        weight: of the difference of the denoised images.
        placement: of the distance of key points.
        augmentation: applied to a share of the pairs of which no key points are known. It interpolates,
            which correlates the noise, so these do not count in the reconstruction.
        augmented: that share.
        patch: side of the random patches in which images that are larger than the network places them at are denoised
            in their own pixels as well.
    """

    def __init__(
        self,
        network: Any,
        masking: BlindSpotMask | None = None,
        reconstruction: BlindSpotLoss | None = None,
        weight: float = 1.0,
        placement: float = 0.1,
        augmentation: nn.Module | None = None,
        augmented: float = 0.3,
        patch: int = 96,
    ) -> None:
        super().__init__()
        self.network: DenoisesAndPlaces = network
        self.masking = BlindSpotMask() if masking is None else masking
        self.reconstruction = BlindSpotLoss() if reconstruction is None else reconstruction
        self.difference = MSELoss()
        self.weight, self.placement = weight, placement
        self.augmentation, self.augmented = augmentation, augmented
        self.patch = patch

    def forward(
        self, image: Tensor, fixed_points: Tensor | None = None, moving_points: Tensor | None = None
    ) -> dict[str, Tensor]:
        """(batch, 2, *spatial) and points → {"loss", "reconstruction", "difference"[, "error"]}, scalars; the error is
        that of the points after the last pass, in voxels."""
        counts = torch.ones(len(image), dtype=torch.bool, device=image.device)
        if self.augmentation is not None and self.training and fixed_points is None:
            counts = torch.rand(len(image), device=image.device) >= self.augmented
            image = torch.where(counts.view(-1, *[1] * (image.dim() - 1)), image, self.augmentation(image))
        image = self.network.standardise(image)
        both = torch.cat([image[:, :1], image[:, 1:]])  # all moving images, then all fixed ones
        working = self.network.at_working_size(both)
        masked, mask = self.masking(working)
        seen = self.network.encode(masked)
        denoised = self.network.decode(masked, seen)
        code = self.network.head(seen, list(both.shape[2:]), self.network.factors(both))
        there, here = code.chunk(2)
        matrices = self.network.placed(both, code, torch.cat([here, there]))

        counted = counts.repeat(2)
        errors = []
        if bool(counted.any()):
            errors.append(self.reconstruction(denoised[counted], working[counted], mask[counted]))
            if max(self.network.factors(both)) > 1:
                errors.append(self._in_patches(both[counted]))
        reconstruction = torch.stack(errors).mean() if errors else 0 * denoised.sum()
        difference = self.registration(denoised, matrices)
        terms = {
            "loss": reconstruction + self.weight * difference,
            "reconstruction": reconstruction.detach(),
            "difference": difference.detach(),
        }
        if fixed_points is not None and moving_points is not None:
            starts, ends = torch.cat([fixed_points, moving_points]), torch.cat([moving_points, fixed_points])
            apart = [distance(matrix, starts, ends, list(image.shape[2:])) for matrix in matrices]
            terms["loss"] = terms["loss"] + self.placement * torch.stack(apart).mean()
            terms["error"] = apart[-1].detach()
        return terms

    def registration(self, denoised: Tensor, matrices: list[Tensor]) -> Tensor:
        """The mean squared difference of denoised images (2 · batch, 1, *spatial), each warped by its matrix to the
        other of its pair, of whose histogram it has been given, in the mean over the passes; its gradient is that of
        the matrices alone."""
        moving = denoised.detach()
        fixed = torch.cat(moving.chunk(2)[::-1])
        moving = match_histogram(moving, fixed)
        shape = list(moving.shape[2:])
        found = [self.difference(fixed, warp(moving, affine_field(matrix, shape))) for matrix in matrices]
        return torch.stack(found).mean()

    def _in_patches(self, image: Tensor) -> Tensor:
        corners = [int(torch.randint(max(1, size - self.patch + 1), ())) for size in image.shape[2:]]
        window = tuple(slice(corner, corner + self.patch) for corner in corners)
        patch = image[(slice(None), slice(None), *window)]
        masked, mask = self.masking(patch)
        error: Tensor = self.reconstruction(self.network.decode(masked, self.network.encode(masked)), patch, mask)
        return error


def distance(matrix: Tensor, starts: Tensor, ends: Tensor, shape: list[int]) -> Tensor:
    """The mean distance of points from where matrices take others, all in voxels of a grid of that shape."""
    dims = len(shape)
    middle = torch.tensor([0.5 * (size - 1) for size in shape], device=matrix.device)
    offsets = (starts - middle).transpose(1, 2)
    reached = matrix[:, :, :dims] @ offsets + half_longest_side(shape) * matrix[:, :, dims:]
    return (reached.transpose(1, 2) + middle - ends).square().sum(2).add(1e-6).sqrt().mean()
