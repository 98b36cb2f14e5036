"""Transforms → files that ITK, ANTs, SimpleITK, elastix and Slicer read: see `warpzoo.transforms.itk`.

A transform is written as its own kind wherever ITK has that kind, otherwise as a dense field of displacements at the
voxels of the fixed image, where it warps the same. Volumes of one slice get 3-D files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from warpzoo.files import FileError
from warpzoo.geometry.composition import parts_of
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import POINTS_AT_ONCE, Affine, BSpline, Composition, Transform, Velocity
from warpzoo.images.formats import SUFFIXES
from warpzoo.images.image import Header, Image, flip_lps
from warpzoo.transforms.containers import HDF5, TEXT, write_itk_transforms
from warpzoo.transforms.displacement_images import VELOCITY, write_displacement_image
from warpzoo.transforms.itk import (
    EDGE,
    ItkBSpline,
    ItkDisplacementField,
    ItkTransform,
    itk_affine,
    itk_bspline,
    itk_displacement,
    map_field,
)


def write_transform(path: str | Path, transform: Transform, fixed: Image, moving: Image) -> Path:
    """One file, its kind by the suffix; `read_transform` reads it back.

    .tfm, .txt: an affine transform, a cubic B-spline, or a composition of those, each as its own kind.
    .h5, .hdf5: these, and dense fields: whatever else there is, at the voxels of the fixed image, followed by the
        affine transforms that come after it.
    .nii.gz, .nii: the displacement at the voxels of the fixed image, whatever the kind.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(SUFFIXES["nifti"]):
        return write_displacement_image(path, physical_displacement(transform, fixed, moving), _header(fixed, moving))
    if not name.endswith((*TEXT, *HDF5)):
        raise FileError(f"{path}: a transform's file must be named .tfm, .txt, .h5 or .nii.gz.")
    stored = _itk_transforms(transform, fixed, moving)
    if name.endswith(TEXT) and any(one.is_dense for one in stored):
        raise FileError(f"{path}: a dense transform's file must be named .h5, or .nii.gz for its displacement.")
    return write_itk_transforms(path, stored)


def write_transforms(
    folder: str | Path,
    transform: Transform,
    fixed: Image,
    moving: Image,
    kinds: Collection[str] = ("transform", "displacement"),
    prefix: str = "",
) -> list[Path]:
    """The files of a registered pair: `transform.tfm` (affine) or `transform.h5` (dense), and `displacement.nii.gz`."""
    folder, written = Path(folder), []
    header, matrix = _header(fixed, moving), isinstance(transform, Affine)
    if "transform" in kinds and matrix:
        written.append(write_transform(folder / f"{prefix}transform.tfm", transform, fixed, moving))
    if "displacement" not in kinds and (matrix or "transform" not in kinds):
        return written
    displacement = physical_displacement(transform, fixed, moving)
    if "transform" in kinds and not matrix:
        dense = [itk_displacement(displacement, header.affine)]
        written.append(write_itk_transforms(folder / f"{prefix}transform.h5", dense))
    if "displacement" in kinds:
        written.append(write_displacement_image(folder / f"{prefix}displacement.nii.gz", displacement, header))
    return written


def write_velocity(path: str | Path, transform: Velocity, fixed: Image) -> Path:
    """A stationary velocity on its own grid, in LPS millimetres per unit time: ITK has no kind of transform for it.

    For volumes of one slice it is in the plane's own millimetres.
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES["nifti"]):
        raise FileError(f"{path}: a velocity's file must be named .nii.gz or .nii.")
    grid = transform.grid
    vectors = map_field(flip_lps(grid.dims) @ grid.affine, _only("velocity", transform.velocity))
    header = replace(fixed.header, shape=grid.shape, affine=grid.affine, nifti=None)
    return write_displacement_image(path, vectors, header, VELOCITY)


def world_matrix(transform: Affine, fixed: Image, moving: Image) -> np.ndarray:
    """What an affine transform does to points of the fixed file's world: (dims + 1, dims + 1), RAS, float64.

    Between volumes of one slice it is 3-D: one plane onto the other, heights unchanged.
    """
    dims = transform.grid.dims
    matrix = np.eye(dims + 1)
    matrix[:dims] = _only("matrix", transform.world_matrix()).detach().cpu().numpy()
    lifts = _lifts(fixed, moving)
    if lifts is None:
        return matrix
    lifted = np.eye(4)
    lifted[np.ix_([0, 1, 3], [0, 1, 3])] = matrix
    return lifts[1] @ lifted @ np.linalg.inv(lifts[0])


def physical_displacement(transform: Transform, fixed: Image, moving: Image) -> Tensor:
    """The displacement at every voxel of the fixed image, (dims of its file, *shape of its file), LPS mm, float32.

    In memory it lies as ITK stores it, the components of a voxel side by side and the first axis fastest.
    """
    field = _only("transform", transform.field(fixed.grid)).detach().cpu()
    lifts = _lifts(fixed, moving)
    if lifts is None:
        field, backwards = field.float(), range(fixed.grid.dims - 1, -1, -1)
        matrix = (flip_lps(fixed.grid.dims) @ fixed.grid.affine)[:-1, :-1]
        stored = torch.empty(*reversed(fixed.grid.shape), fixed.grid.dims)
        for component, row in zip(stored.unbind(-1), matrix.tolist(), strict=True):
            total = row[0] * field[0]
            for entry, one in zip(row[1:], field[1:], strict=True):
                total = total.add_(one, alpha=entry)
            component.copy_(total.permute(*backwards))
        return stored.permute(fixed.grid.dims, *backwards)
    # from each point of the fixed plane to where it lies in the moving plane, seen from the latter
    voxels = fixed.grid.coordinates(torch.float64).T
    start = torch.from_numpy(np.linalg.inv(lifts[1]) @ lifts[0])
    flat = torch.from_numpy(fixed.grid.affine.copy())
    here = flat[:2, :2] @ voxels + flat[:2, 2:]
    there = here + flat[:2, :2] @ field.flatten(1).double()
    moved = start[:3, :2] @ here + start[:3, 3:]
    lift = torch.from_numpy(flip_lps(3) @ lifts[1])[:3, :3]
    displacement = lift @ (torch.cat([there, torch.zeros_like(there[:1])]) - moved)
    return displacement.float().reshape(3, *fixed.header.shape)


def _itk_transforms(transform: Transform, fixed: Image, moving: Image) -> list[ItkTransform]:
    """In the order in which points go through them."""
    if isinstance(transform, Affine):
        return [itk_affine(world_matrix(transform, fixed, moving))]
    dense, parts = 0, parts_of(transform)
    if _lifts(fixed, moving) is not None:
        dense = len(parts)
    elif not all(_is_exact(part, parts[:number], fixed.grid) for number, part in enumerate(parts)):
        dense = 1 + max(number for number, part in enumerate(parts) if not isinstance(part, Affine))
    stored = []
    if dense:
        head = Composition(*parts[:dense])
        stored = [itk_displacement(physical_displacement(head, fixed, moving), _header(fixed, moving).affine)]
    for part in parts[dense:]:
        if isinstance(part, Affine):
            stored.append(itk_affine(world_matrix(part, fixed, moving)))
        elif isinstance(part, BSpline):
            _only("control_points", part.control_points)
            stored.append(itk_bspline(part))
        else:
            vectors = map_field(flip_lps(part.grid.dims) @ part.grid.affine, _only("transform", part.field()))
            stored.append(itk_displacement(vectors, part.grid.affine))
    return stored


def _is_exact(part: Transform, before: Sequence[Transform], fixed: Grid) -> bool:
    """Whether ITK has the part's kind and it means the same wherever the voxels of the fixed image reach it."""
    if isinstance(part, (Affine, ItkDisplacementField)):
        return True
    if not isinstance(part, BSpline) or part.order != 3:
        return False
    if isinstance(part, ItkBSpline) or (not before and part.grid == fixed):
        return True
    last = torch.tensor(part.grid.shape) - 1
    for voxels in fixed.coordinates(torch.float64).split(POINTS_AT_ONCE):
        points = fixed.to_world(voxels)
        reached = part.grid.to_voxels(Composition(*before).world(points)[0] if before else points)
        if bool(((reached < -EDGE) | (reached > last + EDGE)).any()):
            return False
    return True


def _only(name: str, batch: Tensor) -> Tensor:
    if batch.shape[0] != 1:
        raise ValueError(f"{name} must be one transform for one file, got a batch of {batch.shape[0]}.")
    return batch[0]


def _header(fixed: Image, moving: Image) -> Header:
    header = fixed.header
    if header.lift is not None and _lifts(fixed, moving) is None:
        return replace(header, shape=fixed.grid.shape, affine=fixed.grid.affine, nifti=None)
    return header


def _lifts(fixed: Image, moving: Image) -> tuple[np.ndarray, np.ndarray] | None:
    """Where both are volumes of one slice their transform's file is 3-D; a slice and a picture meet in 2-D."""
    if fixed.header.lift is None or moving.header.lift is None:
        return None
    return fixed.header.lift, moving.header.lift
