"""A transform is a function on points of the fixed space: it says where in the moving space each of them lies.

`moving(transform(x)) ≈ fixed(x)`. Points (batch, count, dims) are in voxels of the transform's grid before and after;
`world` says the same in world coordinates, which is how transforms on different grids compose. Parameters are batched
tensors: fixed ones, an `nn.Parameter` that is optimised for the pair at hand, or what a network predicts.
"""

from __future__ import annotations

from collections.abc import Callable
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
from warpzoo.geometry.grid import Grid, map_points, map_vectors, voxels_between
from warpzoo.geometry.jacobian import jacobian_determinant
from warpzoo.geometry.sampling import displacement_at, precise, sample, sample_labels
from warpzoo.geometry.thin_plate_spline import check_landmarks, thin_plate_basis, thin_plate_coefficients
from warpzoo.geometry.velocity import integrate_velocity, search_inverse

POINTS_AT_ONCE = 2**16


class Transform(nn.Module):
    """What all transforms share; each says by `displace` what it adds to a point.

    `residual` is None except where `inverse` had to search: there it is how far each voxel of the grid misses itself
    after going back and there by the transform, |t(t⁻¹(x)) − x|, (batch, 1, *shape) in voxels.
    """

    residual: Tensor | None = None

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def displace(self, points: Tensor) -> Tensor:
        """What is added to points (batch, count, dims); a batch of one goes with any."""
        raise NotImplementedError

    def displacer(self) -> Callable[[Tensor], Tensor]:
        """`displace` for many calls: what does not depend on the points is solved or integrated here, once."""
        return self.displace

    def forward(self, points: Tensor) -> Tensor:
        """Points (count, dims) or (batch, count, dims) in voxels of the grid → (batch, count, dims), likewise."""
        points = self._batch(points)
        return points + self.displace(points)

    def world(self, points: Tensor) -> Tensor:
        """Points (count, dims) or (batch, count, dims) in the world → (batch, count, dims), likewise."""
        points = self._batch(points)
        return points + map_vectors(self.grid.affine, self.displace(self.grid.to_voxels(points)))

    def field(self, grid: Grid | None = None) -> Tensor:
        """The displacement (batch, dims, *shape) on any grid, in voxels of that grid."""
        if grid is None or grid == self.grid:
            return self._own_field()
        return self._field_on(grid)

    def inverse(self, tolerance: float = 1e-3) -> Transform:
        """The transform that takes points back: to `tolerance` at the voxels, as far as one exists.

        Between the voxels it is interpolated.
        """
        displace, some = self.displacer(), self._voxels(self.grid).split(POINTS_AT_ONCE, dim=1)
        searched = zip(*[search_inverse(displace, points, tolerance) for points in some], strict=True)
        displacement, residual = (
            torch.cat(parts, dim=1).transpose(1, 2).unflatten(2, self.grid.shape) for parts in searched
        )
        inverse = DisplacementField(displacement, self.grid)
        inverse.residual = residual
        return inverse

    def jacobian_determinant(self, grid: Grid | None = None) -> Tensor:
        """The change of volume at every voxel of a grid, (batch, 1, *shape); not above 0 where space folds."""
        return jacobian_determinant(self.field(grid))

    def _own_field(self) -> Tensor:
        return self._field_on(self.grid)

    def _field_on(self, grid: Grid) -> Tensor:
        matrix = voxels_between(grid, self.grid)
        points, displace = map_points(matrix, self._voxels(grid)), self.displacer()
        added = torch.cat([displace(some) for some in points.split(POINTS_AT_ONCE, dim=1)], dim=1)
        return map_vectors(np.linalg.inv(matrix), added).transpose(1, 2).unflatten(2, grid.shape)

    def _voxels(self, grid: Grid) -> Tensor:
        like = next(chain(self.parameters(), self.buffers()))
        return grid.coordinates(precise(like).dtype, like.device)[None]

    def _batch(self, points: Tensor) -> Tensor:
        check_points("points", points, self.grid.dims)
        return precise(points if points.dim() == 3 else points[None])

    def _hold(self, name: str, tensor: Tensor) -> None:
        """A parameter stays one; any other tensor becomes a buffer, which moves with the module."""
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
        """From what maps world to world coordinates, (batch, dims, dims + 1)."""
        check_matrix("matrix", matrix, grid.dims)
        to_world, to_unit = _units(grid, matrix.device)
        return cls((to_unit @ _homogeneous(matrix) @ to_world)[:, :-1].to(precise(matrix).dtype), grid)

    def world_matrix(self) -> Tensor:
        """What maps world to world coordinates, (batch, dims, dims + 1), in float64."""
        to_world, to_unit = _units(self.grid, self.matrix.device)
        return (to_world @ _homogeneous(self.matrix) @ to_unit)[:, :-1]

    def displace(self, points: Tensor) -> Tensor:
        matrix, dims = precise(self.matrix)[:, None], self.grid.dims
        change = matrix[..., :dims] - torch.eye(dims, dtype=matrix.dtype, device=matrix.device)
        centre = 0.5 * (torch.tensor(self.grid.shape, device=matrix.device) - 1)
        shift = half_longest_side(list(self.grid.shape)) * matrix[..., dims]
        return (change * (points - centre).unsqueeze(-2)).sum(-1) + shift

    def inverse(self, tolerance: float = 1e-3) -> Affine:
        """Exact; a singular matrix is a ValueError."""
        return Affine(invert_affine(self.matrix), self.grid)

    def _own_field(self) -> Tensor:
        return affine_field(self.matrix, list(self.grid.shape))


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
        matrix = voxels_between(grid, self.grid)
        scale, shift = matrix.diagonal()[:-1], matrix[:-1, -1]
        if not np.allclose(matrix[:-1, :-1], np.diag(scale), atol=1e-9):
            return super()._field_on(grid)
        like, positions = precise(self.control_points), []
        for axis, size in enumerate(grid.shape):  # the axes are parallel: one small matrix for each will do
            voxels = scale[axis] * torch.arange(size, dtype=like.dtype, device=like.device) + shift[axis]
            positions.append(control_positions(voxels.clamp(0, self.grid.shape[axis] - 1), self.spacing[axis]))
        field = bspline_on_axes(self.control_points, positions, self.order)
        return map_vectors(np.linalg.inv(matrix), field.movedim(1, -1)).movedim(-1, 1)


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
                f"landmarks has shape {tuple(landmarks.shape)} and displacement {tuple(displacement.shape)}; they want "
                "(batch, count, dims), one displacement for each landmark."
            )
        self._hold("landmarks", landmarks)
        self._hold("displacement", displacement)

    def displace(self, points: Tensor) -> Tensor:
        return self.displacer()(points)

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
    """A stationary velocity (batch, dims, *shape) in voxels per unit time, followed for unit time."""

    velocity: Tensor

    def __init__(self, velocity: Tensor, grid: Grid) -> None:
        super().__init__(grid)
        _check_on_grid("velocity", velocity, grid)
        self._hold("velocity", velocity)

    def displace(self, points: Tensor) -> Tensor:
        return self.displacer()(points)

    def displacer(self) -> Callable[[Tensor], Tensor]:
        displacement = integrate_velocity(self.velocity)
        return lambda points: _field_at(displacement, points)

    def inverse(self, tolerance: float = 1e-3) -> Velocity:
        """Time runs backwards: exact but for the interpolation."""
        return Velocity(-self.velocity, self.grid)

    def _own_field(self) -> Tensor:
        return integrate_velocity(self.velocity)


class Composition(Transform):
    """Points go through the first transform, then the second, and so on; each may have a grid of its own.

    Its points are in voxels of `grid`, which is the first one's if none is given.

    Example:
        >>> fine_after_coarse = Composition(Affine(matrix, grid), DisplacementField(displacement, grid))
    """

    def __init__(self, *parts: Transform, grid: Grid | None = None) -> None:
        if not parts:
            raise ValueError("parts is empty; a composition wants a transform or more.")
        super().__init__(parts[0].grid if grid is None else grid)
        for part in parts:
            voxels_between(self.grid, part.grid)  # refuses 2-D with 3-D
        self._parts = nn.ModuleList(parts)

    @property
    def parts(self) -> list[Transform]:
        """In the order in which points go through them."""
        return [part for part in self._parts if isinstance(part, Transform)]

    def displace(self, points: Tensor) -> Tensor:
        return self.displacer()(points)

    def displacer(self) -> Callable[[Tensor], Tensor]:
        parts = [(voxels_between(self.grid, part.grid), part.displacer()) for part in self.parts]

        def displace(points: Tensor) -> Tensor:
            added = torch.zeros_like(points)
            for matrix, displace_part in parts:
                added = added + map_vectors(np.linalg.inv(matrix), displace_part(map_points(matrix, points + added)))
            return added

        return displace

    def inverse(self, tolerance: float = 1e-3) -> Composition:
        """The inverses in reverse order; each part that had to be searched carries its own residual."""
        return Composition(*[part.inverse(tolerance) for part in reversed(self.parts)], grid=self.grid)


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

    `mode` is "linear" or "nearest", or "label_linear" for smooth borders of labels; whole numbers stay what they are
    with the latter two. Outside the moving image `padding="constant"` puts `value` and "border" repeats its edge.
    """
    check_image("moving", moving)
    if tuple(moving.shape[2:]) != moving_grid.shape:
        raise ValueError(f"moving has shape {tuple(moving.shape)}; on {moving_grid} it wants {moving_grid.shape}.")
    displacement = transform.field(fixed_grid)
    check_same_device("moving", moving, "transform", displacement)
    points = fixed_grid.coordinates(displacement.dtype, displacement.device) + displacement.flatten(2).transpose(1, 2)
    found = map_points(voxels_between(fixed_grid, moving_grid), points)
    coordinates = found.transpose(1, 2).unflatten(2, fixed_grid.shape)
    batch = max(moving.shape[0], coordinates.shape[0])
    moving, coordinates = (part.expand(batch, *[-1] * (part.dim() - 1)) for part in (moving, coordinates))
    if mode == "label_linear":
        return sample_labels(moving, coordinates, "linear", padding, int(value))
    if mode == "nearest" and not moving.is_floating_point():
        return sample_labels(moving, coordinates, "nearest", padding, int(value))
    return sample(moving, coordinates, mode, padding, value)


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
            f"{name} has shape {tuple(field.shape)}; on {grid} it wants {(field.shape[0], grid.dims, *grid.shape)}."
        )
