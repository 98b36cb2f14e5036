"""What an image looks like around each voxel, whatever its contrast.

Self-similarity context (Heinrich et al., MICCAI 2013): how unlike small patches around a voxel are to each other. It is
the same where an image is bright or dark, inverted, or of another modality, as long as edges lie in the same places.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from warpzoo.checks import check_image

DISTANCE = 1
"""Voxels from a voxel to the middles of the patches around it; they are three voxels a side."""
LEAST_SPREAD, MOST_SPREAD = 1e-3, 1e3
"""Of the image's mean: how unlike the patches of a voxel may be for all of them to count alike."""


def self_similarity(image: Tensor) -> Tensor:
    """Descriptors from 0 to 1 of an image (batch, channels, *spatial): (batch, channels · 12, *spatial) in 3-D, · 4 in
    2-D, one for each two of the patches around a voxel that do not lie opposite."""
    dims = check_image("image", image)
    values = image.to(torch.promote_types(image.dtype, torch.float32))
    padded = F.pad(values, [DISTANCE] * (2 * dims), mode="replicate")

    def moved(axis: int, sign: int) -> Tensor:
        part = padded
        for one in range(dims):
            part = part.narrow(2 + one, DISTANCE * (1 + (sign if one == axis else 0)), image.shape[2 + one])
        return part

    around = [(axis, sign) for axis in range(dims) for sign in (-1, 1)]
    pairs = [(one, other) for one, other in combinations(around, 2) if one[0] != other[0]]
    unlike = values.new_empty(len(pairs), *values.shape)
    for number, (one, other) in enumerate(pairs):
        unlike[number] = _patch_means((moved(*one) - moved(*other)).square_())
    unlike -= unlike.amin(0)
    spread = unlike.mean(0)
    usual = spread.flatten(2).mean(2).view(*spread.shape[:2], *[1] * dims)
    spread = torch.maximum(torch.minimum(spread, MOST_SPREAD * usual), LEAST_SPREAD * usual)
    unlike /= torch.where(spread > 0, spread, torch.ones_like(spread))
    return unlike.neg_().exp_().movedim(0, 2).flatten(1, 2)


def _patch_means(image: Tensor) -> Tensor:
    """Means over three voxels a side; the edge is repeated."""
    mean = F.avg_pool2d if image.dim() == 4 else F.avg_pool3d
    return mean(F.pad(image, [1] * (2 * (image.dim() - 2)), mode="replicate"), 3, stride=1)
