"""Free-form deformation: a dense displacement from control points of a cubic or quadratic B-spline.

Convention: control points sit at the centres of patches of `spacing` voxels, point k at k · spacing + (spacing − 1) / 2
along each axis; a side of n voxels has ceil(n / spacing) of them. Beyond the outer ring the edge control points are
repeated. Control points are displacements in voxels, (batch, dims, *control), like the resulting field.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, runs_eagerly
from warpzoo.geometry.sampling import precise
from warpzoo.geometry.separable import along_axes

CACHED_WEIGHTS = 2**20  # of an axis: 4 MB

ORDERS = {2: "quadratic", 3: "cubic"}


def bspline_basis(t: Tensor, order: int) -> Tensor:
    """The centred uniform B-spline of order 2 or 3 at t, in control-point spacings."""
    a = t.abs()
    if order == 2:
        inner = 0.75 - a * a
        outer = 0.5 * (1.5 - a) ** 2
        return torch.where(a < 0.5, inner, torch.where(a < 1.5, outer, torch.zeros_like(a)))
    inner = 2 / 3 - a * a * (1 - 0.5 * a)
    outer = (2 - a) ** 3 / 6
    return torch.where(a < 1, inner, torch.where(a < 2, outer, torch.zeros_like(a)))


def bspline_weights(positions: Tensor, count: int, order: int) -> Tensor:
    """The weights of `count` control points at positions in control-point units: (positions, count).

    Control points −2, −1 and count, count + 1 are copies of the outermost ones, whose weights include theirs.
    """
    extended = torch.arange(-2, count + 2, device=positions.device)
    weights = bspline_basis(positions[:, None] - extended.to(positions.dtype)[None], order)
    owner = extended.clamp(0, count - 1)[:, None] == torch.arange(count, device=positions.device)[None]
    return weights @ owner.to(weights.dtype)


def bspline_field(control_points: Tensor, shape: list[int], spacing: list[int], order: int = 3) -> Tensor:
    """The displacement (batch, dims, *shape) of control points (batch, dims, *control): one small matrix per axis.

    Example:
        >>> field = bspline_field(torch.zeros(1, 2, 16, 16), [256, 256], [16, 16])
    """
    like = precise(control_points)
    if not torch.jit.is_scripting():
        check_order(order)
        check_control_points(control_points, shape, spacing)
        if runs_eagerly():
            with torch.autocast(control_points.device.type, enabled=False):
                weights = [
                    (_cached_weights if size * count <= CACHED_WEIGHTS else _weights_on_axis)(
                        size, patch, count, order, like.dtype, like.device
                    )
                    for size, patch, count in zip(shape, spacing, control_points.shape[2:], strict=True)
                ]
                return along_axes(like, weights)
    positions: list[Tensor] = []
    for axis in range(len(shape)):
        voxels = torch.arange(shape[axis], dtype=like.dtype, device=like.device)
        positions.append(control_positions(voxels, spacing[axis]))
    return bspline_on_axes(control_points, positions, order)


def _weights_on_axis(
    size: int, spacing: int, count: int, order: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`bspline_weights` at the voxels of an axis; a network needs the same ones for every image of that size."""
    with torch.inference_mode(False):
        voxels = torch.arange(size, dtype=dtype, device=device)
        return bspline_weights(control_positions(voxels, spacing), count, order)


_cached_weights = lru_cache(maxsize=64)(_weights_on_axis)


def bspline_on_axes(control_points: Tensor, positions: list[Tensor], order: int) -> Tensor:
    """The displacement on the grid of one list of positions per axis, each in units of control points."""
    if not torch.jit.is_scripting():
        with torch.autocast(control_points.device.type, enabled=False):
            return along_axes(precise(control_points), _weights(control_points, positions, order))
    # scripted code cannot disable autocast, but autocast does not change float64
    double = control_points.double()
    return along_axes(double, _weights(double, positions, order)).to(precise(control_points).dtype)


def bspline_at(control_points: Tensor, points: Tensor, spacing: list[int], order: int = 3) -> Tensor:
    """The displacement (batch, count, dims) of control points at points (batch, count, dims) in voxels.

    Each point depends on order + 1 control points along each axis.
    """
    control_points, count = precise(control_points), list(control_points.shape[2:])
    batch, dims = max(control_points.shape[0], points.shape[0]), len(count)
    flat = control_points.flatten(2).expand(batch, -1, -1)
    nearby = torch.arange(-1, order, device=points.device)
    weights, indices = [], []
    for axis in range(dims):
        position = control_positions(points[..., axis], spacing[axis])
        first = torch.floor(position if order == 3 else position + 0.5).detach()
        index = first[..., None] + nearby
        weights.append(bspline_basis(position[..., None] - index, order))
        indices.append(index.long().clamp(0, count[axis] - 1))
    field = flat.new_zeros((batch, dims, points.shape[1]))
    for taps in product(range(order + 1), repeat=dims):
        weight, index = weights[0][..., taps[0]], indices[0][..., taps[0]]
        for axis in range(1, dims):
            weight = weight * weights[axis][..., taps[axis]]
            index = index * count[axis] + indices[axis][..., taps[axis]]
        values = flat.gather(2, index[:, None].expand(batch, dims, -1))
        field = field + weight[:, None] * values
    return field.transpose(1, 2)


def control_positions(voxels: Tensor, spacing: int) -> Tensor:
    """Voxel coordinates along an axis in units of control points: 0 at the first one."""
    return (voxels - 0.5 * (spacing - 1)) / spacing


def control_shape(shape: list[int], spacing: list[int]) -> list[int]:
    """The number of control points along each side: ceil(n / spacing)."""
    return [-(-size // step) for size, step in zip(shape, spacing)]  # noqa: B905, TorchScript knows no strict


class BSplineField(nn.Module):
    """Control points → displacement on the image's grid, for networks."""

    def __init__(self, spacing: int | list[int], order: int = 3, spatial_dims: int = 2) -> None:
        super().__init__()
        check_order(order)
        self.spacing = [spacing] * spatial_dims if isinstance(spacing, int) else list(spacing)
        self.order = order

    def forward(self, control_points: Tensor, image: Tensor) -> Tensor:
        return bspline_field(control_points, list(image.shape[2:]), self.spacing, self.order)


def _weights(control_points: Tensor, positions: list[Tensor], order: int) -> list[Tensor]:
    dtype = precise(control_points).dtype
    weights: list[Tensor] = []
    for axis in range(len(positions)):
        weights.append(bspline_weights(positions[axis].to(dtype), control_points.shape[2 + axis], order))
    return weights


def check_control_points(control_points: Tensor, shape: list[int], spacing: list[int]) -> None:
    """Requires (batch, dims, *control) with the number of control points of a grid of that shape and spacing."""
    dims = check_displacement("control_points", control_points)
    if len(shape) != dims or len(spacing) != dims or min(spacing) < 1:
        raise ValueError(
            f"shape and spacing must have {dims} numbers each, 1 or more, for control_points of shape "
            f"{tuple(control_points.shape)}, got {tuple(shape)} and {tuple(spacing)}."
        )
    expected = control_shape(shape, spacing)
    if runs_eagerly() and list(control_points.shape[2:]) != expected:
        raise ValueError(
            f"control_points must be {tuple(expected)} points on a grid of {tuple(shape)} voxels with spacing "
            f"{tuple(spacing)}, got {tuple(control_points.shape[2:])}."
        )


def check_order(order: int) -> int:
    if order not in ORDERS:
        raise ValueError(f"order must be 2 (quadratic) or 3 (cubic), got {order}.")
    return order
