"""What can be measured of a registered pair: similarity, folding, overlap of labels, distance of landmarks."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.transforms import Affine, DisplacementField, Transform
from warpzoo.images.image import Image
from warpzoo.losses import normalised_cross_correlation
from warpzoo.metrics import dice, folding, present_labels, target_registration_error
from warpzoo.transforms.landmarks import Landmarks


def agreement(fixed: Image, before: Image, warped: Image, inside: Tensor | None = None) -> dict[str, float | None]:
    """Global correlation of the images on the fixed grid, before and after; with a mask (1, 1, *spatial) also of the
    voxels inside and outside it, None where there are none."""
    parts = {"": None} if inside is None else {"": None, "_inside": inside, "_outside": ~inside}
    numbers: dict[str, float | None] = {}
    for (part, mask), (suffix, image) in product(parts.items(), (("_before", before), ("", warped))):
        empty = mask is not None and not bool(mask.any())
        measured = None if empty else float(normalised_cross_correlation(fixed.array[None], image.array[None], mask))
        numbers[f"ncc{part}{suffix}"] = measured
    return numbers


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
