"""Blind-spot masking: hide a few voxels from a denoising network, whose loss is then computed at exactly those.

Convention: images (batch, channels, *spatial); masks are boolean, (batch, 1, *spatial), True where a voxel is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from warpzoo.checks import check_image


@dataclass(frozen=True)
class BlindSpotMask:
    """Replaces one voxel in every cell of a jittered grid by the value of a random neighbour.

    The image is divided into cells as equal as whole voxels allow, as many per axis as `fraction` asks for and at least
    one; in each, every voxel is equally likely to be hidden. Its replacement is drawn uniformly from the voxels within
    `radius` along each axis that lie in the image, itself excluded, and read from the original image; all channels use
    the same neighbour. The mask is computed from coordinates, not by comparing values: in photon counts a neighbour
    often has the same value, and omitting those voxels would bias the network.

    Args:
        fraction: of the voxels to hide, in (0, 1/2**dims] (the default, 1/36, is every 6th on each axis in 2-D and
            about every 3rd in 3-D).
        radius: of the neighbourhood, in voxels, one number or one per axis (0 along an axis of distant slices keeps
            replacements within their slice).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> masked, mask = BlindSpotMask(fraction=1 / 36)(image, generator)
        >>> loss = (network(masked) - image)[mask].square().mean()  # one channel
    """

    fraction: float = 1 / 36
    radius: int | Sequence[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 0.25:
            raise ValueError(f"fraction must be in (0, 0.25] in 2-D, (0, 0.125] in 3-D, got {self.fraction}.")
        radii = self._radii(1)
        if not radii or any(radius != int(radius) or radius < 0 for radius in radii) or max(radii) < 1:
            raise ValueError(f"radius must be whole numbers, 0 or more, one of them at least 1, got {self.radius}.")

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The image with its blind spots replaced, and their mask.

        The same generator state gives the same masks, also on another device than the generator's.
        """
        dims = check_image("image", image)
        shape = list(image.shape[2:])
        radii = self._radii(dims)
        if len(radii) != dims:
            raise ValueError(f"radius must be one number, or {dims} for an image of {dims} axes, got {self.radius}.")
        if self.fraction > 0.5**dims:
            raise ValueError(f"fraction must be in (0, {0.5**dims}] in {dims}-D, got {self.fraction}.")
        if all(radius == 0 or size == 1 for radius, size in zip(radii, shape, strict=True)):
            raise ValueError(
                f"image must have neighbours within radius {self.radius} for each voxel, got {tuple(image.shape)}."
            )

        hidden = _jittered_grid(image, self.fraction ** (-1 / dims), generator)
        neighbour = _random_neighbours(hidden, radii, shape, generator)
        at, source = _ravel(hidden, shape), _ravel(neighbour, shape)
        voxels = image.flatten(2)
        values = voxels.gather(2, source[:, None].expand(-1, voxels.shape[1], -1))
        masked = voxels.scatter(2, at[:, None].expand_as(values), values)
        mask = torch.zeros(at.shape[0], voxels.shape[2], dtype=torch.bool, device=image.device).scatter(1, at, True)
        return masked.view_as(image), mask.view(-1, 1, *shape)

    def _radii(self, dims: int) -> list[int]:
        return list(self.radius) if isinstance(self.radius, Sequence) else [self.radius] * dims


def _jittered_grid(image: Tensor, edge: float, generator: torch.Generator | None) -> list[Tensor]:
    """Coordinates, for each axis (batch, cells), of one random voxel in every cell of about `edge` voxels a side."""
    starts, sizes = [], []
    for size in image.shape[2:]:
        cells = max(1, round(size / edge))
        bounds = torch.arange(cells + 1, device=image.device) * size // cells
        starts.append(bounds[:-1])
        sizes.append(bounds.diff())
    corners = torch.meshgrid(*starts, indexing="ij")
    extents = torch.meshgrid(*sizes, indexing="ij")
    batch = image.shape[0]
    return [
        corner.flatten() + _random_below(extent.flatten().expand(batch, -1), generator)
        for corner, extent in zip(corners, extents, strict=True)
    ]


def _random_neighbours(
    coordinates: list[Tensor], radii: list[int], shape: list[int], generator: torch.Generator | None
) -> list[Tensor]:
    """For every voxel another one, uniform over the part of the box of `radii` around it that lies in the image."""
    lows = [(x - radius).clamp(min=0) for x, radius in zip(coordinates, radii, strict=True)]
    highs = [(x + radius).clamp(max=size - 1) for x, radius, size in zip(coordinates, radii, shape, strict=True)]
    extents = [high - low + 1 for low, high in zip(lows, highs, strict=True)]
    # Number the voxels of each box; draw among all but one, and step over the voxel itself.
    itself = torch.zeros_like(coordinates[0])
    count = torch.ones_like(coordinates[0])
    for x, low, extent in zip(coordinates, lows, extents, strict=True):
        itself = itself * extent + (x - low)
        count = count * extent
    number = _random_below(count - 1, generator)
    number = number + (number >= itself)
    neighbour = []
    for low, extent in zip(reversed(lows), reversed(extents), strict=True):
        neighbour.append(low + number % extent)
        number = number // extent
    return neighbour[::-1]


def _random_below(bound: Tensor, generator: torch.Generator | None) -> Tensor:
    """A uniform whole number from 0 to bound − 1 for every bound, drawn on the generator's device."""
    device = bound.device if generator is None else generator.device
    uniform = torch.rand(bound.shape, generator=generator, device=device).to(bound.device)
    return torch.minimum((uniform * bound).long(), bound - 1)


def _ravel(coordinates: list[Tensor], shape: list[int]) -> Tensor:
    """The indices of coordinates in a flattened image."""
    index = torch.zeros_like(coordinates[0])
    for x, size in zip(coordinates, shape, strict=True):
        index = index * size + x
    return index
