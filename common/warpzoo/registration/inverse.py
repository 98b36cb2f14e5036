"""The way back of a registration: the inverse transform and the fixed image on the moving image's grid.

Convention: it takes points of the moving image's world to the fixed image's. It is exact for matrices, and searched
point by point for others, from where the negative velocity takes a point if there is one. Where the transform folds,
several points of the fixed image meet in one of the moving image, and there is no inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from warpzoo.errors import Finding, warning
from warpzoo.geometry.jacobian import corner_determinants
from warpzoo.geometry.sampling import inside_of
from warpzoo.geometry.transforms import POINTS_AT_ONCE, Affine, DisplacementField, SearchedInverse, Transform
from warpzoo.images.image import Image
from warpzoo.images.resampling import Resampling

NOT_FOUND = 0.5
"""Voxels of the moving image by which going there and back misses where there is no inverse."""
EXACT = 0.01
"""Voxels of the fixed image up to which an inverse is searched."""


@dataclass(frozen=True)
class Inverse:
    """The inverse of a transform between two images."""

    forward: Transform
    fixed: Image
    moving: Image
    resampling: Resampling = Resampling()

    @cached_property
    def transform(self) -> Affine | DisplacementField:
        """A matrix if the transform is one, else the displacement at the voxels of the moving image."""
        inverse = self.forward.inverse()
        if isinstance(inverse, Affine):
            return inverse
        exact = SearchedInverse(self.forward, EXACT, near=inverse)
        with torch.no_grad():
            return DisplacementField(exact.field(self.moving.grid).float(), self.moving.grid)

    @cached_property
    def warped(self) -> Image:
        """The fixed image on the moving image's grid."""
        return self.resampling(self.fixed, self.transform, self.moving)

    @cached_property
    def miss(self) -> Tensor:
        """How far each voxel of the moving image is from itself after going there and back, in voxels, (*shape); NaN
        where that leads out of the fixed image."""
        grid, parts = self.moving.grid, []
        with torch.no_grad():
            for voxels in grid.coordinates(torch.float64).split(POINTS_AT_ONCE):
                places = self.transform.world(grid.to_world(voxels))[0]
                reached = grid.to_voxels(self.forward.world(places)[0])
                inside = inside_of(self.fixed.grid.to_voxels(places).mT[None], list(self.fixed.grid.shape))[0, 0]
                distance = torch.linalg.vector_norm(reached - voxels, dim=1).float()
                parts.append(distance.masked_fill(~inside, torch.nan))
        return torch.cat(parts).unflatten(0, grid.shape)

    @cached_property
    def missing(self) -> Tensor:
        """The voxels of the moving image, (1, *shape), at which there is no inverse, 1, or there is, 0."""
        from scipy.ndimage import binary_closing  # slow to import

        grid = self.moving.grid
        missing = (self.miss > NOT_FOUND).long()
        with torch.no_grad():
            determinants = corner_determinants(self.forward.field(self.fixed.grid))
            folded = (determinants <= 0).any(1)[0].nonzero().double() + 0.5  # the middles of the cells
            for cells in folded.split(POINTS_AT_ONCE) if len(folded) else ():
                there = grid.to_voxels(self.forward.world(self.fixed.grid.to_world(cells))[0]).round().long()
                inside = ((there >= 0) & (there < torch.tensor(grid.shape))).all(1)
                missing[tuple(there[inside].T)] = 1
        # where cells are stretched, voxels lie between those that their middles go to
        closed = binary_closing(missing.numpy(), np.ones([3] * grid.dims), iterations=2)
        return (missing > 0).logical_or(torch.from_numpy(closed)).long()[None]

    @property
    def metrics(self) -> dict[str, float]:
        """The mean distance by which going there and back misses, in voxels of the moving image, and the share of them
        that have no inverse."""
        return {
            "inverse_error": float(self.miss[self.missing[0] == 0].nanmean().nan_to_num()),
            "inverse_missing": float(self.missing.float().mean()),
        }

    @property
    def findings(self) -> list[Finding]:
        if not (count := int(self.missing.sum())):
            return []
        message = f"the inverse does not exist at {count} voxels of the moving image, where the transform folds."
        return [warning(message, "They are 1 in inverse_missing.nii.gz; svf gives transforms that have an inverse.")]
