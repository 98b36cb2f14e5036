"""Putting transforms together: each stays of its own kind as far as that goes, and matrices become one matrix.

Convention: as in `geometry.transforms`, points go through the parts in order.
"""

from __future__ import annotations

import numpy as np
import torch

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform


def identity(grid: Grid) -> Affine:
    return Affine(torch.eye(grid.dims, grid.dims + 1)[None], grid)


def composed(*parts: Transform | None) -> Transform:
    """One transform for those that are not None; affine maps at the end become one."""
    there = [part for part in parts if part is not None]
    if len(there) == 1:
        return there[0]
    first = there[0]
    field, matrix = split(Composition(*there), first.grid.dims)
    affine = Affine.from_world(torch.from_numpy(matrix[None, :-1]), first.grid)
    if field is None:
        return affine
    return field if np.allclose(matrix, np.eye(len(matrix))) else Composition(field, affine)


def split(transform: Transform | None, dims: int) -> tuple[Transform | None, np.ndarray]:
    """A transform as (what comes first, the matrix of the world that all affine parts at its end make)."""
    parts, matrix = parts_of(transform), np.eye(dims + 1)
    while parts and isinstance(affine := parts[-1], Affine):
        last = np.eye(dims + 1)
        last[:-1] = affine.world_matrix()[0].detach().cpu().numpy()
        matrix = matrix @ last
        parts.pop()
    if not parts:
        return None, matrix
    return (parts[0] if len(parts) == 1 else Composition(*parts)), matrix


def between(first: Transform, second: Transform, share: float, grid: Grid) -> Transform:
    """The transform that lies that share of the way from the first to the second: of two matrices along their matrix
    logarithm, so that half-way between two rotations is one; else along their displacements on the grid."""
    from scipy.linalg import expm, logm  # slow to import

    (field, start), (other_field, end) = split(first, grid.dims), split(second, grid.dims)
    if field is not None or other_field is not None:
        fields = first.field(grid).detach(), second.field(grid).detach()
        return DisplacementField(torch.lerp(*fields, share), grid)
    way = logm(np.linalg.solve(start, end))
    matrix = start @ expm(share * way.real) if np.allclose(way.imag, 0) else start + share * (end - start)
    return Affine.from_world(torch.from_numpy(matrix[None, :-1]), grid)


def parts_of(transform: Transform | None) -> list[Transform]:
    """What a transform is composed of, however deeply, in the order in which points go through it."""
    if isinstance(transform, Composition):
        return [one for part in transform.parts for one in parts_of(part)]
    return [] if transform is None else [transform]
