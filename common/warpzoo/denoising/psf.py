"""Point-spread functions: the blur between the light an object sends out (the phantom z) and the image s = z ∗ h.

Convention: images (batch, channels, *spatial), every channel blurred alike; standard deviations in pixels. Beyond the
image's edge its outermost pixels go on for ever, so a constant image stays what it is. Layers keep their PSF in the
state dict: weights know what they were trained with. Their `reach` is how many pixels away a pixel has an influence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.checks import check_spacing
from warpzoo.images.image import read_image

REACH = 4
"""Standard deviations after which a Gaussian is cut off: what lies beyond is 6e-5 of it."""


class GaussianPSF(nn.Module):
    """A Gaussian of standard deviation `sigma`, in pixels: one number, or one for each axis.

    Args:
        spatial_dims: 2 or 3.
        sigma: standard deviation; where it starts if it is learnable.
        learnable: fit it together with the network's weights; it stays between a third and three times its start.
    """

    def __init__(self, spatial_dims: int = 2, sigma: float | Sequence[float] = 1.0, learnable: bool = False) -> None:
        super().__init__()
        start = torch.tensor(check_spacing("sigma", sigma, spatial_dims), dtype=torch.float32)
        self.start: Tensor
        self.register_buffer("start", start)
        self.log_ratio = nn.Parameter(torch.zeros(spatial_dims), requires_grad=learnable)
        self.radii = [math.ceil(REACH * float(side) * (3 if learnable else 1)) for side in start]
        self.reach = max(self.radii)
        self.register_load_state_dict_pre_hook(_check_sigma)

    def sigma(self) -> Tensor:
        """The standard deviation along each axis."""
        return self.start * self.log_ratio.clamp(-math.log(3.0), math.log(3.0)).exp()

    def forward(self, phantom: Tensor) -> Tensor:
        return gaussian_blur(phantom, self.sigma(), self.radii)

    def extra_repr(self) -> str:
        return f"sigma={[round(side, 3) for side in self.sigma().tolist()]}, learnable={self.log_ratio.requires_grad}"


def _check_sigma(psf: GaussianPSF, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Weights bring the PSF they were trained with; a kernel made for another would cut it off."""
    trained = state.get(f"{prefix}start")
    if trained is not None and trained.shape == psf.start.shape and not torch.allclose(trained, psf.start.cpu()):
        was, wanted = (" × ".join(f"{side:g}" for side in sigma.tolist()) for sigma in (trained, psf.start))
        raise ValueError(
            f"the weights were trained with a PSF of standard deviation {was}, wanted is {wanted}; give the one they "
            f"were trained with (psf_sigma)."
        )


class MeasuredPSF(nn.Module):
    """A PSF as it was measured, say as the image of a small bead: an image file, or the kernel itself (*spatial).

    Its middle pixel is where the light comes from; it is divided by its sum, and negative values become 0.
    """

    def __init__(self, source: str | Path | Tensor) -> None:
        super().__init__()
        if isinstance(source, Tensor):
            name, kernel = "source", source.float()
        else:
            name, image = str(source), read_image(source)
            # as microscopes' images are laid out here: rows first, and slices before rows
            kernel = image.array[0].permute(*reversed(range(image.array.dim() - 1)))
        if kernel.dim() not in (2, 3) or any(side % 2 == 0 for side in kernel.shape):
            raise ValueError(
                f"{name} has {' × '.join(map(str, kernel.shape))} pixels; a PSF wants two or three axes of an odd "
                f"number of pixels each, with its peak in the middle: crop it."
            )
        kernel = kernel.clamp(min=0)
        if float(kernel.sum()) <= 0:
            raise ValueError(f"{name} is empty; a PSF wants values above 0.")
        # convolutions of networks do not turn the kernel round; a PSF does
        flipped = kernel.flip(list(range(kernel.dim()))) / kernel.sum()
        self.kernel: Tensor
        self.register_buffer("kernel", flipped[None, None].contiguous())
        self.padding = [side // 2 for side in reversed(kernel.shape) for _ in range(2)]
        self.reach = max(self.padding)

    def forward(self, phantom: Tensor) -> Tensor:
        padded = one_channel(F.pad(phantom, self.padding, mode="replicate"))
        blurred = F.conv2d(padded, self.kernel) if self.kernel.dim() == 4 else F.conv3d(padded, self.kernel)
        return blurred.view(phantom.shape)


def gaussian_blur(image: Tensor, sigma: Tensor, radii: list[int]) -> Tensor:
    """Blurred along one axis after the other; `sigma` (dims,) may carry a gradient, `radii` are where to cut off."""
    padding: list[int] = []
    for radius in radii:
        padding = [radius, radius] + padding
    blurred = one_channel(F.pad(image, padding, mode="replicate"))
    for axis, radius in enumerate(radii):
        offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        kernel = torch.exp(-0.5 * (offsets / sigma[axis]) ** 2)
        shape = [1] * blurred.dim()
        shape[axis + 2] = 2 * radius + 1
        kernel = (kernel / kernel.sum()).view(shape)
        blurred = F.conv2d(blurred, kernel) if len(radii) == 2 else F.conv3d(blurred, kernel)
    return blurred.view(image.shape)


def one_channel(image: Tensor) -> Tensor:
    """(batch, channels, *spatial) → (batch · channels, 1, *spatial): one kernel serves all."""
    return image.flatten(0, 1).unsqueeze(1)
