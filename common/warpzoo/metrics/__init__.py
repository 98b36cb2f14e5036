"""Metrics of registrations and of denoised images, for evaluation, not for training."""

from warpzoo.metrics.intensity import histogram_mutual_information, psnr, scale_invariant_psnr, snr, ssim
from warpzoo.metrics.overlap import dice, present_labels
from warpzoo.metrics.surface import SurfaceDistances, surface_distances
from warpzoo.metrics.transform import Folding, folding, target_registration_error

__all__ = [
    "Folding",
    "SurfaceDistances",
    "dice",
    "folding",
    "histogram_mutual_information",
    "present_labels",
    "psnr",
    "scale_invariant_psnr",
    "snr",
    "ssim",
    "surface_distances",
    "target_registration_error",
]
