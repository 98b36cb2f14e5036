"""Losses: similarity of images and descriptors that hold between contrasts, regularity of displacement fields,
agreement of both directions of a pair, blind-spot denoising, sums over resolutions."""

from warpzoo.losses.agreement import Agreement
from warpzoo.losses.blind_spot import BlindSpotLoss, Positivity
from warpzoo.losses.descriptors import DESCRIPTORS, self_similarity
from warpzoo.losses.multi_resolution import MultiResolutionLoss
from warpzoo.losses.regularisation import (
    BendingEnergy,
    Diffusion,
    FoldingPenalty,
    InverseConsistency,
    TotalVariation,
)
from warpzoo.losses.similarity import (
    LNCCLoss,
    MSELoss,
    MutualInformationLoss,
    NCCLoss,
    local_normalised_cross_correlation,
    mattes_mutual_information,
    normalised_cross_correlation,
)

__all__ = [
    "DESCRIPTORS",
    "Agreement",
    "BendingEnergy",
    "BlindSpotLoss",
    "Diffusion",
    "FoldingPenalty",
    "InverseConsistency",
    "LNCCLoss",
    "MSELoss",
    "MultiResolutionLoss",
    "MutualInformationLoss",
    "NCCLoss",
    "Positivity",
    "TotalVariation",
    "local_normalised_cross_correlation",
    "mattes_mutual_information",
    "normalised_cross_correlation",
    "self_similarity",
]
