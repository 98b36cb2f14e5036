"""Point-spread functions: the blur between the emitted light (the phantom z) and the image s = z ∗ h.

Convention: images (batch, channels, *spatial), the same blur for every channel; standard deviations in pixels. Beyond
the image's edge its outermost pixels are repeated, so a constant image is unchanged. Layers keep their PSF in the state
dict, where weights can be checked against it. Their `reach` is the distance, in pixels, up to which pixels interact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.checks import check_spacing, check_truth
from warpzoo.images.image import read_image

REACH = 4
"""Standard deviations after which a Gaussian is truncated: 6e-5 of it lies beyond."""


class GaussianPSF(nn.Module):
    """A Gaussian of standard deviation `sigma`, in pixels: one number, or one for each axis.

    Args:
        spatial_dims: 2 or 3.
        sigma: standard deviation; the initial one if it is learnable.
        learnable: optimise it together with the network's weights, between a third and three times its initial value.
    """

    def __init__(self, spatial_dims: int = 2, sigma: float | Sequence[float] = 1.0, learnable: bool = False) -> None:
        super().__init__()
        start = torch.tensor(check_spacing("sigma", sigma, spatial_dims), dtype=torch.float32)
        self.start: Tensor
        self.register_buffer("start", start)
        learnable = check_truth("learnable", learnable)
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
    """Requires the PSF that the weights were trained with; a kernel for another would truncate it."""
    trained = state.get(f"{prefix}start")
    if trained is not None and trained.shape == psf.start.shape and not torch.allclose(trained, psf.start.cpu()):
        theirs, own = (" × ".join(f"{side:g}" for side in sigma.tolist()) for sigma in (trained, psf.start))
        raise ValueError(f"psf_sigma must be {theirs}, with which the weights were trained, got {own}.")


def make_psf(
    spatial_dims: int = 2, sigma: float | str | Sequence[float] = 1.0, measured: str | None = None
) -> nn.Module:
    """The PSF that a user describes.

    Args:
        spatial_dims: 2 or 3.
        sigma: standard deviation of a Gaussian in pixels, one number or one per axis, also as text such as "2,1,1";
            "none" for no blur, "learn" for a Gaussian that is fitted, from 1 pixel.
        measured: instead, an image file with the PSF as it was measured.
    """
    if measured is not None:
        if sigma != 1.0:
            raise ValueError(f"psf_sigma must not be given with a measured PSF ({measured}), got {sigma!r}.")
        if not Path(measured).exists():
            raise ValueError(f"psf must be an image file, got {measured}, which does not exist.")
        return MeasuredPSF(measured)
    if sigma == "none":
        return nn.Identity()
    if sigma == "learn":
        return GaussianPSF(spatial_dims, 1.0, learnable=True)
    sides = sigma
    if isinstance(sigma, str):
        try:
            sides = [float(side) for side in sigma.strip("()[]").split(",")]
        except ValueError:
            sides = []
    try:
        return GaussianPSF(spatial_dims, check_spacing("psf_sigma", sides, spatial_dims))  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(
            f"psf_sigma must be a number of pixels above 0, one per axis ({spatial_dims}) with commas, none or learn, "
            f"got {sigma!r}."
        ) from error


def is_isotropic(psf: nn.Module) -> bool:
    """Whether a PSF is the same along all axes, so that images may be turned."""
    if isinstance(psf, GaussianPSF):
        return bool((psf.start == psf.start[0]).all())
    return not isinstance(psf, MeasuredPSF)


class MeasuredPSF(nn.Module):
    """A measured PSF, such as the image of a small bead: an image file, or the kernel itself (*spatial).

    Its middle pixel is the origin; negative values are set to 0, and it is divided by its sum.
    """

    def __init__(self, source: str | Path | Tensor) -> None:
        super().__init__()
        if isinstance(source, Tensor):
            name, kernel = "source", source.float()
        else:
            name, image = str(source), read_image(source)
            # the axis order of microscopy images here: slices, rows, columns
            kernel = image.array[0].permute(*reversed(range(image.array.dim() - 1)))
        if kernel.dim() not in (2, 3) or any(side % 2 == 0 for side in kernel.shape):
            raise ValueError(
                f"{name} must have two or three axes of an odd number of pixels each, with its peak in the middle, got "
                f"{' × '.join(map(str, kernel.shape))} pixels: crop it."
            )
        kernel = kernel.clamp(min=0)
        if float(kernel.sum()) <= 0:
            raise ValueError(f"{name} must have values above 0, got none.")
        # convolution layers do not flip the kernel; a PSF is a true convolution
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
    """Blurred along one axis after the other; `sigma` (dims,) may require a gradient; truncated at `radii`."""
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
