"""What classical methods have in common: images as arrays on one grid, and what they find as transforms.

Convention: arrays (*spatial) have the axes of the image; a matrix (dims, dims + 1) takes voxels of the fixed image to
voxels of the moving one as it was placed on the fixed grid, and so does a displacement (dims, *spatial).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from warpzoo.classical import CLASSICAL
from warpzoo.geometry.composition import composed, identity
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, DisplacementField, Transform, resample
from warpzoo.images.image import Image


def package(method: str, module: str) -> Any:
    """The module of the method's package, which is optional."""
    try:
        return import_module(module)
    except ImportError:
        raise ValueError(
            f"{method} needs the package {CLASSICAL[method].package}, which is not installed: pip install "
            f"{CLASSICAL[method].package}, or 'warpzoo[classical]' for all such methods."
        ) from None


def arrays_of(method: str, fixed: Image, moving: Image, start: Transform | None) -> tuple[np.ndarray, np.ndarray]:
    """Both images on the fixed grid, float32; the moving one as the start places it."""
    if len(fixed.array) > 1 or not fixed.array.is_floating_point():
        raise ValueError(f"{method} must be given images of one channel, got {len(fixed.array)} or label maps.")
    if CLASSICAL[method].dims == "2-D" and fixed.grid.dims != 2:
        raise ValueError(f"{method} must be given 2-D images, got {fixed.grid.dims}-D: choose affine, demons or svf.")
    if start is None and moving.grid == fixed.grid:
        return fixed.array[0].numpy(), moving.array[0].numpy()
    with torch.no_grad():
        placed = resample(moving.array[None], moving.grid, start or identity(fixed.grid), fixed.grid, padding="border")
    return fixed.array[0].numpy(), placed[0, 0].numpy()


def by_matrix(matrix: np.ndarray, grid: Grid, start: Transform | None) -> Transform:
    """A matrix of voxels of the fixed grid, before the start."""
    square = np.vstack([matrix, np.eye(grid.dims + 1)[-1]])
    world = grid.affine @ square @ np.linalg.inv(grid.affine)
    return composed(Affine.from_world(torch.from_numpy(world[None, :-1]), grid), start)


def by_displacement(field: np.ndarray, grid: Grid, start: Transform | None) -> Transform:
    """A displacement in voxels of the fixed grid, before the start."""
    return composed(DisplacementField(torch.from_numpy(np.ascontiguousarray(field, np.float32))[None], grid), start)


def moved_by(image: np.ndarray, matrix: np.ndarray, field: np.ndarray | None = None) -> np.ndarray:
    """The image at the places of its voxels that a matrix, after a displacement, takes them to."""
    places = np.indices(image.shape, dtype=np.float32) + (0 if field is None else field)
    there = np.tensordot(matrix[:, :-1], places, 1) + matrix[:, -1].reshape(-1, *[1] * image.ndim)
    moved: np.ndarray = map_coordinates(image, there, order=1, mode="nearest")
    return moved


def after(matrix: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The displacement of a matrix that comes after a displacement."""
    own = np.indices(field.shape[1:], dtype=np.float32)
    there = np.tensordot(matrix[:, :-1], own + field, 1) + matrix[:, -1].reshape(-1, *[1] * len(field))
    whole: np.ndarray = there - own
    return whole


def swapped(matrix: np.ndarray) -> np.ndarray:
    """A matrix (2, 3) with its two axes exchanged: between rows first and columns first."""
    return matrix[[1, 0]][:, [1, 0, 2]]


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    smoothed: np.ndarray = gaussian_filter(image.astype(np.float32), sigma, mode="nearest")
    return smoothed


def as_bytes(image: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Images in 0 to 255, each between its own 1st and 99.8th percentile: bleaching does not move anything."""
    shown = []
    for one in (image, *others):
        low, high = np.percentile(one, (1, 99.8))
        shown.append((255 * ((one - low) / max(high - low, 1e-12)).clip(0, 1)).astype(np.uint8))
    return shown


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-12))
