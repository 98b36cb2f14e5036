"""A transform is a function on points of the fixed space: it maps each of them to the moving space.

`moving(transform(x)) ≈ fixed(x)`. Points (batch, count, dims) are in voxels of the transform's grid before and after;
`world` is the same map in world coordinates, in which transforms on different grids compose. Parameters are batched
tensors: constants, an `nn.Parameter` that is optimised for one pair, or the prediction of a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, check_image, check_points, check_same_device
from warpzoo.geometry.affine import affine_field, check_matrix, compose_affine, half_longest_side, invert_affine
from warpzoo.geometry.bspline import (
    bspline_at,
    bspline_field,
    bspline_on_axes,
    check_control_points,
    check_order,
    control_positions,
)
from warpzoo.geometry.grid import Grid, are_parallel, axis_positions, map_points, map_vectors, voxels_between
from warpzoo.geometry.inversion import TOLERANCE, search_inverse
from warpzoo.geometry.jacobian import jacobian_determinant
from warpzoo.geometry.sampling import (
    axis_coordinates,
    check_sampling,
    cubic_sampler,
    displacement_at,
    label_sampler,
    precise,
    sample_unchecked,
    voxel_coordinates,
)
from warpzoo.geometry.separable import along_axes, linear_weights
from warpzoo.geometry.thin_plate_spline import check_landmarks, thin_plate_basis, thin_plate_coefficients
from warpzoo.geometry.velocity import SQUARINGS, check_squarings, integrate_velocity

POINTS_AT_ONCE = 2**16
VOXELS_AT_ONCE = 2**20
"""Of an image that is resampled, in whole planes."""


class Transform(nn.Module):
    """The base of all transforms; each defines `displace`, the displacement of points, or `displacer`."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def displace(self, points: Tensor) -> Tensor:
        """The displacement of points (batch, count, dims); a batch of one is broadcast."""
        return self.displacer()(points)

    def displacer(self) -> Callable[[Tensor], Tensor]:
        """`displace` for many calls: whatever does not depend on the points is computed once, here."""
        return self.displace

    def forward(self, points: Tensor) -> Tensor:
        """Points (count, dims) or (batch, count, dims) in voxels of the grid → (batch, count, dims), also in voxels."""
        points = self._batch(points)
        return points + self.displace(points)

    def world(self, points: Tensor) -> Tensor:
        """Points (count, dims) or (batch, count, dims) in the world → (batch, count, dims), also in the world."""
        points = self._batch(points)
        return points + map_vectors(self.grid.affine, self.displace(self.grid.to_voxels(points)))

    def field(self, grid: Grid | None = None) -> Tensor:
        """The displacement (batch, dims, *shape) on any grid, in voxels of that grid."""
        if grid is None or grid == self.grid:
            return self._own_field()
        return self._field_on(grid)

    def inverse(self, tolerance: float = TOLERANCE) -> Transform:
        """The transform that maps points back: exact where a formula exists, else to `tolerance` voxels at any point.

        A searched inverse has a `residual`, which shows where none was found: see `SearchedInverse`.
        """
        return SearchedInverse(self, tolerance)

    def jacobian_determinant(self, grid: Grid | None = None) -> Tensor:
        """The change of volume at every voxel of a grid, (batch, 1, *shape); 0 or less where the transform folds."""
        return jacobian_determinant(self.field(grid))

    def _own_field(self) -> Tensor:
        return self._field_on(self.grid)

    def _field_on(self, grid: Grid) -> Tensor:
        matrix, displace = voxels_between(grid, self.grid), self.displacer()
        back = np.linalg.inv(matrix)
        parts = (map_vectors(back, displace(map_points(matrix, points))).mT for points in self._voxels(grid))
        return _joined(parts, 2, math.prod(grid.shape)).unflatten(2, grid.shape)

    def _voxels(self, grid: Grid) -> Iterator[Tensor]:
        """The voxels of a grid as points (1, count, dims), some at a time."""
        like = next(chain(self.parameters(), self.buffers()))
        for index in torch.arange(math.prod(grid.shape), device=like.device).split(POINTS_AT_ONCE):
            places: list[Tensor] = []
            for size in reversed(grid.shape):  # torch.unravel_index imports sympy
                places.insert(0, index % size)
                index = index // size
            yield torch.stack(places, -1).to(precise(like).dtype)[None]

    def _batch(self, points: Tensor) -> Tensor:
        check_points("points", points, self.grid.dims)
        return precise(points if points.dim() == 3 else points[None])

    def _hold(self, name: str, tensor: Tensor) -> None:
        """Registers an `nn.Parameter` as such and any other tensor as a buffer, which moves with the module."""
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(name, tensor)
        else:
            self.register_buffer(name, tensor)


class Affine(Transform):
    """A matrix (batch, dims, dims + 1) on coordinates centred in the grid and divided by half its longest side."""

    matrix: Tensor

    def __init__(self, matrix: Tensor, grid: Grid) -> None:
        super().__init__(grid)
        check_matrix("matrix", matrix, grid.dims)
        self._hold("matrix", matrix)

    @classmethod
    def from_parts(
        cls,
        grid: Grid,
        shear: Tensor | None = None,
        scale: Tensor | None = None,
        rotation: Tensor | None = None,
        translation: Tensor | None = None,
    ) -> Affine:
        """Shears a point first, then scales, rotates and translates it: see `compose_affine`."""
        return cls(compose_affine(shear, scale, rotation, translation), grid)

    @classmethod
    def from_world(cls, matrix: Tensor, grid: Grid) -> Affine:
        """From a matrix (batch, dims, dims + 1) of world coordinates."""
        check_matrix("matrix", matrix, grid.dims)
        to_world, to_unit = _units(grid, matrix.device)
        return cls((to_unit @ _homogeneous(matrix) @ to_world)[:, :-1].to(precise(matrix).dtype), grid)

    def world_matrix(self) -> Tensor:
        """The matrix (batch, dims, dims + 1) of world coordinates, in float64."""
        to_world, to_unit = _units(self.grid, self.matrix.device)
        return (to_world @ _homogeneous(self.matrix) @ to_unit)[:, :-1]

    def displace(self, points: Tensor) -> Tensor:
        matrix, dims = precise(self.matrix)[:, None], self.grid.dims
        change = matrix[..., :dims] - torch.eye(dims, dtype=matrix.dtype, device=matrix.device)
        centre = 0.5 * (torch.tensor(self.grid.shape, device=matrix.device) - 1)
        shift = half_longest_side(list(self.grid.shape)) * matrix[..., dims]
        return (change * (points - centre).unsqueeze(-2)).sum(-1) + shift

    def after(self, field: Tensor, grid: Grid) -> Tensor:
        """The displacement (batch, dims, *shape) on a grid of points that have gone through another one first, as
        precise as that one."""
        own = Affine.from_world(self.world_matrix(), grid).matrix.to(field.dtype)
        dims, ones = grid.dims, [1] * grid.dims
        entries = own - torch.eye(dims, dims + 1, dtype=own.dtype, device=own.device)
        entries = entries.reshape(-1, dims, 1, dims + 1, *ones)

        def components() -> Iterator[Tensor]:  # no more than two of them take memory at once
            for row in range(dims):
                total = field[:, row : row + 1] + half_longest_side(list(grid.shape)) * entries[:, row, :, dims]
                for axis, size in enumerate(grid.shape):
                    ramp = axis_coordinates(size, axis, dims, field.dtype, field.device) - 0.5 * (size - 1)
                    total = total + entries[:, row, :, axis] * ramp
                    total = torch.addcmul(total, entries[:, row, :, axis], field[:, axis : axis + 1])
                yield total

        return _joined(components(), 1, dims)

    def inverse(self, tolerance: float = TOLERANCE) -> Affine:
        """Exact; a singular matrix is a ValueError."""
        return Affine(invert_affine(self.matrix), self.grid)

    def _own_field(self) -> Tensor:
        return affine_field(self.matrix, list(self.grid.shape))

    def _field_on(self, grid: Grid) -> Tensor:
        voxels_between(grid, self.grid)  # refuses 2-D with 3-D
        return Affine.from_world(self.world_matrix().to(precise(self.matrix).dtype), grid)._own_field()


class BSpline(Transform):
    """Control points (batch, dims, *control) of a cubic or quadratic B-spline, one every `spacing` voxels of the grid.

    Outside the grid the displacement is that of the border.

    Example:
        >>> grid = Grid((64, 48))
        >>> control_points = nn.Parameter(torch.zeros(1, 2, *control_shape([64, 48], [8, 8])))
        >>> transform = BSpline(control_points, grid, spacing=[8, 8])  # its parameters() can be optimised
    """

    control_points: Tensor

    def __init__(self, control_points: Tensor, grid: Grid, spacing: int | list[int], order: int = 3) -> None:
        super().__init__(grid)
        self.spacing = [spacing] * grid.dims if isinstance(spacing, int) else list(spacing)
        self.order = check_order(order)
        check_control_points(control_points, list(grid.shape), self.spacing)
        self._hold("control_points", control_points)

    def displace(self, points: Tensor) -> Tensor:
        return bspline_at(self.control_points, _inside(points, self.grid), self.spacing, self.order)

    def _own_field(self) -> Tensor:
        return bspline_field(self.control_points, list(self.grid.shape), self.spacing, self.order)

    def _field_on(self, grid: Grid) -> Tensor:
        if not are_parallel(grid, self.grid):
            return super()._field_on(grid)
        positions = [  # one small matrix along each axis
            control_positions(at.to(precise(self.control_points)).clamp(0, size - 1), spacing)
            for at, size, spacing in zip(axis_positions(grid, self.grid), self.grid.shape, self.spacing, strict=True)
        ]
        field = bspline_on_axes(self.control_points, positions, self.order)
        return map_vectors(voxels_between(self.grid, grid), field, dim=1)


class ThinPlateSpline(Transform):
    """Landmarks (batch, count, dims) in voxels of the grid that move by a displacement (batch, count, dims)."""

    landmarks: Tensor
    displacement: Tensor

    def __init__(self, landmarks: Tensor, displacement: Tensor, grid: Grid) -> None:
        super().__init__(grid)
        check_landmarks("landmarks", landmarks)
        check_points("landmarks", landmarks, grid.dims)
        check_points("displacement", displacement, grid.dims)
        if landmarks.dim() != 3 or displacement.dim() != 3 or landmarks.shape[1] != displacement.shape[1]:
            raise ValueError(
                f"landmarks and displacement must be (batch, count, dims), one displacement for each landmark, got "
                f"{tuple(landmarks.shape)} and {tuple(displacement.shape)}."
            )
        self._hold("landmarks", landmarks)
        self._hold("displacement", displacement)

    def displacer(self) -> Callable[[Tensor], Tensor]:
        coefficients = thin_plate_coefficients(self.landmarks, self.displacement)
        return lambda points: (thin_plate_basis(points, self.landmarks) @ coefficients).to(points.dtype)


class DisplacementField(Transform):
    """A displacement (batch, dims, *shape) at every voxel of the grid; outside it is that of the border."""

    displacement: Tensor

    def __init__(self, displacement: Tensor, grid: Grid) -> None:
        super().__init__(grid)
        _check_on_grid("displacement", displacement, grid)
        self._hold("displacement", displacement)

    def displace(self, points: Tensor) -> Tensor:
        return _field_at(self.displacement, points)

    def _own_field(self) -> Tensor:
        return precise(self.displacement)


class Velocity(Transform):
    """A stationary velocity (batch, dims, *shape) in voxels per unit time; its flow over unit time is the displacement.

    The flow is found by scaling and squaring in 2**squarings steps: see `integrate_velocity`.
    """

    velocity: Tensor

    def __init__(self, velocity: Tensor, grid: Grid, squarings: int = SQUARINGS) -> None:
        super().__init__(grid)
        _check_on_grid("velocity", velocity, grid)
        check_squarings(squarings)
        self.squarings = squarings
        self._hold("velocity", velocity)

    def displacer(self) -> Callable[[Tensor], Tensor]:
        displacement = self._own_field()
        return lambda points: _field_at(displacement, points)

    def _field_on(self, grid: Grid) -> Tensor:
        if not are_parallel(grid, self.grid):
            return super()._field_on(grid)
        field = map_vectors(voxels_between(self.grid, grid), self._own_field(), dim=1)
        positions = axis_positions(grid, self.grid)
        weights = [linear_weights(at, size).to(field) for at, size in zip(positions, self.grid.shape, strict=True)]
        return along_axes(field, weights)

    def inverse(self, tolerance: float = TOLERANCE) -> Velocity:
        """The flow of the negative velocity: exact except for interpolation."""
        return Velocity(-self.velocity, self.grid, self.squarings)

    def _own_field(self) -> Tensor:
        return integrate_velocity(self.velocity, self.squarings)


class Composition(Transform):
    """Points go through the first transform, then the second, and so on; each may have a grid of its own.

    Its points are in voxels of `grid`, which is the first one's if none is given.

    Example:
        >>> fine_after_coarse = Composition(Affine(matrix, grid), DisplacementField(displacement, grid))
    """

    def __init__(self, *parts: Transform, grid: Grid | None = None) -> None:
        if not parts:
            raise ValueError("parts must be one transform or more, got none.")
        super().__init__(parts[0].grid if grid is None else grid)
        for part in parts:
            voxels_between(self.grid, part.grid)  # refuses 2-D with 3-D
        self._parts = nn.ModuleList(parts)

    @property
    def parts(self) -> list[Transform]:
        """In the order in which points go through them."""
        return [part for part in self._parts if isinstance(part, Transform)]

    def displacer(self) -> Callable[[Tensor], Tensor]:
        parts = [(voxels_between(self.grid, part.grid), part.displacer()) for part in self.parts]

        def displace(points: Tensor) -> Tensor:
            added = torch.zeros_like(points)
            for matrix, displace_part in parts:
                added = added + map_vectors(np.linalg.inv(matrix), displace_part(map_points(matrix, points + added)))
            return added

        return displace

    def _field_on(self, grid: Grid) -> Tensor:
        first, *others = self.parts
        field = first.field(grid)
        while others and isinstance(others[0], Affine):
            field = others[0].after(field, grid)
            others = others[1:]
        if not others:
            return field
        displace, points = Composition(*others, grid=grid).displacer(), field.flatten(2).mT

        def parts() -> Iterator[Tensor]:
            start = 0
            for voxels in self._voxels(grid):
                some = points[:, start : start + voxels.shape[1]]
                yield (some + displace(voxels + some)).mT
                start += voxels.shape[1]

        return _joined(parts(), 2, points.shape[1]).unflatten(2, grid.shape)

    def inverse(self, tolerance: float = TOLERANCE) -> Composition:
        """The inverses in reverse order; each searched part has a residual of its own."""
        return Composition(*[part.inverse(tolerance) for part in reversed(self.parts)], grid=self.grid)


class SearchedInverse(Transform):
    """The inverse of a transform without a formula for it, searched at each point when it is evaluated; from where
    `near`, if given, an inverse that is not exact, takes that point."""

    def __init__(self, transform: Transform, tolerance: float = TOLERANCE, near: Transform | None = None) -> None:
        super().__init__(transform.grid)
        self.transform = transform
        self.tolerance = tolerance
        self.near = None if near is None else Composition(near, grid=transform.grid)

    def displacer(self) -> Callable[[Tensor], Tensor]:
        displace = self.transform.displacer()
        if self.near is None:
            return lambda points: search_inverse(displace, points, self.tolerance)[0]
        start = self.near.displacer()
        return lambda points: search_inverse(displace, points, self.tolerance, start=start(points))[0]

    def inverse(self, tolerance: float = TOLERANCE) -> Transform:
        """The transform that was inverted."""
        return self.transform

    @property
    def residual(self) -> Tensor:
        """|t(t⁻¹(x)) − x| at each voxel x of the grid, (batch, 1, *shape) in voxels: above the tolerance where the
        search found no inverse, because the transform folds or maps nothing to x."""
        displace = self.transform.displacer()
        parts = (search_inverse(displace, points, self.tolerance)[1].mT for points in self._voxels(self.grid))
        return _joined(parts, 2, math.prod(self.grid.shape)).unflatten(2, self.grid.shape)


def resample(
    moving: Tensor,
    moving_grid: Grid,
    transform: Transform,
    fixed_grid: Grid,
    mode: str = "linear",
    padding: str = "constant",
    value: float = 0.0,
) -> Tensor:
    """The moving image (batch, channels, *spatial), from its own grid onto the fixed grid in one interpolation.

    `mode` is "linear", "nearest" (for images and labels), "label_linear" (labels with smoother borders) or "cubic" (no
    gradient, no padding "border"); see `sample`, `sample_labels` and `cubic_sampler`. Outside the moving image
    `padding="constant"` fills with `value` and "border" repeats its edge.
    Where no gradient is required the image is computed in slabs: beside the field and the result, memory is constant.
    """
    check_image("moving", moving)
    if tuple(moving.shape[2:]) != moving_grid.shape:
        raise ValueError(f"moving must have the shape of {moving_grid}, got {tuple(moving.shape)}.")
    displacement = transform.field(fixed_grid)
    check_same_device("moving", moving, "transform", displacement)
    batch = max(moving.shape[0], displacement.shape[0])
    moving, displacement = (part.expand(batch, *[-1] * (part.dim() - 1)) for part in (moving, displacement))
    if mode == "label_linear" or (mode == "nearest" and not moving.is_floating_point()):
        read = label_sampler(moving, mode.removeprefix("label_"), padding, int(value))
    elif mode == "cubic" and padding == "constant":
        read = cubic_sampler(moving, value)
    else:
        check_sampling(moving, mode, padding)
        read = partial(sample_unchecked, moving, mode=mode, padding=padding, value=value)
    matrix, shape = voxels_between(fixed_grid, moving_grid), fixed_grid.shape
    differentiable = torch.is_grad_enabled() and (moving.requires_grad or displacement.requires_grad)
    planes = shape[0] if differentiable else max(1, VOXELS_AT_ONCE * shape[0] // math.prod(shape))

    def slabs() -> Iterator[Tensor]:
        for first in range(0, shape[0], planes):
            slab = displacement[:, :, first : first + planes]
            voxels = voxel_coordinates(list(slab.shape[2:]), slab.dtype, slab.device)
            voxels[0] += first
            yield read(map_points(matrix, voxels + slab, dim=1))

    return _joined(slabs(), 2, shape[0])


def _joined(parts: Iterator[Tensor], dim: int, size: int) -> Tensor:
    """`torch.cat`; where no gradient is required, each part is written to the result and freed before the next."""
    first = next(parts)
    if first.shape[dim] == size or first.requires_grad:
        return torch.cat([first, *parts], dim)
    whole = first.new_empty([*first.shape[:dim], size, *first.shape[dim + 1 :]])
    start = 0
    for part in chain([first], parts):
        whole.narrow(dim, start, part.shape[dim]).copy_(part)
        start += part.shape[dim]
    return whole


def _inside(points: Tensor, grid: Grid) -> Tensor:
    """The nearest points of the grid."""
    last = torch.tensor(grid.shape, dtype=points.dtype, device=points.device) - 1
    return torch.minimum(points.clamp_min(0), last)


def _field_at(displacement: Tensor, points: Tensor) -> Tensor:
    batch = max(displacement.shape[0], points.shape[0])
    expanded = displacement.expand(batch, *displacement.shape[1:])
    return displacement_at(expanded, points.expand(batch, *points.shape[1:]))


def _units(grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """The coordinates of an affine's matrix → world, and world → those coordinates; in float64."""
    to_voxels = np.diag([*[half_longest_side(list(grid.shape))] * grid.dims, 1.0])
    to_voxels[:-1, -1] = 0.5 * (np.array(grid.shape) - 1)
    to_world = grid.affine @ to_voxels
    return torch.tensor(to_world, device=device), torch.tensor(np.linalg.inv(to_world), device=device)


def _homogeneous(matrix: Tensor) -> Tensor:
    last = torch.eye(matrix.shape[2], dtype=torch.float64, device=matrix.device)[-1:]
    return torch.cat([matrix.double(), last.expand(matrix.shape[0], 1, -1)], 1)


def _check_on_grid(name: str, field: Tensor, grid: Grid) -> None:
    check_displacement(name, field)
    if tuple(field.shape[2:]) != grid.shape:
        raise ValueError(
            f"{name} must be {(field.shape[0], grid.dims, *grid.shape)} on {grid}, got {tuple(field.shape)}."
        )
