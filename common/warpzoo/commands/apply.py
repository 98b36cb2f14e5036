"""What the commands `apply` and `compare` do: carry files through transforms, and say how far two transforms differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from warpzoo.files import FileError

# what takes seconds to import is imported where it is needed: the help is there at once
if TYPE_CHECKING:
    from warpzoo.geometry.transforms import Transform
    from warpzoo.images.image import Image


def apply(
    transform: str | Sequence[str],
    image: str,
    reference: str | None = None,
    output: str | None = None,
    labels: bool = False,
    inverse: bool = False,
    outside: float = 0.0,
) -> str:
    """Carries an image, a label map or landmarks of the moving image to the fixed image, by transforms from files.

    Writes the result and prints its name. Several transforms are composed first and the image is interpolated once.

    Args:
        transform: an ITK transform (.tfm, .txt, .mat, .h5) or displacement field (.nii.gz, .mha, .nrrd), by warpzoo,
            ANTs, SimpleITK or elastix. Several are joined by commas, in the order in which points of the fixed image
            go through them; that is the order of `antsApplyTransforms -t`.
        image: what is carried: an image, or landmarks (.csv with columns x, y, z in RAS millimetres, or in pixels for
            images without a header; .fcsv; .mrk.json).
        reference: the image on whose grid the result lies: the fixed image, or with --inverse the moving image.
            Landmarks want it only where they are in pixels.
        output: where the result goes; by default `warped_…` in the current folder.
        labels: the image is a label map: the nearest label is taken, none is mixed.
        inverse: the other way round: from the fixed image to the moving image.
        outside: the value where the image says nothing.
    """
    import torch

    from warpzoo.geometry.inversion import inverted
    from warpzoo.geometry.transforms import resample
    from warpzoo.images.image import write_image
    from warpzoo.transforms.landmarks import SUFFIXES, carry_points, read_points, write_points

    path = Path(str(image))
    points = path.name.lower().endswith(SUFFIXES)
    if output is None:
        stem = path.name if points else f"{path.name.removesuffix('.gz').removesuffix(path.suffix)}.nii.gz"
        output = f"warped_{stem.replace('.nii.nii', '.nii')}"
    if Path(output).resolve() == path.resolve():
        raise FileError(f"{output} is the image itself; choose another name for the result.")
    composed = read_transforms(transform)
    flat = composed.grid.dims == 2
    target = None if reference is None else _read_for(composed, reference, flat)
    if points:
        header = None if target is None else target.header
        landmarks = read_points(path, header)
        carried = carry_points(composed, landmarks.points, to_fixed=not inverse)
        return str(write_points(output, landmarks._replace(points=carried), header))
    if target is None:
        raise ValueError("reference is missing; an image wants the one on whose grid the result lies (--reference).")
    moving = _read_for(composed, path, flat, labels)
    with torch.inference_mode():
        way = inverted(composed) if inverse else composed
        mode = "nearest" if labels else "linear"
        carried = resample(moving.array[None], moving.grid, way, target.grid, mode=mode, value=outside)
    return str(write_image(output, carried[0], target.header, moving.header.dtype))


def compare(first: str, second: str, reference: str, mask: str | None = None) -> dict[str, float]:
    """How far apart two transforms take the points of the fixed image: mean, median, 95th percentile and maximum.

    In millimetres (pixels for images without a header), over the voxels of a mask or of the whole reference.

    Args:
        first: an ITK transform or displacement field; several are joined by commas, as in `apply`.
        second: likewise.
        reference: the fixed image.
        mask: where to look: an image on any grid, above 0 at the voxels that count (for example its labels).
    """
    import numpy as np
    import torch

    from warpzoo.geometry.transforms import POINTS_AT_ONCE

    one, other = read_transforms(first), read_transforms(second)
    if one.grid.dims != other.grid.dims:
        raise ValueError(f"first is {one.grid.dims}-D and second {other.grid.dims}-D; they want the same.")
    where = _read_for(one, reference if mask is None else mask, flat=one.grid.dims == 2)
    voxels = where.array[0].isfinite() if mask is None else where.array[0] > 0
    if not bool(voxels.any()):
        raise FileError(f"{mask} is empty (no voxel above 0); a mask with a voxel is wanted.")
    distances = []
    with torch.inference_mode():
        for some in voxels.nonzero().split(POINTS_AT_ONCE):
            points = where.grid.to_world(some.double())
            distances.append(torch.linalg.vector_norm(one.world(points) - other.world(points), dim=-1).flatten())
    apart = torch.cat(distances).numpy()
    return {
        "mean": float(apart.mean()),
        "median": float(np.median(apart)),
        "95th percentile": float(np.percentile(apart, 95)),
        "maximum": float(apart.max()),
        "voxels": int(apart.size),
    }


def read_transforms(transform: str | Sequence[str]) -> Transform:
    """One transform of one file or of several, in the order in which points of the fixed image go through them."""
    from warpzoo.geometry.transforms import Composition
    from warpzoo.transforms.itk import read_transform

    names = transform.split(",") if isinstance(transform, str) else list(transform)
    parts = [read_transform(name) for name in names]
    if len({part.grid.dims for part in parts}) > 1:
        dims = ", ".join(f"{name} {part.grid.dims}-D" for name, part in zip(names, parts, strict=True))
        raise FileError(f"The transforms want the same number of axes: {dims}.")
    return parts[0] if len(parts) == 1 else Composition(*parts)


def _read_for(transform: Transform, path: str | Path, flat: bool, labels: bool = False) -> Image:
    """An image of the transform's dimension; a volume of one slice goes with both."""
    from warpzoo.images.image import read_image

    image = read_image(path, labels=labels, flat=flat)
    if image.grid.dims != transform.grid.dims:
        raise FileError(f"{path} is {image.grid.dims}-D and the transform {transform.grid.dims}-D; they want the same.")
    return image
