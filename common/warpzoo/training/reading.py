"""Images for training as arrays: read as for inference, in one orientation and at one spacing.

Convention: images with a place in the world come in the order of RAS axes, at one spacing, so that equal places of two
arrays are comparable places; pictures in pixels and arrays come as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from warpzoo.files import FileError
from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Image, open_image, read_image
from warpzoo.images.orientation import SAME_SPACING, canonical, canonical_grid
from warpzoo.training.lists import Record

logger = logging.getLogger(__name__)


def images_of(record: Record) -> dict[str, Image]:
    """{"image"[, "label"]} of a record as they are stored, label maps in whole numbers; both on one grid."""
    images = {}
    for key in ("image", "label"):
        stored = record.get(key)
        if isinstance(stored, np.ndarray):
            array = torch.from_numpy(stored.astype(np.float32 if key == "image" else np.int64))[None]
            images[key] = Image.in_memory(array, Grid(stored.shape), record["id"], pixels=True)
        elif stored is not None:
            images[key] = read_image(stored, labels=key == "label")
    placed = [image for image in images.values() if not image.header.pixels]
    if len(placed) == 2 and placed[0].grid != placed[1].grid:
        raise FileError(
            f"{placed[1].header.path} must have the grid of {placed[0].header.path}, {placed[0].grid}, got "
            f"{placed[1].grid}."
        )
    return images


def arrays_of(record: Record, spacing: float | Sequence[float] | None = None) -> dict[str, Tensor]:
    """{"image"[, "label"]}, (1, *spatial), of a record; resampled to `spacing`, one number or one per RAS axis, if they
    have a place in the world: images linearly, label maps by the nearest voxel."""
    images = images_of(record).items()
    return {key: (one if one.header.pixels else canonical(one, spacing)).array for key, one in images}


def common_spacing(records: Sequence[Record]) -> tuple[float, ...] | None:
    """The median spacing along each RAS axis of the images with a place in the world, from their headers alone; None if
    all of them have it within 1 %, or none has a place in the world."""
    paths = [record["image"] for record in records if not isinstance(record["image"], np.ndarray)]
    headers = (open_image(path).header for path in paths)
    grids = [header.place()[0] for header in headers if not header.pixels]
    if len({grid.dims for grid in grids}) > 1:
        raise ValueError("data must list images of one number of axes, got 2-D and 3-D images.")
    if not grids:
        return None
    spacings = np.array([canonical_grid(grid).spacing for grid in grids])
    median = np.median(spacings, axis=0)
    if np.allclose(spacings, median, rtol=SAME_SPACING, atol=0):
        return None
    finest, coarsest, chosen = (np.round(one, 4).tolist() for one in (spacings.min(0), spacings.max(0), median))
    logger.warning(
        f"The {len(grids)} images have spacings from {finest} to {coarsest} mm; they are resampled to their median, "
        f"{chosen} mm."
    )
    return tuple(median.tolist())
