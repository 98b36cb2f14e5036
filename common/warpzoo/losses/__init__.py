"""Losses: similarity of images, regularity of displacement fields, blind-spot denoising, sums over resolutions."""

from warpzoo.losses.regularisation import BendingEnergy, Diffusion, FoldingPenalty, TotalVariation
from warpzoo.losses.similarity import MSELoss, NCCLoss, normalised_cross_correlation

__all__ = [
    "BendingEnergy",
    "Diffusion",
    "FoldingPenalty",
    "MSELoss",
    "NCCLoss",
    "TotalVariation",
    "normalised_cross_correlation",
]
