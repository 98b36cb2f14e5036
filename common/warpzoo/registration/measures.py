"""What can be measured of a registered pair: similarity, folding, overlap of labels, distance of landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np

from warpzoo.geometry.transforms import DisplacementField
from warpzoo.images.image import Image
from warpzoo.losses import normalised_cross_correlation
from warpzoo.metrics import dice, folding, present_labels, target_registration_error
from warpzoo.transforms.landmarks import Landmarks


def agreement(fixed: Image, before: Image, warped: Image, displacement: DisplacementField) -> dict[str, float]:
    """Global correlation of the images on the fixed grid, before and after, and where the transform folds."""
    folded = folding(displacement.displacement)
    return {
        "ncc_before": float(normalised_cross_correlation(fixed.array[None], before.array[None])),
        "ncc": float(normalised_cross_correlation(fixed.array[None], warped.array[None])),
        "folding": float(folded.central),
        "folding_corners": float(folded.forward),
    }


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
