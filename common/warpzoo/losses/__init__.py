"""Losses: similarity of images, regularity of displacement fields, blind-spot denoising, sums over resolutions."""

from warpzoo.losses.regularisation import BendingEnergy, Diffusion, FoldingPenalty, TotalVariation
from warpzoo.losses.similarity import (
    LNCCLoss,
    MSELoss,
    MutualInformationLoss,
    NCCLoss,
    local_normalised_cross_correlation,
    mutual_information,
    normalised_cross_correlation,
)

__all__ = [
    "BendingEnergy",
    "Diffusion",
    "FoldingPenalty",
    "LNCCLoss",
    "MSELoss",
    "MutualInformationLoss",
    "NCCLoss",
    "TotalVariation",
    "local_normalised_cross_correlation",
    "mutual_information",
    "normalised_cross_correlation",
]
