"""`warpzoo.denoise`: an image as programs hold it in, and the result as what went in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warpzoo.bundles import variant_names
from warpzoo.denoising.denoise import denoise_stack, psf_settings
from warpzoo.images.conversion import as_image, is_array
from warpzoo.images.stacks import open_stack, result_dtype, stack_of


def denoise(
    image: Any,
    method: str | None = None,
    *,
    budget: str | None = None,
    psf_sigma: float | str | Sequence[float] | None = None,
    psf: str | Path | None = None,
    size: float | None = None,
    spatial_dims: int = 2,
    channel: int | None = None,
    time_axis: int | None = None,
    weights: str | Path | None = None,
    save_weights: str | Path | None = None,
    variant: str | None = None,
    phantom: bool = False,
    dtype: str | None = None,
    seed: int = 0,
    strict: bool = False,
    device: str | None = None,
) -> Any:
    """Denoises an image, a volume or a series without any clean image to learn from; the result is as what went in.

    Args:
        image: a numpy array or torch tensor of (rows, columns), after slices or frames if there are any; an image of
            nibabel, SimpleITK or ITK; or a path, whose result is an array with all axes of the file.
        method: a bundle's name or folder (default: the shipped network), or a filter: median, gaussian, box, box3d,
            nlm, tv, wavelet.
        budget: how long the network learns, such as "60s" (the default), "10min" or "2000steps".
        psf_sigma: standard deviation in pixels of the microscope's blur; a number, one per axis (slices, rows,
            columns), "none" or "learn".
        psf: instead, an image file with the blur as it was measured.
        size: of a filter; found without a clean image if not given.
        spatial_dims: 3 to use the neighbouring slices of a volume, too.
        channel: which one of a file to denoise, counted from 0; the others are copied. Not for images in memory.
        time_axis: which axis is time, counted from 0, where nothing says so.
        weights: file of a network that has been trained before; nothing is learnt then, unless a budget is given, for
            which it goes on learning from this image.
        save_weights: where to keep what was learnt.
        variant: of the network's configuration, several joined by commas.
        phantom: give the light's origin before the blur instead of the denoised image.
        dtype: of the result; default: the input's own.
        seed: of what is drawn at random.
        strict: whether warnings about what is likely to fail are errors.
        device: such as "cuda:1"; default: the GPU if there is one.

    Example:
        >>> denoised = warpzoo.denoise(noisy, budget="60s", psf_sigma=1.2)
    """
    back: Any = None
    if channel is not None and not isinstance(image, (str, Path)):
        raise ValueError(f"channel must only be given with a file, got {channel} with {type(image).__name__}.")
    if isinstance(image, torch.Tensor) and image.requires_grad:
        raise ValueError("image must not require a gradient, which ends here; give image.detach().")
    if isinstance(image, (str, Path)):
        stack = open_stack(image, spatial_dims, channel, time_axis)
    elif is_array(image):
        stack = stack_of(np.asarray(image.cpu() if isinstance(image, torch.Tensor) else image), spatial_dims, time_axis)
    else:
        volume, back = as_image(image)
        stack = stack_of(volume.array[0].numpy().T, spatial_dims, time_axis, volume.header.dtype)
    result = np.empty(stack.source.shape[::-1], result_dtype(stack, dtype))
    denoise_stack(
        stack,
        result,
        method,
        budget=budget,
        size=size,
        weights=weights,
        save_weights=save_weights,
        variants=variant_names(variant),
        phantom=phantom,
        dtype=dtype,
        seed=seed,
        strict=strict,
        device=device,
        settings=psf_settings(psf_sigma, psf),
    )
    if back is not None:
        array = torch.from_numpy(np.ascontiguousarray(result.T).astype(np.float32))
        return back(volume.on(volume, array[None]))
    if isinstance(image, torch.Tensor):
        return torch.from_numpy(result.reshape(image.shape)).to(image.device)
    return result.reshape(image.shape) if isinstance(image, np.ndarray) else result
