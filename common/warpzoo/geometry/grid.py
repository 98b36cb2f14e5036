"""The sampling grid of an image: its shape and the matrix from its voxels to the world.

Convention: voxel centres are at whole numbers, index i along spatial axis i. The world is in millimetres and RAS+ as
in nibabel and MONAI (pixels where there is no header). Matrices are homogeneous, (dims + 1, dims + 1), float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.checks import check_points, check_spacing
from warpzoo.geometry.sampling import precise, voxel_coordinates

SAME_GRID = 1e-4
"""Two grids are equal if no corner differs by more, in voxels: headers are often written in float32."""


class Grid:
    """The shape of an image, 2-D or 3-D, and the matrix from voxels to the world; immutable.

    Args:
        shape: voxels along each axis.
        affine: voxel → world, (dims + 1, dims + 1); default: the identity, world coordinates are voxels.

    Example:
        >>> image = nibabel.load("brain.nii.gz")
        >>> grid = Grid(image.shape, image.affine)
    """

    def __init__(self, shape: Sequence[int], affine: Any = None) -> None:
        self._shape = tuple(int(size) for size in shape)
        if len(self._shape) not in (2, 3) or min(self._shape) < 1:
            raise ValueError(f"shape must be 2 or 3 sides of 1 voxel or more, got {tuple(shape)}.")
        if affine is None:
            affine = np.eye(self.dims + 1)
        elif isinstance(affine, Tensor):
            affine = affine.detach().cpu().numpy()
        self._affine = np.array(affine, dtype=np.float64)
        expected = (self.dims + 1, self.dims + 1)
        if self._affine.shape != expected:
            raise ValueError(f"affine must be {expected} for shape {self._shape}, got shape {self._affine.shape}.")
        linear, last = self._affine[:-1, :-1], self._affine[-1]
        if not np.isfinite(self._affine).all() or not np.allclose(last, np.eye(self.dims + 1)[-1]):
            raise ValueError(f"affine must be finite with a last row of 0 … 0 1, got {self._affine.tolist()}.")
        volume, box = abs(np.linalg.det(linear)), np.prod(np.linalg.norm(linear, axis=0))
        if not volume > 1e-6 * box:
            raise ValueError(f"affine must be invertible (its columns linearly independent), got {linear.tolist()}.")
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
        """The position of the first voxel's centre in the world."""
        return self._affine[:-1, -1]

    @property
    def centre(self) -> np.ndarray:
        """The position of the middle of the grid in the world."""
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
        """The same box divided into another number of voxels: its outer edges are unchanged, the spacing is not."""
        if len(shape) != self.dims or min(shape) < 1:
            raise ValueError(f"shape must be {self.dims} sides of 1 voxel or more, got {tuple(shape)}.")
        ratio = np.array(self._shape) / np.array(shape)
        return Grid(shape, self._affine @ _scale_and_shift(ratio, 0.5 * (ratio - 1)))

    def part(self, region: Sequence[slice]) -> Grid:
        """The grid of some of the voxels: those of slices with a start and a stop, each within its axis."""
        first = np.array([one.start for one in region], dtype=np.float64)
        shape = [one.stop - one.start for one in region]
        return Grid(shape, self._affine @ _scale_and_shift(np.ones(self.dims), first))

    def with_spacing(self, spacing: float | Sequence[float]) -> Grid:
        """A grid of another spacing with the same centre and nearly the same box: the number of voxels is rounded."""
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
            import nibabel

            text += f", axes {''.join(nibabel.aff2axcodes(self._affine))}"
        steps = np.abs(self.direction)
        if not np.allclose(steps, steps.round(), atol=1e-4):
            text += f", oblique: direction {np.round(self.direction, 4).tolist()}"
        return text + ")"


def voxels_between(source: Grid, target: Grid) -> np.ndarray:
    """The matrix that takes voxels of `source` to voxels of `target` at the same place in the world."""
    if source.dims != target.dims:
        raise ValueError(f"source and target must have the same number of axes, got {source} and {target}.")
    return np.linalg.solve(target.affine, source.affine)


def are_parallel(grid: Grid, other: Grid) -> bool:
    """Whether each axis of a grid runs along the same axis of another, in its direction or against it."""
    linear = voxels_between(grid, other)[:-1, :-1]
    return bool(np.allclose(linear, np.diag(linear.diagonal()), atol=1e-9))


def axis_positions(source: Grid, target: Grid) -> list[Tensor]:
    """Where the voxels of a grid lie along each axis of a grid parallel to it, in voxels of that, float64."""
    matrix = voxels_between(source, target)
    return [
        torch.arange(size, dtype=torch.float64) * matrix[axis, axis] + matrix[axis, -1]
        for axis, size in enumerate(source.shape)
    ]


def map_points(matrix: np.ndarray, points: Tensor, dim: int = -1) -> Tensor:
    """Points, components along `dim`, through a homogeneous matrix; in float32 or better, also under autocast."""
    return _mapped(matrix[:-1, :-1], matrix[:-1, -1], points, dim)


def map_vectors(matrix: np.ndarray, vectors: Tensor, dim: int = -1) -> Tensor:
    """Vectors, components along `dim`, through the linear part of a homogeneous matrix; as precise as `map_points`."""
    return _mapped(matrix[:-1, :-1], None, vectors, dim)


def _mapped(linear: np.ndarray, shift: np.ndarray | None, vectors: Tensor, dim: int) -> Tensor:
    # one component at a time: autocast would round a matrix product, and broadcasting takes dims times the memory
    components = precise(vectors).unbind(dim)
    mapped = []
    for number, row in enumerate(linear.tolist()):
        total = components[0] * row[0]
        for component, entry in zip(components[1:], row[1:], strict=True):
            total = total + component * entry
        mapped.append(total if shift is None else total + float(shift[number]))
    return torch.stack(mapped, dim)


def _scale_and_shift(scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    matrix = np.diag([*scale, 1.0])
    matrix[:-1, -1] = shift
    return matrix
