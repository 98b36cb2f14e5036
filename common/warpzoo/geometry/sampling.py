"""Sampling of images at voxel coordinates; warping of images, labels and points by a displacement.

Convention: coordinates and displacements are in voxels, component i along spatial axis i; voxel centres are at whole
numbers. `warped(x) = moving(x + displacement(x))`. Grids are float32 or better whatever the images' type.

In voxels both values of `align_corners` mean the same; `grid_sample` is called with False, which makes the identity
exact to the last bit wherever a side is a power of two.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from warpzoo.checks import (
    check_displacement,
    check_image,
    check_points,
    check_same_device,
    check_same_shape,
    runs_eagerly,
)

MODES = ("linear", "nearest")
PADDINGS = ("border", "constant")


def axis_coordinates(size: int, axis: int, dims: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 … size − 1 along one of `dims` axes, the others of length 1."""
    ramp = torch.arange(size, dtype=dtype, device=device)
    return ramp.reshape([1] * axis + [-1] + [1] * (dims - 1 - axis))


def voxel_coordinates(shape: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The coordinates of every voxel, (dims, *shape)."""
    axes = [torch.arange(size, dtype=dtype, device=device) for size in shape]
    return torch.stack(torch.meshgrid(axes, indexing="ij"))


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32 or better: positions need more digits than half precision has."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def sample(
    image: Tensor, coordinates: Tensor, mode: str = "linear", padding: str = "border", value: float = 0.0
) -> Tensor:
    """The image (batch, channels, *spatial) at coordinates (batch, dims, *any) in its voxels: (batch, channels, *any).

    `any` has as many axes as the image. Outside means more than half a voxel beyond the outermost centres, as in ITK;
    there `padding="border"` repeats the edge and "constant" fills with `value`. Halfway between two voxels "nearest"
    takes the one with the higher index, as ITK does.
    """
    if not torch.jit.is_scripting():
        check_sampling(image, mode, padding)
        _check_coordinates("image", image, coordinates)
    return sample_unchecked(image, coordinates, mode, padding, value)


def sample_unchecked(
    image: Tensor, coordinates: Tensor, mode: str = "linear", padding: str = "border", value: float = 0.0
) -> Tensor:
    """`sample` without its checks, which read the whole image: for many sets of coordinates in one image."""
    coordinates = precise(coordinates)
    shape = image.shape[2:]
    read = _nearest(coordinates) if mode == "nearest" else coordinates
    columns: list[Tensor] = []
    for axis in range(len(shape) - 1, -1, -1):
        columns.append((2 * read[:, axis] + (1 - shape[axis])) / shape[axis])
    sampled = _grid_sample(image, torch.stack(columns, -1), mode)
    if padding == "constant":
        sampled = sampled.masked_fill(~inside_of(coordinates, list(shape)), value)
    return sampled


def warp(
    moving: Tensor, displacement: Tensor, mode: str = "linear", padding: str = "border", value: float = 0.0
) -> Tensor:
    """The moving image (batch, channels, *spatial) warped by a displacement (batch, dims, *spatial) in voxels.

    Example:
        >>> warped = warp(moving, torch.zeros(1, 2, 64, 64))  # is moving
    """
    if not torch.jit.is_scripting():
        check_sampling(moving, mode, padding)
        check_image("moving", moving)
        check_displacement("displacement", displacement)
        check_same_shape("moving", moving, "displacement", displacement, spatial_only=True)
    displacement = precise(displacement)
    read = displacement
    if mode == "nearest":
        read = _nearest(_displaced(displacement)) - _displaced(torch.zeros_like(displacement))
    warped = _grid_sample(moving, _normalised_grid(read), mode)
    if padding == "constant":
        warped = warped.masked_fill(~inside_of(_displaced(displacement), list(moving.shape[2:])), value)
    return warped


def sample_labels(
    labels: Tensor, coordinates: Tensor, mode: str = "nearest", padding: str = "constant", outside: int = 0
) -> Tensor:
    """A label map (batch, 1, *spatial) of whole numbers at coordinates (batch, dims, *any).

    "nearest" takes the closest voxel's label. "linear" interpolates the membership of each label and takes the largest:
    smoother borders, at one pass per label. Outside, `padding="constant"` fills with the label `outside` and "border"
    repeats the edge.
    """
    _check_coordinates("labels", labels, coordinates)
    return label_sampler(labels, mode, padding, outside)(coordinates)


def label_sampler(
    labels: Tensor, mode: str = "nearest", padding: str = "constant", outside: int = 0
) -> Callable[[Tensor], Tensor]:
    """`sample_labels` for many sets of coordinates: the label map is checked and searched for its labels once."""
    check_image("labels", labels, channels=1, finite=False)
    _check_options(mode, padding)
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        raise ValueError("labels must hold whole numbers only, got others; use `warp` or `sample` for an image.")
    shape = list(labels.shape[2:])
    present = labels.unique().tolist() if mode == "linear" else []

    def strongest_label(coordinates: Tensor) -> Tensor:
        strongest = torch.zeros_like(coordinates[:, :1], dtype=torch.float32)
        found = torch.zeros_like(strongest, dtype=labels.dtype)
        for label in present:
            membership = sample_unchecked((labels == label).float(), coordinates)
            found = found.masked_fill(membership > strongest, label)
            strongest = torch.maximum(membership, strongest)
        return found

    def nearest_label(coordinates: Tensor) -> Tensor:
        index = torch.zeros_like(coordinates[:, 0], dtype=torch.long)
        for axis, size in enumerate(shape):
            index = index * size + _nearest(coordinates[:, axis]).long().clamp(0, size - 1)
        return labels.flatten(2).gather(2, index.flatten(1)[:, None]).view_as(coordinates[:, :1])

    def read(coordinates: Tensor) -> Tensor:
        coordinates = precise(coordinates)
        found = strongest_label(coordinates) if mode == "linear" else nearest_label(coordinates)
        return found if padding == "border" else found.masked_fill(~inside_of(coordinates, shape), outside)

    return read


def cubic_sampler(image: Tensor, value: float = 0.0) -> Callable[[Tensor], Tensor]:
    """`sample` by the cubic B-spline through the voxels, mirrored at the edge as in ITK, and `value` outside.

    There is no gradient. The spline's coefficients are found once, by scipy.
    """
    from scipy.ndimage import map_coordinates, spline_filter

    check_image("image", image)
    shape = list(image.shape[2:])
    splines = [
        [spline_filter(channel.detach().cpu().numpy(), 3, np.float32, mode="mirror") for channel in item]
        for item in image
    ]

    def read(coordinates: Tensor) -> Tensor:
        found = [
            [map_coordinates(spline, item, order=3, mode="mirror", prefilter=False) for spline in channels]
            for channels, item in zip(splines, coordinates.detach().cpu().numpy(), strict=True)
        ]
        return torch.from_numpy(np.array(found)).to(image).masked_fill(~inside_of(coordinates, shape), value)

    return read


def warp_labels(labels: Tensor, displacement: Tensor, mode: str = "nearest", outside: int = 0) -> Tensor:
    """A label map (batch, 1, *spatial) warped by a displacement (batch, dims, *spatial), as by `sample_labels`."""
    check_displacement("displacement", displacement)
    check_same_shape("labels", labels, "displacement", displacement, spatial_only=True)
    return sample_labels(labels, _displaced(precise(displacement)), mode, outside=outside)


def warp_points(points: Tensor, displacement: Tensor) -> Tensor:
    """Points (batch, count, dims) of the fixed grid mapped to the moving image, in voxels."""
    return points + displacement_at(displacement, points)


def displacement_at(displacement: Tensor, points: Tensor) -> Tensor:
    """The displacement (batch, dims, *spatial) at points (batch, count, dims), linearly: (batch, count, dims).

    A point outside the grid gets the displacement of the border.
    """
    dims = displacement.shape[1]
    if not torch.jit.is_scripting():
        check_points("points", points, dims)
    coordinates = points.transpose(1, 2).reshape([points.shape[0], dims, -1] + [1] * (dims - 1))
    return sample(displacement, coordinates).flatten(2).transpose(1, 2)


def inside_of(coordinates: Tensor, shape: list[int]) -> Tensor:
    """Which coordinates (batch, dims, *any) lie in an image of that shape: (batch, 1, *any).

    A voxel reaches half a voxel from its centre; the far end of the last one is outside, as in ITK.
    """
    inside = torch.ones_like(coordinates[:, :1], dtype=torch.bool)
    for axis in range(len(shape)):
        position = coordinates[:, axis : axis + 1]
        inside = inside & (position >= -0.5) & (position < shape[axis] - 0.5)
    return inside


def _grid_sample(image: Tensor, grid: Tensor, mode: str) -> Tensor:
    if image.dtype == torch.float64:
        grid = grid.double()
    source = image.to(grid.dtype)
    parts = 1
    if not torch.jit.is_scripting():
        parts = _parts(image, grid)
    # on a CPU, `grid_sample` uses one thread per item of the batch; a single image is read in as many parts
    pieces = grid if parts == 1 else grid.reshape([parts] + [1] * (image.dim() - 3) + [-1, grid.shape[-1]])
    sampled = F.grid_sample(
        source if parts == 1 else source.expand([parts] + list(source.shape[1:])),
        pieces,
        mode="bilinear" if mode == "linear" else mode,
        padding_mode="border",
        align_corners=False,
    )
    if parts > 1:
        sampled = sampled.transpose(0, 1).reshape(list(image.shape[:2]) + list(grid.shape[1:-1]))
    return sampled.to(image.dtype)


def _parts(image: Tensor, grid: Tensor) -> int:
    voxels = grid.numel() // grid.shape[-1]
    if not runs_eagerly() or image.device.type != "cpu" or image.shape[0] > 1 or voxels < 2**15:
        return 1
    # each part has its own gradient of the image, so there are no more than four
    return max(parts for parts in range(1, min(torch.get_num_threads(), 4) + 1) if voxels % parts == 0)


def _displaced(displacement: Tensor) -> Tensor:
    shape = list(displacement.shape[2:])
    return voxel_coordinates(shape, displacement.dtype, displacement.device) + displacement


def _nearest(coordinates: Tensor) -> Tensor:
    """The closest voxel's coordinates: halfway is rounded up, as in ITK, whatever the round-off of normalised ones."""
    return torch.floor(coordinates + 0.5)


def _normalised_grid(displacement: Tensor) -> Tensor:
    """The grid of `grid_sample`, (batch, *spatial, dims), last spatial axis first, of a displacement in voxels."""
    if not torch.jit.is_scripting():
        if runs_eagerly():
            return _NormalisedGrid.apply(displacement)
    shape = displacement.shape[2:]
    columns: list[Tensor] = []
    for axis in range(len(shape) - 1, -1, -1):
        ramp = axis_coordinates(shape[axis], axis, len(shape), displacement.dtype, displacement.device)
        columns.append((2 * ramp + (1 - shape[axis])) / shape[axis] + displacement[:, axis] * (2 / shape[axis]))
    return torch.stack(columns, -1)


class _NormalisedGrid(torch.autograd.Function):
    """One fused multiply-add per axis, written in place, and one multiplication per axis in the backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, displacement: Tensor) -> Tensor:
        shape = displacement.shape[2:]
        dims = len(shape)
        grid = displacement.new_empty((displacement.shape[0], *shape, dims))
        for axis, size in enumerate(shape):
            identity = (2 * axis_coordinates(size, axis, dims, grid.dtype, grid.device) + (1 - size)) / size
            torch.add(identity, displacement[:, axis], alpha=2 / size, out=grid[..., dims - 1 - axis])
        return grid

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        shape = gradient.shape[1:-1]
        result = gradient.new_empty((gradient.shape[0], len(shape), *shape))
        for axis, size in enumerate(shape):
            torch.mul(gradient[..., len(shape) - 1 - axis], 2 / size, out=result[:, axis])
        return result


def check_sampling(image: Tensor, mode: str, padding: str) -> None:
    """That an image can be read by this mode and padding of `sample`."""
    _check_options(mode, padding)
    if mode == "linear" and not image.is_floating_point():
        raise ValueError(
            f"image must be floating point for linear interpolation, got {image.dtype}; use `warp_labels` for labels."
        )


def _check_options(mode: str, padding: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}.")
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {PADDINGS}, got {padding!r}.")


def _check_coordinates(name: str, image: Tensor, coordinates: Tensor) -> None:
    dims = check_image(name, image)
    check_displacement("coordinates", coordinates)
    if coordinates.shape[1] != dims or (runs_eagerly() and coordinates.shape[0] != image.shape[0]):
        raise ValueError(
            f"coordinates must be ({image.shape[0]}, {dims}, *any) for {name} of shape {tuple(image.shape)}, got "
            f"{tuple(coordinates.shape)}."
        )
    check_same_device("coordinates", coordinates, name, image)
