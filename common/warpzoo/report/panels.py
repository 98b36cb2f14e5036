"""What a plane shows: images side by side, in one another, and what the transform does there, as pictures in colour.

Convention: pictures are arrays (rows, columns[, 3]) uint8 with square pixels, of a size that fits a page. Overlays show
the moving image in orange and the fixed one in blue: where they agree the picture is grey.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from warpzoo.geometry.jacobian import corner_determinants, jacobian_determinant
from warpzoo.report.colours import BLUE_TO_RED, VIRIDIS
from warpzoo.report.planes import Plane

JACOBIAN_PART = (0.08, 0.92)
"""Of the colours: the darkest of both ends cannot be told from black, which marks folds."""


class Volumes(NamedTuple):
    """What a transform does to volume in one plane, (rows, columns)."""

    determinant: Tensor
    """The Jacobian determinant by central differences."""
    folds: Tensor
    """Whether it is not positive there, or in a cell that touches the voxel by one-sided differences."""


def fitted(plane: Plane, longest: int) -> tuple[int, int]:
    """Rows and columns of a picture of the plane whose longer side has `longest` pixels."""
    height, width = plane.size
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def grey(image: Tensor, plane: Plane, limits: tuple[float, float], longest: int) -> np.ndarray:
    """The plane of an image (*spatial), `limits` black and white."""
    low, high = limits
    values = ((plane.of(image.detach()).float() - low) / (high - low)).nan_to_num(0).clamp(0, 1)
    return resized((values * 255).round().byte().cpu().numpy(), fitted(plane, longest))


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in (rows, columns); averaged where it shrinks, with visible pixels where it grows much."""
    if picture.shape[:2] == size:
        return picture
    grows = min(size[0] / picture.shape[0], size[1] / picture.shape[1]) > 4
    how = Image.Resampling.NEAREST if grows else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), how))


def overlay(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Moving in orange, fixed in blue, their agreement in grey."""
    return np.stack([moving, moving // 2 + fixed // 2, fixed], axis=-1)


def checkerboard(moving: np.ndarray, fixed: np.ndarray, tiles: int = 9) -> np.ndarray:
    """Squares of the fixed image in turn with squares of the moving one, `tiles` along the longer side."""
    side = max(1, round(max(fixed.shape) / tiles))
    rows, columns = np.ogrid[: fixed.shape[0], : fixed.shape[1]]
    return np.where((rows // side + columns // side) % 2 == 0, fixed, moving)


def volumes(displacement: Tensor, plane: Plane) -> Volumes:
    """The Jacobian determinant in one plane of a displacement (dims, *spatial), from the plane and its neighbours."""
    slab, inside = plane.slab(displacement.detach())
    slab = slab[None].float()
    determinant = jacobian_determinant(slab)[0, 0]
    folds = (corner_determinants(slab) <= 0).any(1)[0]
    if plane.cut is not None:
        determinant, folds = determinant.select(plane.cut, inside), folds.any(plane.cut)
    touched = F.max_pool2d(F.pad(plane.lay(folds)[None, None].float(), (1, 1, 1, 1)), 2, stride=1)[0, 0] > 0
    determinant = plane.lay(determinant)
    return Volumes(determinant.cpu(), (touched | (determinant <= 0)).cpu())


def jacobian_limit(parts: list[Volumes]) -> float:
    """The factor shown in full colour, 2**limit and its inverse: the smallest of 1/4, 1/2, 1, 2 that 99 % fit in."""
    determinants = torch.cat([part.determinant.flatten() for part in parts])
    values = determinants[determinants > 0].log2().abs().numpy()
    extent = float(np.percentile(values, 99)) if len(values) else 2.0
    return next((limit for limit in (0.25, 0.5, 1.0) if extent <= limit), 2.0)


def jacobian_picture(part: Volumes, plane: Plane, limit: float, longest: int) -> np.ndarray:
    """Halved and doubled volumes equally blue and red, unchanged white, folds black."""
    size = fitted(plane, longest)
    logarithm = part.determinant.clamp(min=1e-6).log2().clamp(-limit, limit)
    low, high = JACOBIAN_PART
    coloured = BLUE_TO_RED((logarithm.numpy() / limit + 1) / 2 * (high - low) + low)
    picture = np.array(resized(coloured, size))
    # A fold of one voxel stays visible in a picture smaller than the image.
    folds = F.adaptive_max_pool2d(
        part.folds[None, None].float(), (min(size[0], part.folds.shape[0]), min(size[1], part.folds.shape[1]))
    )
    picture[F.interpolate(folds, size=size)[0, 0].numpy() > 0] = 0
    return picture


def magnitude(displacement: Tensor, plane: Plane, spacing: list[float]) -> np.ndarray:
    """Length of the displacement in one plane, in the unit of the spacing, (rows, columns)."""
    steps = plane.of(displacement.detach()).float().cpu()
    return (steps * steps.new_tensor(spacing)[:, None, None]).square().sum(0).sqrt().numpy()


def magnitude_picture(lengths: np.ndarray, plane: Plane, highest: float, longest: int) -> np.ndarray:
    return resized(VIRIDIS(lengths / max(highest, 1e-12)), fitted(plane, longest))


def grid_lines(displacement: Tensor, plane: Plane, lines: int = 24, points: int = 100) -> list[np.ndarray]:
    """Lines of a regular grid of the fixed image where the transform takes them: each (points, 2) of column and row.

    In voxels of the plane; `lines` along the longer side, as far apart in both directions.
    """
    rows, columns = plane.moved(displacement)
    gap = max(plane.size) / lines
    drawn = []
    for axis in (0, 1):
        step = max(1, round(gap / plane.spacing[axis]))
        start = (plane.shape[axis] - 1) % step // 2
        fine = max(1, plane.shape[1 - axis] // points)
        picked = np.unique([*range(0, plane.shape[1 - axis], fine), plane.shape[1 - axis] - 1])
        for at in range(start, plane.shape[axis], step):
            drawn.append(np.stack([columns.take(at, axis)[picked], rows.take(at, axis)[picked]], axis=1))
    return drawn
