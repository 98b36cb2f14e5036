"""Affine maps: one matrix, or shear → scale → rotation → translation, and their displacement field on a grid.

Convention: a matrix (batch, dims, dims + 1) acts on coordinates that are centred in the grid and divided by half its
longest side (outermost voxel centres at ±1), so that a rotation is one on any shape. It maps points of the
fixed grid to points of the moving image. Angles are in radians.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from warpzoo.checks import check_finite, has_values, runs_eagerly
from warpzoo.geometry.sampling import axis_coordinates, precise

DIMS_BY_WIDTH = {
    "shear": {1: 2, 3: 3},
    "scale": {2: 2, 3: 3},
    "rotation": {1: 2, 3: 3},
    "translation": {2: 2, 3: 3},
}


def affine_field(matrix: Tensor, shape: list[int]) -> Tensor:
    """The displacement (batch, dims, *shape) in voxels of a matrix (batch, dims, dims + 1): a sum of ramps."""
    dims = len(shape)
    if not torch.jit.is_scripting():
        check_matrix("matrix", matrix, dims)
    matrix = precise(matrix)
    ramps: list[Tensor] = []
    halves: list[Tensor] = []
    for axis in range(dims):
        ramp = axis_coordinates(shape[axis], axis, dims, matrix.dtype, matrix.device)
        ramps.append(ramp - 0.5 * (shape[axis] - 1))
        halves.append(ramps[axis].max())
    half = torch.stack(halves).max().clamp_min(0.5)  # `half_longest_side` for sizes that may be dynamic
    entries = matrix - torch.eye(dims, dims + 1, dtype=matrix.dtype, device=matrix.device)
    entries = entries.reshape([-1, dims, dims + 1] + [1] * dims)
    field = entries[:, :, dims] * half
    for axis in range(dims):
        field = field + entries[:, :, axis] * ramps[axis]
    return field


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
    row. `scale` (batch, d): logarithms, exact for scales from 1/10 to 10; beyond, they saturate smoothly at 1/100
    and 100, so that no scale reaches zero or infinity. `rotation` (batch, 1) in 2-D: from axis 0 to axis 1; (batch, 3)
    in 3-D: about axis 0, then 1, then 2. `translation` (batch, d): in half longest sides.

    Example:
        >>> matrix = compose_affine(scale=torch.zeros(1, 2), rotation=torch.full((1, 1), torch.pi / 2))
    """
    if not torch.jit.is_scripting():
        if runs_eagerly():
            _check_parts(shear, scale, rotation, translation)
    like, dims = torch.zeros(0), 0
    for part in [shear, rotation]:
        if part is not None:
            like, dims = precise(part), 2 if part.shape[1] == 1 else 3
    for part in [scale, translation]:
        if part is not None:
            like, dims = precise(part), part.shape[1]
    matrix = torch.eye(dims, dtype=like.dtype, device=like.device).expand(like.shape[0], dims, dims)
    if shear is not None:
        matrix = _shear_matrix(precise(shear))
    if scale is not None:
        matrix = _bounded(precise(scale)).exp()[:, :, None] * matrix
    if rotation is not None:
        matrix = _product(rotation_matrix(precise(rotation)), matrix)
    offset = torch.zeros_like(matrix[:, :, :1]) if translation is None else precise(translation)[:, :, None]
    return torch.cat([matrix, offset], dim=2)


def rotation_about(axis: Tensor, angle: float) -> Tensor:
    """The rotation by an angle about a unit vector (3,), (3, 3)."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=axis.dtype)
    return torch.eye(3, dtype=axis.dtype) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


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
    return _product(about_2, _product(about_1, about_0))


def invert_affine(matrix: Tensor) -> Tensor:
    """The matrix of the inverse map; a singular matrix is a ValueError."""
    dims = check_matrix("matrix", matrix)
    matrix = precise(matrix)
    linear = matrix[:, :, :dims]
    steps = linear.detach()
    volume = torch.linalg.det(steps / torch.linalg.vector_norm(steps, dim=1, keepdim=True)).abs()
    if has_values(volume) and not bool((volume > 1e-6).all()):  # NaN where a column is zero
        raise ValueError(
            f"matrix must be invertible, got a singular one: the volume of its columns, each divided by its length, is "
            f"{volume.tolist()}."
        )
    inverse = torch.linalg.inv(linear)
    return torch.cat([inverse, -_product(inverse, matrix[:, :, dims:])], dim=2)


def compose_matrices(first: Tensor, second: Tensor) -> Tensor:
    """The map x ↦ second(first(x)) of two matrices (batch, dims, dims + 1)."""
    dims = first.shape[1]
    first, second = precise(first), precise(second)
    product = _product(second[:, :, :dims], first)
    return torch.cat([product[:, :, :dims], product[:, :, dims:] + second[:, :, dims:]], dim=2)


def fit_affine(fixed: Tensor, moving: Tensor, weights: Tensor, ridge: float = 1e-4) -> Tensor:
    """The matrix (batch, dims, dims + 1) that takes fixed points (batch, count, dims) nearest to moving ones: the least
    squares of their distances, weighted by (batch, count), in closed form.

    `ridge` is the weight of the identity beside that of all points: where the points say nothing it remains.

    Example:
        >>> fit_affine(points, points, torch.ones(1, 8))  # the identity
    """
    kind = precise(fixed).dtype
    fixed, moving, weights = fixed.double(), moving.double(), weights.double()
    share = (weights / weights.sum(1, keepdim=True).clamp_min(1e-12))[:, :, None]
    here, there = (share * fixed).sum(1, keepdim=True), (share * moving).sum(1, keepdim=True)
    own, other = fixed - here, moving - there
    remaining = ridge * torch.eye(fixed.shape[2], dtype=fixed.dtype, device=fixed.device)
    spread = (own[:, :, :, None] * (share * own)[:, :, None, :]).sum(1) + remaining
    common = (other[:, :, :, None] * (share * own)[:, :, None, :]).sum(1) + remaining
    linear = _product(common, inverse_of_small(spread))
    return torch.cat([linear, there.transpose(1, 2) - _product(linear, here.transpose(1, 2))], dim=2).to(kind)


class AffineField(nn.Module):
    """Matrix → displacement, for networks: `forward(matrix, image)` gives a field on the image's grid."""

    def forward(self, matrix: Tensor, image: Tensor) -> Tensor:
        return affine_field(matrix, list(image.shape[2:]))


def check_matrix(name: str, matrix: Tensor, dims: int | None = None) -> int:
    """Requires a finite (batch, dims, dims + 1); returns dims."""
    if (
        matrix.dim() != 3
        or matrix.shape[1] not in (2, 3)
        or matrix.shape[2] != matrix.shape[1] + 1
        or (dims is not None and matrix.shape[1] != dims)
    ):
        raise ValueError(
            f"{name} must be (batch, dims, dims + 1) with dims {dims or '2 or 3'}, got shape {tuple(matrix.shape)}."
        )
    check_finite(name, matrix)
    return matrix.shape[1]


def _check_parts(
    shear: Tensor | None, scale: Tensor | None, rotation: Tensor | None, translation: Tensor | None
) -> None:
    batch_and_dims: dict[str, tuple[int, int]] = {}
    for name, part in {"shear": shear, "scale": scale, "rotation": rotation, "translation": translation}.items():
        if part is None:
            continue
        dims = DIMS_BY_WIDTH[name].get(part.shape[1]) if part.dim() == 2 else None
        if dims is None:
            one, other = DIMS_BY_WIDTH[name]
            raise ValueError(
                f"{name} must be (batch, {one}) in 2-D or (batch, {other}) in 3-D, got shape {tuple(part.shape)}."
            )
        check_finite(name, part)
        batch_and_dims[name] = (part.shape[0], dims)
    if not batch_and_dims:
        raise ValueError("at least one of shear, scale, rotation and translation must be given, got None for all.")
    if len(set(batch_and_dims.values())) > 1:
        raise ValueError(f"all parts must have the same (batch, dims), got {batch_and_dims}.")


def _bounded(logarithm: Tensor) -> Tensor:
    """Unchanged from -log 10 to log 10, then smoothly up to twice that."""
    limit = math.log(10.0)
    moderate = logarithm.clamp(-limit, limit)
    return moderate + limit * torch.tanh((logarithm - moderate) / limit)


def _shear_matrix(shear: Tensor) -> Tensor:
    zero, one = torch.zeros_like(shear[:, 0]), torch.ones_like(shear[:, 0])
    if shear.shape[1] == 1:
        return torch.stack([one, shear[:, 0], zero, one], -1).reshape(-1, 2, 2)
    above_01, above_02, above_12 = shear.unbind(1)
    rows = [one, above_01, above_02, zero, one, above_12, zero, zero, one]
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """The matrix product of small matrices in full precision: autocast would round that of `@`."""
    return (first[:, :, :, None] * second[:, None]).sum(2)


def inverse_of_small(matrix: Tensor) -> Tensor:
    """Of (batch, 2, 2) or (batch, 3, 3), by cofactors: exporters do not know `torch.linalg.inv`."""
    if matrix.shape[1] == 2:
        a, b, c, d = matrix.flatten(1).unbind(1)
        cofactors = torch.stack([d, -b, -c, a], 1).reshape(-1, 2, 2)
        return cofactors / (a * d - b * c)[:, None, None]
    rows = [matrix[:, 0], matrix[:, 1], matrix[:, 2]]
    columns = [_cross(rows[1], rows[2]), _cross(rows[2], rows[0]), _cross(rows[0], rows[1])]
    return torch.stack(columns, 2) / (rows[0] * columns[0]).sum(1)[:, None, None]


def _cross(one: Tensor, other: Tensor) -> Tensor:
    (a, b, c), (d, e, f) = one.unbind(1), other.unbind(1)
    return torch.stack([b * f - c * e, c * d - a * f, a * e - b * d], 1)
