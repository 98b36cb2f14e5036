"""Nuclei by their contours, in the spirit of Sorokin et al.: the contour of one is taken to that of the other, and what
lies inside follows as an elastic body.

Convention: as in `placing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter1d, map_coordinates, zoom
from scipy.sparse import coo_matrix, csr_matrix, hstack, identity, kron, vstack
from scipy.sparse.linalg import spsolve

from warpzoo.classical.moments import bright, from_moments
from warpzoo.classical.placing import after, arrays_of, by_displacement, moved_by, package, smooth
from warpzoo.geometry.transforms import Transform
from warpzoo.images.image import Image

POINTS = 200
"""Of a contour."""
STEPS = 30
"""Of the contour towards the other one."""
SIDE = 64
"""Voxels along the longer side of the elastic body."""
COMPRESSION = 1.0
"""Lamé's λ / µ: how much the body resists a change of volume."""
HOLD = 100.0
"""Weight of the contour against the body."""


@dataclass(frozen=True)
class Contour:
    """`sigma` smooths the images before what is bright is parted from what is dark, in voxels."""

    sigma: float = 3.0
    name: str = "contour"
    linear: bool = False
    expectations: Mapping[str, Any] = field(default_factory=lambda: {"displacement": float("inf")})

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Any = None) -> Transform:
        measure = package(self.name, "skimage.measure")
        one, other = (smooth(image, self.sigma) for image in arrays_of(self.name, fixed, moving, start))
        mask, target = (bright(image).astype(np.float32) for image in (one, other))
        matrix = from_moments(mask, target)
        contours = measure.find_contours(np.pad(mask, 1), 0.5)
        points = max(contours, key=len)[:-1] - 1
        points = points[np.linspace(0, len(points), POINTS, endpoint=False).astype(int)]
        moves = _moved(points, moved_by(target, matrix) > 0.5) - points
        return by_displacement(after(matrix, _elastic(points, moves, mask.shape)), fixed.grid, start)


def _moved(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A closed contour where it comes to lie on that of a mask: down the distance to it, kept smooth."""
    distance = distance_transform_edt(~target) - distance_transform_edt(target)
    slopes = np.stack(np.gradient(distance))
    moves = np.zeros_like(points)
    for _ in range(STEPS):
        there = (points + moves).T
        length = map_coordinates(distance, there, order=1, mode="nearest")
        slope = np.stack([map_coordinates(one, there, order=1, mode="nearest") for one in slopes], 1)
        slope /= np.linalg.norm(slope, axis=1, keepdims=True).clip(1e-6)
        moves = gaussian_filter1d(moves - 0.5 * length[:, None] * slope, 2.0, axis=0, mode="wrap")
    return points + moves


def _elastic(points: np.ndarray, moves: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The displacement (2, *shape) of a body that moves so at these points: Navier's equation in least squares."""
    factor = max(1.0, max(shape) / SIDE)
    size = [max(8, round(side / factor)) for side in shape]
    scale = np.array([(new - 1) / (old - 1) for new, old in zip(size, shape, strict=True)])
    d0, d1 = kron(_slope(size[0]), identity(size[1])), kron(identity(size[0]), _slope(size[1]))
    # the energy's terms: gradients of both components, and the divergence
    count, root = size[0] * size[1], np.sqrt(COMPRESSION + 1)
    empty = csr_matrix((d0.shape[0], count)), csr_matrix((d1.shape[0], count))
    rows = [_beside(d0, empty[0]), _beside(d1, empty[1]), _beside(empty[0], d0), _beside(empty[1], d1)]
    inner0 = kron(identity(size[0] - 1), _mean(size[1])) @ d0
    inner1 = kron(_mean(size[0]), identity(size[1] - 1)) @ d1
    rows.append(root * _beside(inner0, inner1))
    at = _interpolating(points * scale, size)
    nothing = csr_matrix(at.shape)
    held = vstack([_beside(at, nothing), _beside(nothing, at)])
    stiff = vstack(rows)
    system = (stiff.T @ stiff + HOLD * held.T @ held + 1e-6 * identity(2 * count)).tocsc()
    found = spsolve(system, HOLD * held.T @ (moves * scale).T.ravel()).reshape(2, *size)
    return np.stack(
        [
            zoom(part, [old / new for new, old in zip(size, shape, strict=True)], order=1, grid_mode=False) / ratio
            for part, ratio in zip(found, scale, strict=True)
        ]
    ).astype(np.float32)


def _slope(size: int) -> Any:
    rows = np.arange(size - 1)
    ones = np.ones(size - 1)
    return coo_matrix(
        (np.concatenate([-ones, ones]), (np.concatenate([rows, rows]), np.concatenate([rows, rows + 1]))),
        (size - 1, size),
    )


def _mean(size: int) -> Any:
    return abs(_slope(size)) * 0.5


def _beside(one: Any, other: Any) -> Any:
    return hstack([one, other])


def _interpolating(points: np.ndarray, size: list[int]) -> Any:
    """The linear weights of the grid's voxels at points."""
    low = np.floor(points).astype(int).clip(0, np.array(size) - 2)
    part = points - low
    rows, columns, values = [], [], []
    for i in (0, 1):
        for j in (0, 1):
            rows.append(np.arange(len(points)))
            columns.append((low[:, 0] + i) * size[1] + low[:, 1] + j)
            values.append((part[:, 0] if i else 1 - part[:, 0]) * (part[:, 1] if j else 1 - part[:, 1]))
    return coo_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (len(points), size[0] * size[1])
    ).tocsr()
