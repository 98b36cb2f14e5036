"""What steers the registration of a pair beside its two images: masks of where to compare them, and landmarks.

Convention: a voxel counts where a mask is above 0. A voxel of the fixed image is compared if it lies in the fixed mask
and its place in the moving image lies in the moving mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from warpzoo.errors import Finding, warning
from warpzoo.geometry.composition import identity
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Transform, resample
from warpzoo.images.content import finite
from warpzoo.images.image import Image
from warpzoo.transforms.landmarks import Landmarks

ROUNDED = 1e-5
"""What a sum of the weights of an interpolation may lack."""


@dataclass(frozen=True)
class Guidance:
    """What steers the registration of a pair.

    masks: of "fixed" and "moving", one channel each, on any grid.
    points: landmarks of "fixed" and "moving", in corresponding order.
    landmarks_weight: of the mean squared distance of corresponding landmarks, in voxels of the fixed image (its finest
        spacing), beside the similarity that rigid, affine, ffd, svf and refinement maximise.
    """

    masks: Mapping[str, Image] = field(default_factory=dict)
    points: Mapping[str, Landmarks] = field(default_factory=dict)
    landmarks_weight: float = 0.0

    def __post_init__(self) -> None:
        weight = self.landmarks_weight
        if isinstance(weight, (bool, str)) or not 0 <= weight < float("inf"):
            raise ValueError(f"landmarks_weight must be a number, 0 or more, got {weight!r}.")
        if weight and {"fixed", "moving"} - set(self.points):
            raise ValueError(
                f"fixed_points and moving_points must be given for landmarks_weight, got {weight} without."
            )

    @property
    def steers(self) -> bool:
        """Whether there is anything that steers."""
        return bool(self.masks) or self.landmarks_weight > 0

    @property
    def turned(self) -> Guidance:
        """The same for the pair the other way round."""
        other = {"fixed": "moving", "moving": "fixed"}
        masks = {other[side]: mask for side, mask in self.masks.items()}
        return replace(self, masks=masks, points={other[side]: points for side, points in self.points.items()})

    def fitted(self, fixed: Image, moving: Image) -> tuple[Guidance, list[Finding]]:
        """The masks as 0 and 1 on their images' grids, and what there is to say about that."""
        findings, masks = [], {}
        for side, image in (("fixed", fixed), ("moving", moving)):
            if side not in self.masks:
                continue
            mask = self.masks[side]
            name, dims = mask.header.path, image.grid.dims
            if mask.grid.dims != dims:
                raise ValueError(f"{name} must be {dims}-D as {image.header.path} is, got a {mask.grid.dims}-D mask.")
            counts = (mask.array[:1] > 0).float()
            if not bool(counts.any()):
                raise ValueError(f"{name} must have a voxel above 0, got an empty mask.")
            if mask.grid != image.grid:
                counts = resample(counts[None], mask.grid, identity(image.grid), image.grid, mode="nearest")[0]
                if not bool(counts.any()):
                    raise ValueError(f"{name} must have a voxel above 0 in {image.header.path}, got none there.")
                findings.append(
                    warning(
                        f"{name} has another grid than {image.header.path}: it was resampled to it by the headers.",
                        "Look whether it lies where it should.",
                    )
                )
            masks[side] = replace(mask, array=counts, grid=image.grid)
        return replace(self, masks=masks), findings

    def mask(self, side: str) -> Tensor | None:
        """The fitted mask of a side, (1, 1, *spatial) of 0 and 1; None if all counts."""
        return self.masks[side].array[None] if side in self.masks else None

    def seen(self, side: str, image: Image) -> Image:
        """The image of a side without the values that are NaN or infinite, if all of them lie where it does not count:
        its least value is there instead."""
        mask, broken = self.mask(side), ~image.array.isfinite()
        if mask is None or not bool(broken.any()) or bool((broken & (mask[0] > 0)).any()):
            return image
        return replace(image, array=finite(image.array))

    def on_grid(self, grid: Grid, fixed: Image, moving: Image, transform: Transform | None) -> Tensor | None:
        """Where the moving image, seen through a transform, and the fixed one count on a grid: (1, 2, *grid) of 0 and
        1; None without masks."""
        if not self.masks:
            return None
        seen = []
        for side, image, way in (("moving", moving, transform), ("fixed", fixed, None)):
            mask = self.mask(side)
            counts = torch.ones(1, 1, *image.grid.shape) if mask is None else mask
            way = way or identity(grid)
            there = resample(counts, image.grid, way, grid, mode="nearest")
            if mask is not None:  # between voxels, an image is seen where none that does not count has a part in it
                whole = there * (resample(counts, image.grid, way, grid, padding="border") > 1 - ROUNDED)
                there = whole if bool(whole.any()) else there
            seen.append(there)
        return torch.cat(seen, 1)
