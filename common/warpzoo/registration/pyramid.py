"""A pair of images from coarse to fine, and where the voxels of the fixed one lie in the moving one at each level.

Convention: a displacement is in voxels of the level's own fixed grid, (batch, dims, *shape). A level's matrix takes the
voxels of its fixed grid to those of its moving grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import ceil, prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from warpzoo.geometry.chunks import slabs
from warpzoo.geometry.composition import split
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import displacement_at, inside_of, sample, sample_unchecked, voxel_coordinates
from warpzoo.geometry.separable import along_axes
from warpzoo.geometry.transforms import DisplacementField, Transform, Velocity
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.tiles import MARGIN, Region, of_region

SMALLEST_SIDE = 8
"""Voxels of a side below which it is not halved any more."""
AT_ONCE = 2**23
"""Voxels of a level that is worked on whole, at most; larger ones are in tiles."""


class ImagePyramid:
    """Two images, (1, channels, *spatial), each channel with zero mean and unit variance, and what is known of the
    transform between them.

    `start` is where the fixed points lie in the moving space, as far as is known. What lies outside a mask is replaced
    by a smooth continuation of what lies inside, so that nothing of it is seen at coarse levels or in windows. `seen`
    says what of each image is compared at a level, if not its intensities.
    """

    def __init__(
        self,
        fixed: Tensor,
        fixed_grid: Grid,
        moving: Tensor,
        moving_grid: Grid,
        start: Transform | None = None,
        guidance: Guidance | None = None,
        resolution: float | None = None,
        seen: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        known = guidance or Guidance()
        self.resolution, self.seen = resolution, seen
        masks = [None if (mask := known.mask(side)) is None else mask.to(fixed.device) for side in ("fixed", "moving")]
        self.fixed_mask, self.moving_mask = masks
        self.guidance = known
        self.fixed, self.moving = _standardised(fixed, masks[0]), _standardised(moving, masks[1])
        self.fixed_grid, self.moving_grid = fixed_grid, moving_grid
        self.start, self.world = split(start, fixed_grid.dims)
        if isinstance(self.start, Velocity):  # its flow, once
            self.start = DisplacementField(self.start.field().detach(), self.start.grid)
        whole = finest_at_once(fixed_grid)
        self.field = None if self.start is None else self.start.field(whole).detach().to(self.fixed)

    def steps(self, most: int, always: bool = False) -> list[list[float]]:
        """Its levels, see `pyramid`: down to `resolution` if that is given, of at most so many voxels if not, or
        always."""
        return pyramid(self.fixed_grid, most if always or self.resolution is None else None, self.resolution or 0.0)

    def level(self, steps: Sequence[float]) -> Level:
        """The pair with so many voxels of the fixed image in one along each axis, the moving one about as coarse."""
        images = self.images(steps)
        field = None
        if self.field is not None:
            ratio = np.array(self.field.shape[2:]) / images.grid.shape
            field = shrink(self.field, images.grid.shape) / _per_axis(ratio, self.field)
        return self._between(images, field)

    def images(self, steps: Sequence[float]) -> Images:
        """The images and masks of a level."""
        grid = coarser(self.fixed_grid, steps)
        moving_grid = coarser(self.moving_grid, steps_to(self.moving_grid, min(grid.spacing)))
        return Images(
            grid,
            shrink(self.fixed, grid.shape),
            shrink_mask(self.fixed_mask, grid.shape),
            moving_grid,
            shrink(self.moving, moving_grid.shape),
            shrink_mask(self.moving_mask, moving_grid.shape),
        )

    def part(self, images: Images, region: Region, reach: float) -> Level:
        """A region of a level, and what of the moving image lies there if it is displaced by up to `reach` voxels."""
        grid = images.grid.part(region)
        field = None if self.start is None else self.start.field(grid).detach().to(self.fixed)
        matrix = np.linalg.inv(images.moving_grid.affine) @ self.world @ grid.affine
        there = _box(Level(images.fixed, grid, images.moving, matrix, field), reach)
        seen = Images(
            grid,
            of_region(images.fixed, region),
            None if images.fixed_mask is None else of_region(images.fixed_mask, region),
            images.moving_grid.part(there),
            of_region(images.moving, there),
            None if images.moving_mask is None else of_region(images.moving_mask, there),
        )
        return self._between(seen, field, images)

    def _between(self, seen: Images, field: Tensor | None, whole: Images | None = None) -> Level:
        """What is to be compared, a part of the whole if that is given."""
        matrix = np.linalg.inv(seen.moving_grid.affine) @ self.world @ seen.grid.affine
        fixed, moving = seen.fixed, seen.moving
        if self.seen is not None:
            fixed, moving = self.seen(fixed), self.seen(moving)
        landmarks = self._landmarks(seen, whole)
        masks = seen.fixed_mask, seen.moving_mask
        thickness = max(thickness_of(grid) for grid in (seen.grid, seen.moving_grid))
        return Level(fixed, seen.grid, moving, matrix, field, *masks, landmarks, thickness)

    def _landmarks(self, seen: Images, whole: Images | None) -> LevelLandmarks | None:
        weight = self.guidance.landmarks_weight
        if not weight:
            return None
        ends = ((seen.grid, self.guidance.points["fixed"]), (seen.moving_grid, self.guidance.points["moving"]))
        here, there = (one.to_voxels(landmarks.points).mT[None].to(self.fixed) for one, landmarks in ends)
        if whole is not None:  # the landmarks there, which weigh as they do beside the whole image
            inside = inside_of(here, list(seen.grid.shape))[0, 0]
            weight *= float(inside.float().mean()) * prod(whole.grid.shape) / prod(seen.grid.shape)
            here, there = here[:, :, inside], there[:, :, inside]
            if not weight:
                return None
        unit = torch.tensor(seen.moving_grid.affine[:-1, :-1] / min(self.fixed_grid.spacing)).to(self.fixed)
        return LevelLandmarks(here, there, unit, weight)


class Images(NamedTuple):
    """Both images at one resolution, or a part of them, and their masks."""

    grid: Grid
    fixed: Tensor
    fixed_mask: Tensor | None
    moving_grid: Grid
    moving: Tensor
    moving_mask: Tensor | None


class LevelLandmarks(NamedTuple):
    """Corresponding landmarks at one resolution.

    fixed, moving: (1, dims, count) in voxels of the level's grids.
    unit: what takes differences in moving voxels to voxels of the fixed image, in its finest spacing.
    weight: of their mean squared distance.
    """

    fixed: Tensor
    moving: Tensor
    unit: Tensor
    weight: float


class Level:
    """A pair at one resolution: `warped(displacement)` and which voxels are compared; `thickness` as of
    `thickness_of`, of the image where it is larger."""

    def __init__(
        self,
        fixed: Tensor,
        grid: Grid,
        moving: Tensor,
        matrix: np.ndarray,
        field: Tensor | None,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
        landmarks: LevelLandmarks | None = None,
        thickness: float = 1.0,
    ) -> None:
        self.landmarks, self.thickness = landmarks, thickness
        self.fixed, self.grid, self.moving, self.matrix, self.field = fixed, grid, moving, matrix, field
        self.fixed_mask, self.moving_mask = fixed_mask, moving_mask
        self.linear = torch.tensor(matrix[:-1, :-1]).to(fixed)
        self.same = np.allclose(matrix, np.eye(len(matrix)), atol=1e-4)

    @property
    def is_flat(self) -> bool:
        """Whether there is nothing to see in one of both images."""
        return any(float(image.amax() - image.amin()) == 0 for image in (self.fixed, self.moving))

    def voxels(self, first: int = 0, last: int | None = None) -> Tensor:
        """The coordinates of the voxels of some planes, (1, dims, *shape); of all by default."""
        planes = (self.grid.shape[0] if last is None else last) - first
        voxels = voxel_coordinates([planes, *self.grid.shape[1:]], self.fixed.dtype, self.fixed.device)
        voxels[0] += first
        return voxels[None]

    def moved(self, points: Tensor) -> Tensor:
        """Points (batch, dims, *any) in voxels of the level through its matrix."""
        if self.same:
            return points
        shift = torch.tensor(self.matrix[:-1, -1]).to(points)
        return (torch.matmul(self.linear, points.flatten(2)) + shift[:, None]).reshape(points.shape)

    def coordinates(self, displacement: Tensor, first: int = 0) -> Tensor:
        """Where voxels lie in the moving image, (batch, dims, *shape), by the displacement, followed by the start, of
        the planes from `first` on."""
        points = self.voxels(first, first + displacement.shape[2]) + displacement
        if self.field is not None:
            points = points + sample_unchecked(self.field, points)
        return self.moved(points)

    def warped(self, displacement: Tensor, first: int = 0) -> Tensor:
        """The moving image on the fixed grid, in the planes from `first` on; its edge is repeated."""
        return sample_unchecked(self.moving, self.coordinates(displacement, first))

    def covered(self, displacement: Tensor) -> Tensor | None:
        """Which voxels are compared, (1, 1, *shape) of 0 and 1; None if all are."""
        counted = self.reached(displacement)
        if not bool(counted.any()) and (self.fixed_mask is not None or self.moving_mask is not None):
            raise ValueError(
                "masks must meet where the optimisation starts, got no voxel of the fixed mask in the moving one; "
                "begin with the method affine, or with an initial transform."
            )
        return None if bool(counted.all()) else counted.to(self.fixed)

    def reached(self, displacement: Tensor) -> Tensor:
        """The same as (1, 1, *shape) bool, even if none is."""
        parts = slabs(self.grid.shape, displacement.device)
        return torch.cat(
            [self.counted(self.coordinates(displacement[:, :, first:last], first), first) for first, last in parts], 2
        )

    def counted(self, coordinates: Tensor, first: int = 0) -> Tensor:
        """Which voxels of the planes from `first` on are compared if they lie there in the moving image,
        (batch, 1, *shape) bool."""
        inside = inside_of(coordinates, list(self.moving.shape[2:]))
        if self.fixed_mask is not None:
            inside = inside & (self.fixed_mask[:, :, first : first + inside.shape[2]] > 0)
        if self.moving_mask is not None:
            mask = self.moving_mask.expand(len(coordinates), *self.moving_mask.shape[1:])
            inside = inside & (sample(mask, coordinates, mode="nearest") > 0)
        return inside

    def apart(self, displacement: Tensor) -> Tensor | float:
        """What the landmarks' distance costs under a displacement (batch, dims, *shape), (batch,)."""
        if self.landmarks is None:
            return 0.0
        return self.landmarks_apart(self.landmarks.fixed + _at(displacement, self.landmarks.fixed))

    def landmarks_apart(self, points: Tensor) -> Tensor | float:
        """The same if the fixed landmarks go to these voxels of the level, (batch, dims, count), before the start."""
        if self.landmarks is None:
            return 0.0
        there = self.moved(points if self.field is None else points + _at(self.field, points))
        difference = torch.matmul(self.landmarks.unit, there - self.landmarks.moving)
        return self.landmarks.weight * difference.square().sum(1).mean(1)

    @cached_property
    def most(self) -> float:
        """How many voxels can be compared at most."""
        own = float(prod(self.grid.shape) if self.fixed_mask is None else self.fixed_mask.sum())
        if self.moving_mask is None:
            return own
        return min(own, float(self.moving_mask.sum() / torch.linalg.det(self.linear.double()).abs()))


def pyramid(grid: Grid, most: int | None, resolution: float = 0.0) -> list[list[float]]:
    """How many voxels become one along each axis, level by level, from the coarsest to one of at most `most` voxels.

    That one has the image's own resolution if the image is not larger, else just as much a coarser one as makes up for
    it; its voxels are not finer than `resolution`, a length in the world. Each level above halves the sides that are
    finest in the world, down to `SMALLEST_SIDE` voxels.
    """
    coarsest = max(size * side for size, side in zip(grid.shape, grid.spacing, strict=True)) / SMALLEST_SIDE
    if resolution > coarsest:
        raise ValueError(f"resolution must be at most {coarsest:.3g} for {grid}, got {resolution:g}.")
    target = max(min(grid.spacing), resolution)
    while True:
        finest = [max(1.0, target / spacing) for spacing in grid.spacing]
        excess = 0.0 if most is None else prod(coarser(grid, finest).shape) / most
        if excess <= 1:
            break
        target *= max(1.01, excess ** (1 / grid.dims))
    base, levels = coarser(grid, finest), [finest]
    target = min(base.spacing)
    while any(size / step >= 2 * SMALLEST_SIDE for size, step in zip(grid.shape, levels[-1], strict=True)):
        target *= 2
        steps = [one * more for one, more in zip(finest, steps_to(base, target), strict=True)]
        if steps != levels[-1]:
            levels.append(steps)
    return levels[::-1]


def finest_at_once(grid: Grid) -> Grid:
    """The grid of the finest level that is worked on whole, the image's own if it is not too large."""
    return coarser(grid, pyramid(grid, AT_ONCE)[-1])


def thickness_of(grid: Grid) -> float:
    """How many cubes, whose side is the finest of a voxel, make one: slices that are thick say as much less. Of flat
    images 1."""
    return prod(grid.spacing) / min(grid.spacing) ** grid.dims if grid.dims == 3 else 1.0


def steps_to(grid: Grid, target: float) -> list[int]:
    """The powers of two that bring each side's spacing nearest to the target without passing it."""
    steps = []
    for size, spacing in zip(grid.shape, grid.spacing, strict=True):
        step = 1
        while 2 * step * spacing <= target * 1.001 and size // (2 * step) >= SMALLEST_SIDE:
            step *= 2
        steps.append(step)
    return steps


def coarser(grid: Grid, steps: Sequence[float]) -> Grid:
    return grid.resized([ceil(size / step - 1e-6) for size, step in zip(grid.shape, steps, strict=True)])


def shrink(image: Tensor, shape: Sequence[int]) -> Tensor:
    """The image (batch, channels, *spatial) in fewer voxels of the same box, each the mean of what it covers."""
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    return along_axes(
        image, [_box_weights(old, new).to(image) for old, new in zip(image.shape[2:], shape, strict=True)]
    )


def shrink_mask(mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """A mask of 0 and 1 in fewer voxels: those that it fills by half, or as far as it fills any."""
    if mask is None:
        return None
    share = shrink(mask, shape)
    return (share >= share.max().clamp(max=0.5)).to(mask)


def continued(image: Tensor, mask: Tensor) -> Tensor:
    """The image where the mask is 1, and elsewhere a smooth continuation: means of what is there at coarser levels."""
    if bool(mask.all()):
        return image
    shape = [-(-size // 2) for size in image.shape[2:]]
    share = shrink(mask, shape)
    known = share > 0
    coarse = continued(shrink(image * mask, shape) / torch.where(known, share, torch.ones_like(share)), known.to(mask))
    mode = "bilinear" if image.dim() == 4 else "trilinear"
    return torch.where(mask > 0, image, F.interpolate(coarse, image.shape[2:], mode=mode, align_corners=False))


def _box(level: Level, reach: float) -> Region:
    """The voxels of the moving image in which the level lies, and so many of the level around them."""
    least, most = [], []
    for first, last in slabs(level.grid.shape, level.fixed.device):
        still = level.fixed.new_zeros(1, level.grid.dims, last - first, *level.grid.shape[1:])
        there = level.coordinates(still, first).flatten(2)[0]
        least.append(there.amin(1))
        most.append(there.amax(1))
    around = level.linear.abs().sum(1) * (reach + MARGIN)
    ends = torch.stack([torch.stack(least).amin(0) - around, torch.stack(most).amax(0) + around])
    return tuple(
        slice(max(0, min(int(low), size - MARGIN)), min(size, max(ceil(high) + 1, MARGIN)))
        for low, high, size in zip(*ends.tolist(), level.moving.shape[2:], strict=True)
    )


def _at(field: Tensor, points: Tensor) -> Tensor:
    """A field (1 or batch, dims, *shape) at points (batch, dims, count)."""
    return displacement_at(field.expand(len(points), *field.shape[1:]), points.mT).mT


def _box_weights(old: int, new: int) -> Tensor:
    """How much of each new voxel, (new, old), lies in each old one."""
    edges = torch.arange(new + 1, dtype=torch.float64) * (old / new)
    start = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    return overlap.clamp_min(0) * (new / old)


def _per_axis(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.tensor(values).to(like).view(-1, *[1] * (like.dim() - 2))


def _standardised(image: Tensor, mask: Tensor | None) -> Tensor:
    values = image.float()
    seen = values.flatten(2)[0]
    seen = (seen if mask is None else seen[:, mask.flatten() > 0]).mT
    deviation = seen.std(0)
    values = values - seen.mean(0).view(-1, *[1] * (image.dim() - 2))
    values = values / torch.where(deviation > 0, deviation, torch.ones_like(deviation)).view(
        -1, *[1] * (image.dim() - 2)
    )
    return values if mask is None else continued(values, mask)
