"""The affine network of de Vos et al. (2019): one encoder analyses each image, what it finds is pooled and compared.

Convention: the input is moving and fixed concatenated as channels, the output is [warped | displacement] concatenated
as channels, the displacement in voxels. `matrices` gives the matrix after every pass, see `geometry.affine`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn

from warpzoo.checks import check_count
from warpzoo.geometry.affine import affine_field, compose_matrices
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.transforms import Affine, Transform
from warpzoo.networks import (
    Moments,
    Standardise,
    channels_last,
    channels_last_weights,
    check_dims,
    check_pair,
    matrix_head,
    padded,
    tag_architecture,
    warp_and_concatenate,
)
from warpzoo.networks.affine import PARTS

POOLINGS = ("moments", "gap")


class DeepAffine(nn.Module):
    """A shared encoder on each image, its feature maps pooled to numbers, both images' numbers concatenated, dense
    layers, a matrix.

    Args:
        spatial_dims: 2 or 3.
        channels: kernels of the convolutions; between them the image is halved by average pooling.
        pooling: "gap" (the mean of each feature map, the paper's) or "moments" (its first and second moments as well).
        hidden: neurons of the dense layers.
        head: "one" (the paper's twelve numbers) or "separate" (shear, scale, rotation and translation on their own).
        parts: of the separate head.
        passes: how often the network looks, each time at the moving image as placed so far.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: Sequence[int] = (16, 32, 64, 64),
        pooling: str = "moments",
        hidden: Sequence[int] = (128, 64),
        head: str = "one",
        parts: Sequence[str] = PARTS,
        passes: int = 1,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}.")
        self.spatial_dims = check_dims(spatial_dims)
        check_count("passes", passes)
        self.passes = passes
        self.standardise = Standardise()
        layers: list[nn.Module] = []
        width = 1
        for number, kernels in enumerate(channels):
            if number:
                layers.append(Pool[Pool.AVG, spatial_dims](2))
            convolution = Conv[Conv.CONV, spatial_dims](width, kernels, 3, padding=1, bias=False)
            layers += [convolution, Norm[Norm.BATCH, spatial_dims](kernels), nn.ELU()]
            width = kernels
        self.encoder = nn.Sequential(*layers)
        self.coarsest = 2 ** (len(channels) - 1)
        self.pool = Moments(spatial_dims, gap=pooling == "gap")
        width *= 2 * self.pool.width
        layers = []
        for neurons in hidden:
            layers += [nn.Linear(width, neurons), nn.ELU()]
            width = neurons
        self.dense = nn.Sequential(*layers)
        self.head = matrix_head(head, width, spatial_dims, parts, passes)
        tag_architecture(self, pooling, head)
        channels_last_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        return warp_and_concatenate(image, affine_field(self.matrices(image)[-1], list(image.shape[2:])))

    def transform(self, image: Tensor, grid: Grid) -> Transform:
        """What `forward` warps by."""
        return Affine(self.matrices(image)[-1], grid)

    def matrices(self, image: Tensor) -> list[Tensor]:
        """The matrix (batch, dims, dims + 1) after every pass."""
        if not torch.jit.is_scripting():
            check_pair(image, self.spatial_dims)
        image = self.standardise(image)
        batch = image.shape[0]
        both = self._analysed(image.transpose(0, 1).flatten(0, 1)[:, None])
        here, there = both[batch:], both[:batch]
        matrix = self._compared(there, here)
        found = [matrix]
        for _ in range(1, self.passes):
            before = matrix.detach()
            there = self._analysed(warp(image[:, :1], affine_field(before, list(image.shape[2:]))))
            matrix = compose_matrices(self._compared(there, here), before)
            found.append(matrix)
        return found

    def _analysed(self, image: Tensor) -> Tensor:
        numbers: Tensor = self.pool(self.encoder(channels_last(padded(image, self.coarsest))))
        return numbers

    def _compared(self, moving: Tensor, fixed: Tensor) -> Tensor:
        matrix: Tensor = self.head(self.dense(torch.cat([moving, fixed], 1)))
        return matrix
