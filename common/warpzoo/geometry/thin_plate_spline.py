"""Thin-plate spline: the smoothest map that takes control points where they are told, with global support.

Convention: kernel r² log r in 2-D and in 3-D (what scipy calls `thin_plate_spline`, degree 1: an affine part and no
smoothing). Positions and displacements are in voxels. On a grid the control points sit where the B-splines' do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement
from warpzoo.geometry.sampling import precise, voxel_coordinates


def thin_plate_weights(points: Tensor, queries: Tensor) -> Tensor:
    """The matrix (queries, points) that interpolates values at points (points, dims) to queries (queries, dims)."""
    count, dims = points.shape
    if count <= dims:
        raise ValueError(f"points has {count} points in {dims}-D; a thin-plate spline wants at least {dims + 1}.")
    centre = points.mean(0)
    scale = (points - centre).abs().max()
    points, queries = (points - centre) / scale, (queries - centre) / scale
    system = points.new_zeros((count + dims + 1, count + dims + 1))
    system[:count, :count] = _kernel(points, points)
    system[:count, count:] = _affine_part(points)
    system[count:, :count] = system[:count, count:].t()
    right = torch.cat([_kernel(queries, points), _affine_part(queries)], 1)
    solved = torch.linalg.solve_ex(system, right.t(), check_errors=False)[0]
    return solved[:count].t()


def grid_control_points(count: list[int], spacing: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Positions (points, dims) in voxels of a grid of control points at the centres of patches of `spacing` voxels."""
    index = voxel_coordinates(count, dtype, device)
    step = torch.tensor(spacing, dtype=dtype, device=device)
    return index.flatten(1).t() * step + 0.5 * (step - 1)


def thin_plate_field(control_points: Tensor, shape: list[int], spacing: list[int]) -> Tensor:
    """The displacement (batch, dims, *shape) of control-point displacements (batch, dims, *control)."""
    if not torch.jit.is_scripting():
        check_displacement("control_points", control_points)
    weights = grid_weights(control_points.shape[2:], shape, spacing, control_points.device)
    field = precise(control_points)
    field = field.flatten(2) @ weights.to(field.dtype).t()
    return field.reshape(list(control_points.shape[:2]) + list(shape))


def grid_weights(count: list[int], shape: list[int], spacing: list[int], device: torch.device) -> Tensor:
    """The float64 matrix from a grid of control points to every voxel: what `thin_plate_field` multiplies by."""
    points = grid_control_points(count, spacing, torch.float64, device)
    queries = voxel_coordinates(shape, torch.float64, device).flatten(1).t()
    return thin_plate_weights(points, queries)


class ThinPlateField(nn.Module):
    """Control points → displacement, for networks; the matrix is kept for as long as the sizes stay the same."""

    def __init__(self, spacing: int | list[int], spatial_dims: int = 2) -> None:
        super().__init__()
        self.spacing = [spacing] * spatial_dims if isinstance(spacing, int) else list(spacing)
        self.kept_shape: list[int] = [0]
        self.kept_weights = torch.zeros(0)

    def forward(self, control_points: Tensor, image: Tensor) -> Tensor:
        shape, points = list(image.shape[2:]), precise(control_points).flatten(2)
        if self.kept_shape != shape or self.kept_weights.device != points.device:
            weights = grid_weights(list(control_points.shape[2:]), shape, self.spacing, points.device)
            self.kept_weights = weights.to(points.dtype)
            self.kept_shape = shape
        if torch.jit.is_scripting():
            field = points @ self.kept_weights.to(points.dtype).t()
        else:
            with torch.autocast(points.device.type, enabled=False):
                field = points @ self.kept_weights.to(points.dtype).t()
        return field.reshape(list(control_points.shape[:2]) + list(shape))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squared = (a[:, None] - b[None]).square().sum(-1)
    return torch.where(squared > 0, 0.5 * squared * torch.log(squared.clamp_min(1e-300)), torch.zeros_like(squared))


def _affine_part(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[:, :1]), points], 1)
