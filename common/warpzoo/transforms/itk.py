"""Transforms ↔ ITK's: a kind with its parameters and fixed parameters, which the files of ITK hold.

Convention: in memory a transform takes points of the fixed space to the moving space, in RAS; ITK's say the same in LPS
millimetres, so x and y change sign (F = diag(−1, −1, 1), in 2-D diag(−1, −1)): an affine holds F · M · F, and a
displacement of u voxels on a grid with matrix A is F · A · u.

ITK's B-splines and displacement fields move nothing outside their grid, ours go on as at the border.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.grid import Grid, map_points, voxels_between
from warpzoo.geometry.transforms import Affine, BSpline, DisplacementField, Transform
from warpzoo.images.image import flip_lps, from_lps, to_lps
from warpzoo.transforms.linear import PARAMETERS, linear

EDGE = 1e-4
"""Points this far (in control points) outside a B-spline's domain count as inside: rounding must not make holes."""


class ItkTransform(NamedTuple):
    """One transform as ITK stores it; `order` is that of a B-spline. Composites have no parameters of their own."""

    kind: str
    dims: int
    parameters: np.ndarray
    fixed: np.ndarray
    order: int = 3

    @classmethod
    def named(cls, name: str, parameters: Any = (), fixed: Any = ()) -> ItkTransform:
        """From a name such as `AffineTransform_double_3_3`, to which B-splines that are not cubic append an order."""
        kind, _, *rest = [*name.strip().split("_"), ""]
        numbers = [int(number) for number in rest if number] or [3, 3]
        order = numbers[2] if len(numbers) > 2 else 3
        if numbers[0] not in PARAMETERS or numbers[:2] != [numbers[0]] * 2:
            raise ValueError(f"a transform must map 2-D to 2-D or 3-D to 3-D points, got {name.strip()}")
        return cls(kind, numbers[0], np.asarray(parameters), np.asarray(fixed), order)

    @property
    def name(self) -> str:
        precision = "float" if self.parameters.dtype == np.float32 else "double"
        return f"{self.kind}_{precision}_{self.dims}_{self.dims}"

    @property
    def is_dense(self) -> bool:
        return self.kind.endswith("DisplacementFieldTransform")

    @property
    def is_read(self) -> bool:
        if self.kind == "BSplineTransform":
            return self.order in (2, 3)
        return self.is_dense or self.kind in PARAMETERS[self.dims]


class ItkDisplacementField(DisplacementField):
    """A dense field as ITK understands it: linear between voxels, and nothing moves outside its grid."""

    def displace(self, points: Tensor) -> Tensor:
        last = points.new_tensor(self.grid.shape) - 0.5
        inside = ((points >= -0.5) & (points < last)).all(-1, keepdim=True)
        return super().displace(points) * inside


class ItkBSpline(BSpline):
    """ITK's B-spline: control points (1, dims, *control), one at every voxel of `grid` and in its voxels.

    Nothing moves where a point is not within reach of order + 1 control points along every axis.
    """

    def __init__(self, control_points: Tensor, grid: Grid, order: int = 3) -> None:
        super().__init__(control_points, grid, 1, order)

    def displace(self, points: Tensor) -> Tensor:
        return super().displace(points) * self._domain(points)

    def _own_field(self) -> Tensor:
        return super()._own_field() * self._domain_on(self.grid)

    def _field_on(self, grid: Grid) -> Tensor:
        return super()._field_on(grid) * self._domain_on(grid)

    def _domain(self, points: Tensor) -> Tensor:
        margin = 0.5 * (self.order - 1) - EDGE
        last = points.new_tensor(self.grid.shape) - 1 - margin
        return ((points >= margin) & (points <= last)).all(-1, keepdim=True)

    def _domain_on(self, grid: Grid) -> Tensor:
        points = grid.coordinates(torch.float64, self.control_points.device)
        return self._domain(map_points(voxels_between(grid, self.grid), points)).reshape(grid.shape)


def from_itk(stored: ItkTransform) -> Transform:
    """A transform whose kind `is_read`; float64 but for dense fields. Wrong numbers are a ValueError."""
    kind, dims, parameters, fixed, order = stored
    if kind in PARAMETERS[dims]:
        return _affine(stored)
    _check_count(kind, "fixed parameters", fixed, dims * (dims + 3))
    grid = _grid(fixed, dims)
    _check_count(kind, "parameters", parameters, dims * int(np.prod(grid.shape, dtype=object)))
    if kind == "BSplineTransform":
        vectors = torch.from_numpy(parameters.astype(np.float64)).reshape(dims, *reversed(grid.shape))
        vectors = vectors.permute(0, *range(dims, 0, -1))
        return ItkBSpline(map_field(_from_lps(grid), vectors)[None], grid, order)
    vectors = torch.from_numpy(np.ascontiguousarray(parameters, np.float32)).reshape(*reversed(grid.shape), dims)
    return field_from_lps(vectors.permute(dims, *reversed(range(dims))), grid)


def itk_affine(matrix: np.ndarray) -> ItkTransform:
    """A matrix (dims + 1, dims + 1) from fixed to moving world, RAS."""
    dims = matrix.shape[0] - 1
    lps = flip_lps(dims) @ matrix @ flip_lps(dims)
    parameters = np.concatenate([lps[:dims, :dims].ravel(), lps[:dims, dims]])
    return ItkTransform("AffineTransform", dims, parameters, np.zeros(dims))


def itk_displacement(displacement: Tensor, affine: np.ndarray) -> ItkTransform:
    """A displacement (dims, *shape) in LPS millimetres at the voxels of a grid with this matrix to RAS, in float32."""
    dims = displacement.shape[0]
    vectors = displacement.detach().cpu().float().permute(*range(dims, 0, -1), 0).reshape(-1).numpy()
    return ItkTransform("DisplacementFieldTransform", dims, vectors, _fixed_of(displacement.shape[1:], affine))


def itk_bspline(transform: BSpline) -> ItkTransform:
    """A cubic B-spline; two more rings of control points, copies of the outermost ones, cover the whole grid."""
    grid, spacing, rings = transform.grid, np.array(transform.spacing), 2
    points = transform.control_points.detach().cpu().double()
    if isinstance(transform, ItkBSpline):
        rings = 0
    for axis, size in enumerate(points.shape[2:], start=2):
        points = points.index_select(axis, torch.arange(-rings, size + rings).clamp(0, size - 1))
    lattice = np.diag([*spacing, 1.0])
    lattice[:-1, -1] = 0.5 * (spacing - 1) - rings * spacing
    vectors = map_field(flip_lps(grid.dims) @ grid.affine, points[0])
    parameters = vectors.permute(0, *range(grid.dims, 0, -1)).reshape(-1).numpy()
    return ItkTransform("BSplineTransform", grid.dims, parameters, _fixed_of(points.shape[2:], grid.affine @ lattice))


def field_from_lps(vectors: Tensor, grid: Grid) -> ItkDisplacementField:
    """Vectors (dims, *shape) in LPS millimetres on a grid."""
    return ItkDisplacementField(voxels_from_lps(vectors, grid)[None], grid)


def voxels_from_lps(vectors: Tensor, grid: Grid) -> Tensor:
    """Vectors (dims, *shape) in LPS millimetres → in voxels of their grid."""
    return map_field(_from_lps(grid), vectors)


def map_field(matrix: np.ndarray, field: Tensor) -> Tensor:
    """The linear part of a homogeneous matrix on vectors (dims, *shape), in float32 or better."""
    field = field if field.dtype == torch.float64 else field.float()
    return (torch.tensor(matrix[:-1, :-1]).to(field) @ field.flatten(1)).reshape(field.shape)


def _affine(stored: ItkTransform) -> Affine:
    kind, dims, parameters, fixed, _ = stored
    _check_count(kind, "parameters", parameters, PARAMETERS[dims][kind])
    _check_count(kind, "fixed parameters", fixed, *({0, dims, 4} if "Euler3D" in kind else {0, dims}))
    matrix, translation, centre = linear(kind, dims, parameters.astype(np.float64), fixed.astype(np.float64))
    world = from_lps(matrix, [1.0] * dims, translation + centre - matrix @ centre) @ flip_lps(dims)
    return Affine.from_world(torch.from_numpy(world[None, :dims]), Grid([2] * dims))


def _check_count(kind: str, what: str, values: np.ndarray, *counts: int) -> None:
    if values.size not in counts or values.ndim != 1:
        expected = " or ".join(map(str, sorted(counts)))
        raise ValueError(f"{what} of {kind} must be {expected} numbers, got {values.size}")
    if not np.isfinite(values).all():
        raise ValueError(f"{what} of {kind} must be finite, got NaN or infinity")


def _grid(fixed: np.ndarray, dims: int) -> Grid:
    """Size, origin, spacing and direction, as ITK lines them up."""
    size, origin, spacing, direction = np.split(fixed.astype(np.float64), [dims, 2 * dims, 3 * dims])
    return Grid([round(side) for side in size.tolist()], from_lps(direction.reshape(dims, dims), spacing, origin))


def _fixed_of(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    direction, spacing, origin = to_lps(affine)
    return np.concatenate([shape, origin, spacing, direction.ravel()])


def _from_lps(grid: Grid) -> np.ndarray:
    return np.linalg.inv(flip_lps(grid.dims) @ grid.affine)
