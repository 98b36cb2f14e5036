"""What an image looks like around each voxel, whatever its contrast.

Self-similarity context (Heinrich et al., MICCAI 2013): how unlike small patches around a voxel are to each other. It is
the same where an image is bright or dark, inverted, or of another modality, as long as edges lie in the same places.
"""

from __future__ import annotations

from itertools import combinations, product

import torch
from torch import Tensor
from torch.nn import functional as F

from warpzoo.checks import check_image

DISTANCE = 1
"""Voxels from a voxel to the middles of the patches around it; they are three voxels a side."""
DESCRIPTORS = {2: 24, 3: 12}
"""Of a channel, in 2-D and in 3-D."""
LEAST_SPREAD, MOST_SPREAD = 1e-3, 1e3
"""Of the image's mean: how unlike the patches of a voxel may be for all of them to count alike."""


def self_similarity(image: Tensor) -> Tensor:
    """Descriptors from 0 to 1 of an image (batch, channels, *spatial): (batch, channels · `DESCRIPTORS`, *spatial).

    One for each two of the patches around a voxel that do not lie opposite: of eight patches in 2-D, of six in 3-D.
    """
    dims = check_image("image", image)
    values = image.to(torch.promote_types(image.dtype, torch.float32))
    padded = F.pad(values, [DISTANCE] * (2 * dims), mode="replicate")

    def moved(steps: tuple[int, ...]) -> Tensor:
        part = padded
        for axis, step in enumerate(steps):
            part = part.narrow(2 + axis, DISTANCE * (1 + step), image.shape[2 + axis])
        return part

    pairs = [(one, other) for one, other in combinations(around(dims), 2) if other != tuple(-step for step in one)]
    unlike = values.new_empty(len(pairs), *values.shape)
    for number, (one, other) in enumerate(pairs):
        unlike[number] = _patch_means((moved(one) - moved(other)).square_())
    unlike -= unlike.amin(0)
    spread = unlike.mean(0)
    usual = spread.flatten(2).mean(2).view(*spread.shape[:2], *[1] * dims)
    spread = torch.maximum(torch.minimum(spread, MOST_SPREAD * usual), LEAST_SPREAD * usual)
    unlike /= torch.where(spread > 0, spread, torch.ones_like(spread))
    return unlike.neg_().exp_().movedim(0, 2).flatten(1, 2)


def around(dims: int) -> list[tuple[int, ...]]:
    """Steps to the patches: along each axis, in a plane diagonally as well."""
    steps = product((-1, 0, 1), repeat=dims)
    return [one for one in steps if any(one) and (dims == 2 or sum(map(abs, one)) == 1)]


def _patch_means(image: Tensor) -> Tensor:
    """Means over three voxels a side; the edge is repeated."""
    mean = F.avg_pool2d if image.dim() == 4 else F.avg_pool3d
    return mean(F.pad(image, [1] * (2 * (image.dim() - 2)), mode="replicate"), 3, stride=1)
