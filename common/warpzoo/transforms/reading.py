"""Transforms from the files of ITK, ANTs, SimpleITK, elastix and Slicer: see `warpzoo.transforms.itk`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from warpzoo.files import FileError, reading, shortened
from warpzoo.geometry.composition import composed
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform
from warpzoo.images.formats import SUFFIXES
from warpzoo.images.image import Image
from warpzoo.transforms.containers import HDF5, MATLAB, TEXT, read_itk_transforms
from warpzoo.transforms.displacement_images import ITK_IMAGES, read_displacement_image
from warpzoo.transforms.itk import from_itk

KINDS = "an ITK transform (.tfm, .txt, .mat, .h5) or a displacement field (.nii.gz, .mha, .nrrd)"


def read_transforms(names: str | Path | Sequence[str | Path]) -> Transform:
    """One transform of one file or of several, joined by commas if they are one text, in the order in which points of
    the fixed image go through them; matrices at the end become one matrix."""
    paths = str(names).split(",") if isinstance(names, (str, Path)) else list(names)
    parts = [read_transform(path) for path in paths]
    if len({part.grid.dims for part in parts}) > 1:
        dims = ", ".join(f"{path} {part.grid.dims}-D" for path, part in zip(paths, parts, strict=True))
        raise FileError(f"transforms must have the same number of axes, got {dims}.")
    return composed(*parts)


def frames_of(names: str | Path | Sequence[str | Path]) -> list[list[Path]] | None:
    """Where one of the names is a folder of a transform for each frame of a series, frame_0000.tfm and so on: the files
    of each frame; None if none is."""
    paths = [Path(one) for one in (str(names).split(",") if isinstance(names, (str, Path)) else names)]
    found = {path: sorted(path.glob("frame_*")) for path in paths if path.is_dir()}
    if not found:
        return None
    for folder, files in found.items():
        numbers = [file.name.removeprefix("frame_").split(".")[0] for file in files]
        if not files or [int(one) if one.isdecimal() else None for one in numbers] != [*range(len(files))]:
            raise FileError(
                f"{folder} must hold a transform for each frame, frame_0000.tfm and so on, got {len(files)}."
            )
    counts = {len(files) for files in found.values()}
    if len(counts) > 1:
        raise FileError(f"folders of transforms must have the same number of frames, got {sorted(counts)}.")
    return [[found[path][frame] if path in found else path for path in paths] for frame in range(counts.pop())]


def read_start(names: str | Path | Sequence[str | Path], fixed: Image, moving: Image) -> Transform:
    """Transforms of files as one between two images: between volumes of one slice, which are 2-D, a 3-D one is taken in
    their planes; a matrix stays a matrix."""
    transform, dims = read_transforms(names), fixed.grid.dims
    lifts = fixed.header.lift, moving.header.lift
    if transform.grid.dims == 3 and lifts[0] is not None and lifts[1] is not None:
        transform = in_plane(transform, fixed.grid, lifts[0], lifts[1])
    if transform.grid.dims != dims:
        shown = names if isinstance(names, (str, Path)) else ", ".join(map(str, names))
        raise FileError(f"{shown} must be {dims}-D as {fixed.header.path} is, got a {transform.grid.dims}-D transform.")
    return transform


def in_plane(transform: Transform, grid: Grid, fixed_lift: np.ndarray, moving_lift: np.ndarray) -> Transform:
    """A 3-D transform between the planes of two volumes of one slice; the heights that it leads to are dropped."""
    lift, drop = torch.from_numpy(fixed_lift), torch.from_numpy(np.linalg.inv(moving_lift))
    if isinstance(transform, Affine):
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3] = transform.world_matrix()[0]
        return Affine.from_world((drop @ matrix @ lift)[None, :2][:, :, [0, 1, 3]], grid)
    voxels = grid.coordinates(torch.float64)
    places = torch.cat([grid.to_world(voxels), torch.zeros(len(voxels), 1)], 1)
    with torch.no_grad():
        there = transform.world(places @ lift[:3, :3].mT + lift[:3, 3])[0]
    reached = grid.to_voxels((there @ drop[:3, :3].mT + drop[:3, 3])[:, :2])
    displacement = (reached - voxels).mT.reshape(1, 2, *grid.shape)
    return DisplacementField(displacement.float(), grid)


def read_transform(path: str | Path) -> Transform:
    """Any ITK transform or displacement field as a function on points, from the fixed to the moving space.

    Affine kinds (translation, Euler, versor, similarity, scale …) become `Affine`, B-splines `BSpline`, displacement
    fields `DisplacementField`, composites `Composition`; float64 but for dense fields.

    Example:
        >>> transform = read_transform("0GenericAffine.mat")
        >>> moved = transform.world(points)  # RAS millimetres of the fixed image → of the moving image
    """
    path = Path(path)
    name = path.name.lower()
    with reading(path, KINDS):
        if name.endswith((*SUFFIXES["nifti"], *ITK_IMAGES)):
            return read_displacement_image(path)
        if not name.endswith((*TEXT, *HDF5, *MATLAB)):
            raise FileError(f"{path} must be {KINDS}, got another suffix.")
        stored = [one for one in read_itk_transforms(path) if one.kind != "CompositeTransform"]
        for one in stored:
            if not one.is_read:
                order = f" of order {one.order}" if one.kind == "BSplineTransform" else ""
                raise FileError(
                    f"{path} holds a {one.dims}-D {shortened(one.kind)}{order}, which is not read; convert it to an "
                    f"AffineTransform or a displacement field."
                )
        if not stored:
            raise FileError(f"{path} holds no transform; it must be {KINDS}.")
        parts = [from_itk(one) for one in reversed(stored)]
        return parts[0] if len(parts) == 1 else Composition(*parts)
