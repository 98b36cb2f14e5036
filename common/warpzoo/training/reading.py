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
    """{"image"[, "label"]} of a record as they are stored, label maps in whole numbers; both on one grid, but for the
    order and direction of its axes."""
    images = {}
    for key in ("image", "label"):
        stored = record.get(key)
        if isinstance(stored, np.ndarray):
            if key == "label" and not np.array_equal(stored, np.trunc(stored)):
                raise FileError(f"{record['id']} must have a label map of whole numbers, got fractions.")
            array = torch.from_numpy(stored.astype(np.float32 if key == "image" else np.int64))[None]
            images[key] = Image.in_memory(array, Grid(stored.shape), record["id"], pixels=True)
        elif stored is not None:
            images[key] = read_image(stored, labels=key == "label")
    if len(images) == 2 and not _one_grid(*images.values()):
        image, label = images.values()
        raise FileError(
            f"{label.header.path} must have the grid of {image.header.path}, {image.grid}, got {label.grid}."
        )
    return images


def _one_grid(image: Image, label: Image) -> bool:
    """Whether they lie on one another once their axes are in one order; of one in pixels only the size is known."""
    if image.header.pixels != label.header.pixels:
        placed = label if image.header.pixels else image
        return image.grid.shape == label.grid.shape and canonical_grid(placed.grid) == placed.grid
    grids = (one.grid if one.header.pixels else canonical_grid(one.grid) for one in (image, label))
    return next(grids) == next(grids)


def arrays_of(record: Record, spacing: float | Sequence[float] | None = None) -> dict[str, Tensor]:
    """{"image"[, "label"]}, (1, *spatial), of a record; resampled to `spacing`, one number or one per RAS axis, if they
    have a place in the world: images linearly, label maps by the nearest voxel."""
    images = images_of(record).items()
    return {key: (one if one.header.pixels else canonical(one, spacing)).array for key, one in images}


def common_spacing(records: Sequence[Record]) -> tuple[float, ...] | None:
    """The median spacing along each RAS axis of the images with a place in the world, from their headers alone: of two
    in the middle the finer, so that it is always one that is there. None if all of them have it within 1 %, or none has
    a place in the world."""
    paths = [record["image"] for record in records if not isinstance(record["image"], np.ndarray)]
    headers = (open_image(path).header for path in paths)
    grids = [header.place()[0] for header in headers if not header.pixels]
    if len({grid.dims for grid in grids}) > 1:
        raise ValueError("data must list images of one number of axes, got 2-D and 3-D images.")
    if not grids:
        return None
    spacings = np.array([canonical_grid(grid).spacing for grid in grids])
    median = np.percentile(spacings, 50, axis=0, method="lower")
    if np.allclose(spacings, median, rtol=SAME_SPACING, atol=0):
        return None
    finest, coarsest, chosen = (np.round(one, 4).tolist() for one in (spacings.min(0), spacings.max(0), median))
    logger.warning(
        f"The {len(grids)} images have spacings from {finest} to {coarsest} mm; they are resampled to their median, "
        f"{chosen} mm."
    )
    return tuple(median.tolist())
