"""Augmentation of image pairs, a whole batch at once and on its own device: it costs one `grid_sample` a step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_truth
from warpzoo.geometry.affine import compose_affine, half_longest_side
from warpzoo.geometry.sampling import sample, voxel_coordinates


class PairAugmentation(nn.Module):
    """The same random affine map for moving and fixed, and intensity changes for each on its own; off in `eval()`.

    Args:
        rotation: largest angle in degrees, about every axis.
        scale: largest change of size, 0.2 for 1/1.2 to 1.2.
        shift: largest translation in voxels.
        flip: whether to mirror, along any axis.
        apart: how far moving and fixed may be taken apart: the moving image gets another random map first, of at most
            `apart` times that rotation, scale and shift.
        gamma: largest change of contrast, 0.3 for exponents from 1/1.3 to 1.3 on the image scaled to [0, 1].
        noise: largest standard deviation of added noise, in the image's own standard deviations.
        crop: size of what is cut out around the (shifted) centre; None keeps the images' size.
        padding: what lies beyond an image, "constant" for 0 or "border" for its edge.
    """

    def __init__(
        self,
        rotation: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        flip: bool = False,
        apart: float = 0.0,
        gamma: float = 0.0,
        noise: float = 0.0,
        crop: list[int] | None = None,
        padding: str = "constant",
    ) -> None:
        super().__init__()
        self.rotation = rotation
        self.scale = scale
        self.shift = shift
        self.flip = check_truth("flip", flip)
        self.apart = apart
        self.gamma = gamma
        self.noise = noise
        self.crop = crop
        self.padding = padding

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 2, *crop)."""
        if not self.training:
            return image
        if self.crop is not None and len(self.crop) != image.dim() - 2:
            raise ValueError(
                f"image has shape {tuple(image.shape)}, {image.dim() - 2} spatial axes; crop is {list(self.crop)}."
            )
        with torch.autocast(image.device.type, enabled=False):  # it would round positions in `@` to a few digits
            image = self._move(image)
        return self._change_intensity(image)

    def _move(self, image: Tensor) -> Tensor:
        matrix = self._random_matrix(image, 1.0)
        if self.flip:
            dims = image.dim() - 2
            signs = torch.randint(0, 2, (len(image), 1, dims), device=image.device) * 2 - 1
            matrix = torch.cat([matrix[:, :, :dims] * signs, matrix[:, :, dims:]], 2)
        if not self.apart:
            return self._sample(image, matrix)
        moving = _after(matrix, self._random_matrix(image, self.apart))
        return torch.cat([self._sample(image[:, :1], moving), self._sample(image[:, 1:], matrix)], dim=1)

    def _random_matrix(self, image: Tensor, share: float) -> Tensor:
        batch, dims = image.shape[0], image.dim() - 2

        def uniform(count: int) -> Tensor:
            return share * (torch.rand(batch, count, device=image.device) * 2 - 1)

        return compose_affine(
            scale=uniform(1).expand(-1, dims) * torch.log1p(torch.tensor(self.scale)),
            rotation=uniform(1 if dims == 2 else 3) * torch.deg2rad(torch.tensor(self.rotation)),
            translation=uniform(dims) * self.shift / half_longest_side(list(image.shape[2:])),
        )

    def _sample(self, image: Tensor, matrix: Tensor) -> Tensor:
        batch, dims = image.shape[0], image.dim() - 2
        shape = list(image.shape[2:])
        target = shape if self.crop is None else list(self.crop)
        centre = torch.tensor([0.5 * (size - 1) for size in target], device=image.device)
        offsets = voxel_coordinates(target, torch.float32, image.device).flatten(1) - centre[:, None]
        middle = torch.tensor([0.5 * (size - 1) for size in shape], device=image.device)
        coordinates = matrix[:, :, :dims] @ offsets + middle[:, None] + matrix[:, :, dims:] * half_longest_side(shape)
        return sample(image, coordinates.reshape(batch, dims, *target), padding=self.padding)

    def _change_intensity(self, image: Tensor) -> Tensor:
        one_each = (*image.shape[:2], *[1] * (image.dim() - 2))
        if self.gamma:
            lowest, highest = image.flatten(2).aminmax(dim=2)
            lowest, extent = lowest.view(one_each), (highest - lowest).clamp_min(1e-6).view(one_each)
            exponent = (
                (torch.rand(one_each, device=image.device) * 2 - 1) * torch.log1p(torch.tensor(self.gamma))
            ).exp()
            image = ((image - lowest) / extent).pow(exponent) * extent + lowest
        if self.noise:
            deviation = image.flatten(2).std(2).view(one_each) * torch.rand(one_each, device=image.device) * self.noise
            image = image + torch.randn_like(image) * deviation
        return image


def _after(first: Tensor, second: Tensor) -> Tensor:
    """The map x ↦ second(first(x)) of two matrices (batch, dims, dims + 1)."""
    linear = second[:, :, :-1]
    return torch.cat([linear @ first[:, :, :-1], linear @ first[:, :, -1:] + second[:, :, -1:]], dim=2)
