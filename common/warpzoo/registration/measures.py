"""What can be measured of a registered pair: similarity, folding, overlap of labels, distance of landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.composition import identity
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, DisplacementField, Transform, resample
from warpzoo.images.image import Image
from warpzoo.losses import normalised_cross_correlation
from warpzoo.metrics import dice, folding, present_labels, target_registration_error
from warpzoo.transforms.landmarks import Landmarks


def reached(fixed: Grid, moving: Grid, displacement: DisplacementField) -> dict[str, Tensor]:
    """The voxels of the fixed image that lie in the moving one "before", by the headers alone, and "after", by the
    transform, (1, 1, *spatial)."""
    everywhere = torch.ones(1, 1, *moving.shape, dtype=torch.uint8)
    return {
        when: resample(everywhere, moving, way, fixed, mode="nearest") > 0
        for when, way in {"before": identity(fixed), "after": displacement}.items()
    }


def agreement(
    fixed: Image, before: Image, warped: Image, seen: Mapping[str, Tensor], inside: Tensor | None = None
) -> dict[str, float | None]:
    """Global correlation of the images on the fixed grid, before and after, of the voxels that are `reached`: 0 if none
    is; with a mask (1, 1, *spatial) also of those inside and outside it, None where there are none."""
    parts = {"": None} if inside is None else {"": None, "_inside": inside, "_outside": ~inside}
    numbers: dict[str, float | None] = {}
    for (part, mask), (when, image) in product(parts.items(), {"before": before, "after": warped}.items()):
        there = seen[when] > 0
        there = there if mask is None else there & mask
        name = f"ncc{part}{'_before' if when == 'before' else ''}"
        numbers[name] = correlation_of(fixed, image, there) if mask is None or bool(there.any()) else None
    return numbers


def correlation_of(fixed: Image, warped: Image, seen: Tensor) -> float:
    """Of the voxels that are seen; 0 if none is."""
    if not bool(seen.any()):
        return 0.0
    return float(normalised_cross_correlation(fixed.array[None], warped.array[None], seen))


def folds(transform: Transform, displacement: DisplacementField) -> dict[str, float]:
    """In what share of the fixed image the transform folds; `displacement` is the same on its grid."""
    if isinstance(transform, Affine):  # everywhere or nowhere
        everywhere = float(torch.linalg.det(transform.world_matrix()[0, :, :-1]) <= 0)
        return {"folding": everywhere, "folding_corners": everywhere}
    folded = folding(displacement.displacement)
    return {"folding": float(folded.central), "folding_corners": float(folded.forward)}


def overlap(fixed: Image, moving: Image, before: Image, warped: Image) -> dict[str, Any]:
    """Dice of every label of two label maps, and their mean, with the moving one on the fixed grid before and after;
    None where a label is in neither."""
    present = present_labels(moving.array, fixed.array)
    numbers: dict[str, Any] = {}
    for suffix, image in (("_before", before), ("", warped)):
        scores = dice(image.array[None], fixed.array[None], present)[0].tolist() if present else []
        known = [score for score in scores if not np.isnan(score)]
        numbers[f"dice{suffix}"] = {
            str(label): None if np.isnan(score) else score for label, score in zip(present, scores, strict=True)
        }
        numbers[f"dice{suffix}_mean"] = float(np.mean(known)) if known else None
    return numbers


def distance(fixed: Landmarks, moving: Landmarks, displacement: DisplacementField) -> dict[str, float]:
    """How far corresponding landmarks lie apart in the moving space, without and with the transform, on average."""
    return {
        name: float(target_registration_error(points, moving.points).mean())
        for name, points in (("tre_before", fixed.points), ("tre", displacement.world(fixed.points)[0]))
    }
