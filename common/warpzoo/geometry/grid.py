"""Where samples lie: the shape of an image and the matrix from its voxels to the world.

Convention: voxel centres are at whole numbers, index i along spatial axis i. The world is in millimetres and RAS+ as
nibabel and MONAI have it (pixels where there is no header). Matrices are homogeneous, (dims + 1, dims + 1), float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor

from warpzoo.checks import check_points, check_spacing
from warpzoo.geometry.sampling import precise, voxel_coordinates

SAME_GRID = 1e-4
"""Two grids are equal if no corner is further apart than this, in voxels: headers are often written in float32."""


class Grid:
    """The shape of an image, 2-D or 3-D, and the matrix from voxels to the world; never changed once made.

    Args:
        shape: how many voxels each side has.
        affine: voxel → world, (dims + 1, dims + 1); None for the identity: world coordinates are voxels.

    Example:
        >>> image = nibabel.load("brain.nii.gz")
        >>> grid = Grid(image.shape, image.affine)
    """

    def __init__(self, shape: Sequence[int], affine: Any = None) -> None:
        self._shape = tuple(int(size) for size in shape)
        if len(self._shape) not in (2, 3) or min(self._shape) < 1:
            raise ValueError(f"shape is {tuple(shape)}; a grid wants 2 or 3 sides of 1 voxel or more.")
        wanted = (self.dims + 1, self.dims + 1)
        if affine is None:
            affine = np.eye(self.dims + 1)
        elif isinstance(affine, Tensor):
            affine = affine.detach().cpu().numpy()
        self._affine = np.array(affine, dtype=np.float64)
        if self._affine.shape != wanted:
            raise ValueError(f"affine has shape {self._affine.shape}; a grid of shape {self._shape} wants {wanted}.")
        linear, last = self._affine[:-1, :-1], self._affine[-1]
        if not np.isfinite(self._affine).all() or not np.allclose(last, np.eye(self.dims + 1)[-1]):
            raise ValueError(f"affine is {self._affine.tolist()}; it wants finite numbers and a last row of 0 … 0 1.")
        volume, box = abs(np.linalg.det(linear)), np.prod(np.linalg.norm(linear, axis=0))
        if not volume > 1e-6 * box:
            raise ValueError(
                f"affine is singular: {linear.tolist()}; its columns, the steps along the axes, want volume."
            )
        self._affine.flags.writeable = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def affine(self) -> np.ndarray:
        """Voxel → world, (dims + 1, dims + 1)."""
        return self._affine

    @property
    def dims(self) -> int:
        return len(self._shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """The distance between neighbouring voxels along each axis."""
        return tuple(np.linalg.norm(self._affine[:-1, :-1], axis=0).tolist())

    @property
    def direction(self) -> np.ndarray:
        """The unit vectors of the axes in the world, as columns."""
        return self._affine[:-1, :-1] / self.spacing

    @property
    def origin(self) -> np.ndarray:
        """Where the first voxel's centre lies in the world."""
        return self._affine[:-1, -1]

    @property
    def centre(self) -> np.ndarray:
        """Where the middle of the grid lies in the world."""
        return self._affine[:-1, :-1] @ (0.5 * (np.array(self._shape) - 1)) + self.origin

    def to_world(self, points: Tensor) -> Tensor:
        """Points (..., count, dims) in voxels → in the world."""
        check_points("points", points, self.dims)
        return map_points(self._affine, points)

    def to_voxels(self, points: Tensor) -> Tensor:
        """Points (..., count, dims) in the world → in voxels."""
        check_points("points", points, self.dims)
        return map_points(np.linalg.inv(self._affine), points)

    def coordinates(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """The centres of all voxels as points in voxels, (voxels, dims), the last axis fastest."""
        return voxel_coordinates(list(self._shape), dtype, torch.device(device)).flatten(1).t()

    def resized(self, shape: Sequence[int]) -> Grid:
        """The same box cut into other voxels: the outer edges of the voxels stay, spacing changes."""
        if len(shape) != self.dims or min(shape) < 1:
            raise ValueError(f"shape is {tuple(shape)}; it wants {self.dims} sides of 1 voxel or more.")
        ratio = np.array(self._shape) / np.array(shape)
        return Grid(shape, self._affine @ _scale_and_shift(ratio, 0.5 * (ratio - 1)))

    def with_spacing(self, spacing: float | Sequence[float]) -> Grid:
        """The box cut into voxels of another spacing, as many as fit best; the centre stays."""
        ratio = np.array(check_spacing("spacing", spacing, self.dims)) / self.spacing
        shape = np.maximum(np.round(self._shape / ratio), 1).astype(int)
        shift = 0.5 * (np.array(self._shape) - 1 - ratio * (shape - 1))
        return Grid(shape.tolist(), self._affine @ _scale_and_shift(ratio, shift))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid) or self._shape != other._shape:
            return False
        corners = np.stack(np.meshgrid(*[(0, size - 1) for size in self._shape]), -1).reshape(-1, self.dims)
        matrix = voxels_between(self, other)
        moved = corners @ matrix[:-1, :-1].T + matrix[:-1, -1]
        return bool(np.abs(moved - corners).max() < SAME_GRID)

    def __hash__(self) -> int:
        return hash(self._shape)

    def __repr__(self) -> str:
        def listed(numbers: Any) -> str:
            return ", ".join(f"{number:.6g}" for number in numbers)

        size = " × ".join(str(side) for side in self._shape)
        text = f"Grid({size} voxels, spacing ({listed(self.spacing)}), origin ({listed(self.origin)})"
        if self.dims == 3:
            text += f", axes {''.join(nibabel.aff2axcodes(self._affine))}"
        steps = np.abs(self.direction)
        if not np.allclose(steps, steps.round(), atol=1e-4):
            text += f", oblique: direction {np.round(self.direction, 4).tolist()}"
        return text + ")"


def voxels_between(source: Grid, target: Grid) -> np.ndarray:
    """The matrix that takes voxels of `source` to voxels of `target` at the same place in the world."""
    if source.dims != target.dims:
        raise ValueError(f"source is {source} and target {target}; they want the same number of axes.")
    return np.linalg.solve(target.affine, source.affine)


def map_points(matrix: np.ndarray, points: Tensor) -> Tensor:
    """Points (..., dims) through a homogeneous matrix, in float32 or better even under autocast."""
    return map_vectors(matrix, points) + torch.tensor(matrix[:-1, -1]).to(precise(points))


def map_vectors(matrix: np.ndarray, vectors: Tensor) -> Tensor:
    """Vectors (..., dims) through the linear part of a homogeneous matrix, in float32 or better even under autocast."""
    vectors = precise(vectors)
    return (vectors.unsqueeze(-2) * torch.tensor(matrix[:-1, :-1]).to(vectors)).sum(-1)


def _scale_and_shift(scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    matrix = np.diag([*scale, 1.0])
    matrix[:-1, -1] = shift
    return matrix
