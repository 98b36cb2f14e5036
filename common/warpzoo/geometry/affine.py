"""Affine maps: one matrix, or shear → scale → rotation → translation, and the displacement they make on a grid.

Convention: a matrix (batch, dims, dims + 1) acts on coordinates that are centred in the grid and divided by half its
longest side (outermost voxel centres at ±1), so that a rotation stays a rotation on any shape. It maps points of the
fixed grid to points of the moving image. Angles are in radians.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_finite
from warpzoo.geometry.sampling import precise, voxel_coordinates


def affine_field(matrix: Tensor, shape: list[int]) -> Tensor:
    """The displacement (batch, dims, *shape) in voxels of a matrix (batch, dims, dims + 1)."""
    if not torch.jit.is_scripting():
        check_matrix("matrix", matrix, len(shape))
    matrix = precise(matrix)
    dims = len(shape)
    half = half_longest_side(shape)
    coordinates = voxel_coordinates(shape, matrix.dtype, matrix.device)
    centre = torch.tensor([0.5 * (size - 1) for size in shape], dtype=matrix.dtype, device=matrix.device)
    centred = coordinates.flatten(1) - centre[:, None]
    linear = matrix[:, :, :dims] - torch.eye(dims, dtype=matrix.dtype, device=matrix.device)
    field = linear @ centred + half * matrix[:, :, dims:]
    return field.reshape([matrix.shape[0], dims] + list(shape))


def half_longest_side(shape: list[int]) -> float:
    """The unit of the matrices' coordinates, in voxels."""
    return 0.5 * max(max(shape) - 1, 1)


def compose_affine(
    shear: Tensor | None = None,
    scale: Tensor | None = None,
    rotation: Tensor | None = None,
    translation: Tensor | None = None,
) -> Tensor:
    """The matrix (batch, dims, dims + 1) that shears a point first, then scales, rotates and translates it.

    Any part may be left out; at least one is needed. `shear` (batch, d(d−1)/2): the entries above the diagonal, row by
    row. `scale` (batch, d): logarithms, so that no scale reaches zero. `rotation` (batch, 1) in 2-D: from axis 0 towards
    axis 1; (batch, 3) in 3-D: about axis 0, then 1, then 2. `translation` (batch, d): in half longest sides.
    """
    parts = [part for part in [shear, scale, rotation, translation] if part is not None]
    if len(parts) == 0:
        raise ValueError("shear, scale, rotation and translation are all None; at least one is wanted.")
    first = parts[0]
    dims = 3
    if scale is not None:
        dims = scale.shape[1]
    elif translation is not None:
        dims = translation.shape[1]
    elif first.shape[1] == 1:
        dims = 2
    identity = torch.eye(dims, dtype=first.dtype, device=first.device).expand(first.shape[0], dims, dims)
    matrix = identity
    if shear is not None:
        rows, columns = torch.triu_indices(dims, dims, 1, device=first.device).unbind(0)
        placed = torch.zeros_like(identity).index_put(
            (torch.arange(first.shape[0], device=first.device)[:, None], rows[None], columns[None]), shear
        )
        matrix = identity + placed
    if scale is not None:
        matrix = scale.exp()[:, :, None] * matrix
    if rotation is not None:
        matrix = rotation_matrix(rotation) @ matrix
    offset = torch.zeros_like(matrix[:, :, :1]) if translation is None else translation[:, :, None]
    return torch.cat([matrix, offset], dim=2)


def rotation_matrix(angles: Tensor) -> Tensor:
    """Angles (batch, 1) or (batch, 3) → rotations (batch, d, d)."""
    cosine, sine = angles.cos(), angles.sin()
    if angles.shape[1] == 1:
        return torch.stack([cosine, -sine, sine, cosine], -1).reshape(-1, 2, 2)
    zero, one = torch.zeros_like(cosine[:, 0]), torch.ones_like(cosine[:, 0])
    c0, c1, c2 = cosine.unbind(1)
    s0, s1, s2 = sine.unbind(1)
    about_0 = torch.stack([one, zero, zero, zero, c0, -s0, zero, s0, c0], -1).reshape(-1, 3, 3)
    about_1 = torch.stack([c1, zero, s1, zero, one, zero, -s1, zero, c1], -1).reshape(-1, 3, 3)
    about_2 = torch.stack([c2, -s2, zero, s2, c2, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    return about_2 @ about_1 @ about_0


def invert_affine(matrix: Tensor) -> Tensor:
    """The matrix of the inverse map; a singular one is an error."""
    dims = check_matrix("matrix", matrix)
    linear = matrix[:, :, :dims]
    determinant = torch.linalg.det(linear.detach().double())
    if bool((determinant.abs() < 1e-8).any()):
        raise ValueError(f"matrix is singular (determinant {determinant.tolist()}); it wants one that can be inverted.")
    inverse = torch.linalg.inv(linear)
    return torch.cat([inverse, -inverse @ matrix[:, :, dims:]], dim=2)


class AffineField(nn.Module):
    """Matrix → displacement, for networks: `forward(matrix, image)` gives a field on the image's grid."""

    def forward(self, matrix: Tensor, image: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return affine_field(matrix, image.shape[2:])
        with torch.autocast(matrix.device.type, enabled=False):
            return affine_field(matrix, image.shape[2:])


def check_matrix(name: str, matrix: Tensor, dims: int | None = None) -> int:
    """Wants (batch, dims, dims + 1), finite; returns dims."""
    wanted = "2 or 3" if dims is None else str(dims)
    if (
        matrix.dim() != 3
        or matrix.shape[1] not in (2, 3)
        or matrix.shape[2] != matrix.shape[1] + 1
        or (dims is not None and matrix.shape[1] != dims)
    ):
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)}; it wants (batch, dims, dims + 1) with dims {wanted}."
        )
    check_finite(name, matrix)
    return matrix.shape[1]
