"""Sampling of images at voxel coordinates, and warping of images, labels and points by a displacement.

Convention: coordinates and displacements are in voxels, component i along spatial axis i; voxel centres are at whole
numbers. `warped(x) = moving(x + displacement(x))`. Grids are float32 or better whatever the images' type.

The normalised grid that `grid_sample` wants is the one of its `align_corners=False`: in voxels both conventions mean the
same, and this one makes the identity exact to the last bit wherever a side is a power of two.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from warpzoo.checks import check_displacement, check_image, check_same_shape

MODES = ("linear", "nearest")
PADDINGS = ("border", "constant")


def voxel_coordinates(shape: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The coordinates of every voxel, (dims, *shape)."""
    axes = [torch.arange(size, dtype=dtype, device=device) for size in shape]
    return torch.stack(torch.meshgrid(axes, indexing="ij"))


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32 or better: digits of a position are not the network's to save."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def sample(
    image: Tensor, coordinates: Tensor, mode: str = "linear", padding: str = "border", value: float = 0.0
) -> Tensor:
    """The image (batch, channels, *spatial) at coordinates (batch, dims, *any) in its voxels: (batch, channels, *any).

    `any` has as many axes as the image. Outside means more than half a voxel beyond the outermost centres, as in ITK;
    there `padding="border"` repeats the edge and "constant" puts `value`.
    """
    if not torch.jit.is_scripting():
        _check_options(mode, padding)
        dims = check_image("image", image)
        check_displacement("coordinates", coordinates)
        if coordinates.shape[1] != dims or coordinates.shape[0] != image.shape[0]:
            raise ValueError(
                f"coordinates has shape {tuple(coordinates.shape)}; for image of shape {tuple(image.shape)} it wants "
                f"({image.shape[0]}, {dims}, *any)."
            )
    coordinates = precise(coordinates)
    shape = image.shape[2:]
    axes: list[Tensor] = []
    for axis in range(len(shape) - 1, -1, -1):
        axes.append((2 * coordinates[:, axis] + 1) / shape[axis] - 1)
    sampled = _grid_sample(image, torch.stack(axes, -1), mode)
    if padding == "constant":
        sampled = _fill_outside(sampled, coordinates, shape, value)
    return sampled


def warp(
    moving: Tensor, displacement: Tensor, mode: str = "linear", padding: str = "border", value: float = 0.0
) -> Tensor:
    """The moving image (batch, channels, *spatial) carried by a displacement (batch, dims, *spatial) in voxels.

    Example:
        >>> warped = warp(moving, torch.zeros(1, 2, 64, 64))  # is moving
    """
    if not torch.jit.is_scripting():
        _check_options(mode, padding)
        check_image("moving", moving)
        check_displacement("displacement", displacement)
        check_same_shape("moving", moving, "displacement", displacement, spatial_only=True)
    displacement = precise(displacement)
    warped = _grid_sample(moving, _normalised_grid(displacement), mode)
    if padding == "constant":
        shape = displacement.shape[2:]
        coordinates = voxel_coordinates(shape, displacement.dtype, displacement.device) + displacement
        warped = _fill_outside(warped, coordinates, shape, value)
    return warped


def warp_labels(labels: Tensor, displacement: Tensor, mode: str = "nearest", outside: int = 0) -> Tensor:
    """A label map (batch, 1, *spatial) of whole numbers carried by a displacement; the labels stay what they are.

    "nearest" takes the closest voxel's label. "linear" interpolates each label's own membership and keeps the strongest:
    smoother borders at one pass per label. What comes from outside the map is `outside`.
    """
    check_image("labels", labels, channels=1, finite=False)
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        raise ValueError("labels has fractional values; it wants whole numbers (an image is carried by `warp`).")
    if mode == "linear":
        best = torch.zeros_like(displacement[:, :1], dtype=torch.float32)
        carried = torch.full_like(best, outside, dtype=labels.dtype)
        for label in labels.unique().tolist():
            membership = warp((labels == label).float(), displacement)
            carried = torch.where(membership > best, torch.full_like(carried, label), carried)
            best = torch.maximum(membership, best)
    else:
        # float64 holds every integer label up to 2**53
        carried = warp(labels.double(), displacement.double(), mode=mode).round().to(labels.dtype)
    shape = displacement.shape[2:]
    coordinates = voxel_coordinates(shape, torch.float64, displacement.device) + displacement
    return _fill_outside(carried, coordinates, shape, outside)


def displacement_at(displacement: Tensor, points: Tensor) -> Tensor:
    """The displacement (batch, dims, *spatial) at points (batch, count, dims), linearly: (batch, count, dims)."""
    dims = displacement.shape[1]
    coordinates = points.movedim(-1, 1).reshape(points.shape[0], dims, -1, *[1] * (dims - 1))
    return sample(displacement, coordinates.to(displacement.dtype)).flatten(2).movedim(1, -1)


def _grid_sample(image: Tensor, grid: Tensor, mode: str) -> Tensor:
    sampled = F.grid_sample(
        image.to(grid.dtype),
        grid,
        mode="bilinear" if mode == "linear" else mode,
        padding_mode="border",
        align_corners=False,
    )
    return sampled.to(image.dtype)


def _fill_outside(sampled: Tensor, coordinates: Tensor, shape: list[int], value: float) -> Tensor:
    inside = torch.ones_like(coordinates[:, :1], dtype=torch.bool)
    for axis in range(len(shape)):
        position = coordinates[:, axis : axis + 1]
        inside = inside & (position >= -0.5) & (position < shape[axis] - 0.5)
    return sampled.masked_fill(~inside, value)


def _normalised_grid(displacement: Tensor) -> Tensor:
    """Where `grid_sample` reads: (batch, *spatial, dims), last spatial axis first, from a displacement in voxels."""
    if not torch.jit.is_scripting():
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
            return _NormalisedGrid.apply(displacement)
    shape = displacement.shape[2:]
    coordinates = voxel_coordinates(shape, displacement.dtype, displacement.device) + displacement
    axes: list[Tensor] = []
    for axis in range(len(shape) - 1, -1, -1):
        axes.append((2 * coordinates[:, axis] + 1) / shape[axis] - 1)
    return torch.stack(axes, -1)


class _NormalisedGrid(torch.autograd.Function):
    """One fused multiply-add per axis on a cached identity, forward and backward."""

    @staticmethod
    def forward(ctx, displacement: Tensor) -> Tensor:
        shape = tuple(displacement.shape[2:])
        dims = len(shape)
        identity = _normalised_identity(shape, displacement.dtype, displacement.device)
        grid = displacement.new_empty((displacement.shape[0], *shape, dims))
        for axis, size in enumerate(shape):
            column = dims - 1 - axis
            torch.add(identity[..., column], displacement[:, axis], alpha=2 / size, out=grid[..., column])
        ctx.shape = shape
        return grid

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        dims = len(ctx.shape)
        result = gradient.new_empty((gradient.shape[0], dims, *ctx.shape))
        for axis, size in enumerate(ctx.shape):
            torch.mul(gradient[..., dims - 1 - axis], 2 / size, out=result[:, axis])
        return result


@lru_cache(maxsize=8)
def _normalised_identity(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    coordinates = voxel_coordinates(list(shape), torch.float64, device)
    axes = [(2 * coordinates[axis] + 1) / shape[axis] - 1 for axis in reversed(range(len(shape)))]
    return torch.stack(axes, -1).to(dtype)


def _check_options(mode: str, padding: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it wants one of {MODES}.")
    if padding not in PADDINGS:
        raise ValueError(f"padding is {padding!r}; it wants one of {PADDINGS}.")
