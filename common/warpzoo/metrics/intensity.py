"""Image quality with respect to a reference, and mutual information of two images.

Convention: images (batch, channels, *spatial), prediction and reference of one shape; one number per item of the batch,
over all its voxels and channels, (batch,). The reference is the clean image, and its intensities set the scale: nothing
is rescaled unless the name says so. Numbers are computed in float64 (float32 on devices that have none).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from warpzoo.checks import check_image, check_same_shape

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def snr(prediction: Tensor, reference: Tensor) -> Tensor:
    """Signal-to-noise ratio in dB: 10 log₁₀(Σ reference² / Σ (reference − prediction)²).

    The signal is the reference's power as it stands, a constant background included: subtract the camera's offset
    first if it is not meant to count. Equal images give +inf, black ones too; any other prediction of a black reference
    gives -inf.
    """
    prediction, reference = _pair(prediction, reference)
    return _decibels(reference.square().mean(1), (reference - prediction).square().mean(1))


def psnr(prediction: Tensor, reference: Tensor, data_range: float | str = "reference") -> Tensor:
    """Peak signal-to-noise ratio in dB: 10 log₁₀(range² / mean (reference − prediction)²).

    Args:
        prediction: the image to evaluate.
        reference: the clean image.
        data_range: 'reference' is the maximum minus the minimum of each item's reference; a number is used as it is
            (255 for 8-bit images). Values computed with different ranges cannot be compared. Equal images give +inf,
            flat ones too; any other prediction of a flat reference gives -inf, unless the range is a number.
    """
    prediction, reference = _pair(prediction, reference)
    return _decibels(_range(data_range, reference).square(), (reference - prediction).square().mean(1))


def scale_invariant_psnr(prediction: Tensor, reference: Tensor, data_range: float | str = "reference") -> Tensor:
    """PSNR in dB of gain · prediction + offset, both fitted to the reference by least squares for each item.

    The PSNR with the best calibration of the prediction's intensities: unchanged by a gain and an offset of
    the prediction (a negative gain too), never below `psnr` of the same range. A constant prediction is fitted by the
    reference's mean. `data_range` as in `psnr`, always of the reference.
    """
    prediction, reference = _pair(prediction, reference)
    centred = prediction - prediction.mean(1, keepdim=True)
    target = reference - reference.mean(1, keepdim=True)
    power = centred.square().sum(1, keepdim=True)
    gain = (centred * target).sum(1, keepdim=True) / torch.where(power > 0, power, 1)
    return _decibels(_range(data_range, reference).square(), (target - gain * centred).square().mean(1))


def ssim(prediction: Tensor, reference: Tensor, data_range: float | str = "reference") -> Tensor:
    """Structural similarity (Wang et al. 2004), at most 1: MONAI's, averaged over whole windows only.

    Gaussian window of 11 voxels per axis and standard deviation 1.5, K₁ = 0.01, K₂ = 0.03, (biased) window variances:
    what scikit-image gives with gaussian_weights=True, use_sample_covariance=False. `data_range` as in `psnr`; it must
    not be 0. Several channels are averaged.
    """
    from monai.metrics.regression import compute_ssim_and_cs

    dims = check_image("prediction", prediction)
    if min(prediction.shape[2:]) < SSIM_WINDOW:
        raise ValueError(
            f"prediction must have {SSIM_WINDOW} voxels or more on every axis, got shape {tuple(prediction.shape)}."
        )
    shape = prediction.shape
    prediction, reference = _pair(prediction, reference)
    ranges = _range(data_range, reference)
    if not bool((ranges > 0).all()):
        raise ValueError(
            "data_range must be a number where reference is constant in an item of the batch, got 'reference'."
        )
    # MONAI's moments are float32 and lose precision with a camera's offset (60,000 ± 100 scored 1.38). Each factor
    # alone is safe: the contrast term is the same for centred images, and K₂ → ∞ gives the luminance term.
    terms = partial(
        compute_ssim_and_cs, spatial_dims=dims, kernel_size=[SSIM_WINDOW] * dims, kernel_sigma=[SSIM_SIGMA] * dims
    )
    scores = []
    with torch.autocast(prediction.device.type, enabled=False):
        for image, target, scale in zip(prediction, reference, ranges.tolist(), strict=True):
            image, target = (x.reshape(1, *shape[1:]) / scale for x in (image, target))
            luminance, _ = terms(image, target, k2=1e12)
            _, contrast = terms(image - image.mean(), target - target.mean())
            scores.append((luminance * contrast).mean())
    return torch.stack(scores)


def histogram_mutual_information(prediction: Tensor, reference: Tensor, bins: int = 32) -> Tensor:
    """Mutual information in nats of the joint histogram of two images (or two modalities), Σ p log(p / (p_x p_y)).

    Plain counts in `bins` equal bins between each image's own minimum and maximum, so a gain or offset of either image
    changes nothing; 0 if one is constant, at most log(bins). For evaluation: it has no gradient, and depends on the
    number of bins.
    """
    if bins < 2:
        raise ValueError(f"bins must be 2 or more, got {bins}.")
    prediction, reference = _pair(prediction, reference)
    joint = _bin_numbers(prediction, bins) * bins + _bin_numbers(reference, bins)
    offset = bins * bins * torch.arange(len(joint), device=joint.device)[:, None]
    counts = torch.bincount((joint + offset).flatten(), minlength=len(joint) * bins * bins)
    p = counts.view(len(joint), bins, bins).to(prediction.dtype) / joint.shape[1]
    independent = p.sum(2, keepdim=True) * p.sum(1, keepdim=True)
    ratio = torch.where(p > 0, p / torch.where(p > 0, independent, 1), 1)
    return (p * ratio.log()).sum((1, 2))


def _pair(prediction: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both images, checked, flattened to (batch, all voxels) and in the best precision the device has."""
    check_image("prediction", prediction)
    check_image("reference", reference)
    check_same_shape("prediction", prediction, "reference", reference)
    dtype = torch.float32 if prediction.device.type == "mps" else torch.float64
    return prediction.detach().flatten(1).to(dtype), reference.detach().flatten(1).to(dtype)


def _range(data_range: float | str, reference: Tensor) -> Tensor:
    """The range of intensities, (batch,)."""
    if data_range == "reference":
        return reference.amax(1) - reference.amin(1)
    if isinstance(data_range, str) or not 0 < data_range < math.inf:
        raise ValueError(f"data_range must be 'reference' or a finite number above 0, got {data_range!r}.")
    return reference.new_full((len(reference),), data_range)


def _decibels(signal: Tensor, noise: Tensor) -> Tensor:
    """10 log₁₀ of a ratio of powers; no noise is +inf, even where there is no signal."""
    return torch.where(noise > 0, 10 * torch.log10(signal / noise), torch.inf)


def _bin_numbers(values: Tensor, bins: int) -> Tensor:
    """Which of the bins between the smallest and the largest value of each row; the last one holds its upper edge."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    steps = torch.arange(bins + 1, dtype=values.dtype, device=values.device) / bins
    edges = low + (high - low) * steps
    return (torch.searchsorted(edges, values, right=True) - 1).clamp(0, bins - 1)
