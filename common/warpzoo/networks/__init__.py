"""What registration and denoising networks are made of: input and output, layouts, pyramids, weights, normalisation."""

from warpzoo.networks.affine import KeyPoints, Moments, OneMatrix, SeparateMatrices, gated, matrix_head, unit_places
from warpzoo.networks.folding import folded, unfolded
from warpzoo.networks.intensity import MinMax, Standardise, match_histogram, mean_and_deviation
from warpzoo.networks.layouts import channels_last, channels_last_weights
from warpzoo.networks.pairs import check_dims, check_pair, warp_and_concatenate
from warpzoo.networks.pyramid import central_gradient, one_level_finer, padded, pooled, resized, velocity_on
from warpzoo.networks.weights import (
    described,
    fold_norms,
    load_weights,
    read_about,
    save_weights,
    tag_architecture,
    zero_initialised,
)

__all__ = [
    "KeyPoints",
    "MinMax",
    "Moments",
    "OneMatrix",
    "SeparateMatrices",
    "Standardise",
    "central_gradient",
    "channels_last",
    "channels_last_weights",
    "check_dims",
    "check_pair",
    "described",
    "fold_norms",
    "folded",
    "gated",
    "load_weights",
    "match_histogram",
    "matrix_head",
    "mean_and_deviation",
    "one_level_finer",
    "padded",
    "pooled",
    "read_about",
    "resized",
    "save_weights",
    "tag_architecture",
    "unfolded",
    "unit_places",
    "velocity_on",
    "warp_and_concatenate",
    "zero_initialised",
]
