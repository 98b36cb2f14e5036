"""A subject's transform as two parts that can be averaged: a matrix, and a displacement before it.

Convention: points of the template go through the displacement, in voxels of the template's grid, and then the matrix of
the world. The mean of matrices is that of their logarithms, about the template's middle, where it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import expm, logm

from warpzoo.files import whole_file
from warpzoo.geometry.composition import composed, split
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, DisplacementField, Transform


class Pose(NamedTuple):
    """A subject's transform in two parts: the matrix of the world (dims + 1, dims + 1), and before it a displacement
    (dims, *grid) in voxels of the template, if there is one."""

    matrix: np.ndarray
    displacement: np.ndarray | None = None

    def transform(self, grid: Grid) -> Transform:
        affine = Affine.from_world(torch.from_numpy(self.matrix[None, :-1]), grid)
        if self.displacement is None:
            return affine
        return composed(DisplacementField(torch.from_numpy(self.displacement)[None], grid), affine)

    @classmethod
    def of(cls, transform: Transform, grid: Grid) -> Pose:
        deformation, matrix = split(transform, grid.dims)
        if deformation is None:
            return cls(matrix)
        return cls(matrix, deformation.field(grid)[0].detach().float().numpy())


def write_pose(path: Path, pose: Pose, **others: Any) -> None:
    parts = {name: value for name, value in pose._asdict().items() if value is not None}
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, **parts, **others)


def read_pose(path: Path) -> Pose:
    return read_mean(path)[0]


def read_mean(path: Path) -> tuple[Pose, np.ndarray | None]:
    """The mean of all and, if it has a displacement, the way back through it."""
    with np.load(path) as parts:
        return Pose(parts["matrix"], parts.get("displacement")), parts.get("back")


def mean_matrix(matrices: Sequence[np.ndarray], centre: np.ndarray) -> np.ndarray:
    """The mean of matrices of the world as maps about a point, which it keeps in place: the exponential of the mean of
    the logarithms of their linear parts."""
    linear = [np.real(logm(matrix[:-1, :-1])) for matrix in matrices]
    mean = np.eye(len(centre) + 1)
    mean[:-1, :-1] = expm(np.mean(linear, axis=0))
    mean[:-1, -1] = centre - mean[:-1, :-1] @ centre
    return mean


def way_back(mean: Pose, grid: Grid) -> np.ndarray:
    """Where the mean of all takes what comes to each voxel of the grid, by its matrix and then its displacement, as a
    displacement: the search is the same for all subjects."""
    back = Affine.from_world(torch.from_numpy(np.linalg.inv(mean.matrix)[None, :-1]), grid)
    of_all = DisplacementField(torch.from_numpy(mean.displacement)[None], grid)
    return composed(back, of_all.inverse()).field(grid)[0].detach().float().numpy()


def centred_pose(pose: Pose, mean: Pose, back: np.ndarray | None, grid: Grid) -> Pose:
    """A pose after points have gone back through the mean of all, which is the `way_back` if there is a displacement,
    again in two parts."""
    matrix = pose.matrix @ np.linalg.inv(mean.matrix)
    if pose.displacement is None or back is None:
        return Pose(matrix, pose.displacement)
    there = Affine.from_world(torch.from_numpy(mean.matrix[None, :-1]), grid)
    through, own = (DisplacementField(torch.from_numpy(one)[None], grid) for one in (back, pose.displacement))
    parts = composed(through, own, DisplacementField(there.field(grid), grid))
    return Pose(matrix, parts.field(grid)[0].detach().float().numpy())


def off_centre(mean: Pose, grid: Grid) -> float:
    """The mean distance, in the world's unit, by which the mean of all transforms moves the template's voxels."""
    field = mean.transform(grid).field(grid)[0].double()
    vectors = torch.from_numpy(grid.affine[:-1, :-1].copy()) @ field.flatten(1)
    return float(torch.linalg.vector_norm(vectors, dim=0).mean())
