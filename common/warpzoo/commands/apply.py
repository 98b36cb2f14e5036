"""The commands `warpzoo apply` and `warpzoo compare`: files through transforms, and transforms compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from warpzoo.files import FileError

# slow imports are inside the functions, so that the help is fast
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
    channels: bool = False,
    interpolation: str = "linear",
    outside: float = 0.0,
) -> str:
    """Warps an image, a label map or landmarks of the moving image to the fixed image, by transforms from files.

    Writes the result and prints its name. Several transforms are composed first and the image is interpolated once.

    Args:
        transform: an ITK transform (.tfm, .txt, .mat, .h5) or displacement field (.nii.gz, .mha, .nrrd), by warpzoo,
            ANTs, SimpleITK or elastix. Several are joined by commas, in the order in which points of the fixed image
            go through them; that is the order of `antsApplyTransforms -t`.
        image: the image to be warped, or landmarks (.csv with columns x, y, z in RAS millimetres, or in pixels for
            images without a header; .fcsv; .mrk.json).
        reference: the image that defines the result's grid: the fixed image, or with --inverse the moving image.
            For landmarks it is needed only if they are in pixels.
        output: the file to write; default: `warped_…` in the current folder.
        labels: the image is a label map: nearest-neighbour interpolation.
        inverse: warp in the opposite direction, from the fixed image to the moving image.
        channels: the image has several channels; the output is a vector image (.nii.gz).
        interpolation: of an image: linear, cubic (B-spline) or nearest.
        outside: fill value outside the image.
    """
    from warpzoo.images.image import write_image
    from warpzoo.images.resampling import Resampling
    from warpzoo.transforms import read_transforms
    from warpzoo.transforms.landmarks import SUFFIXES, read_points, warp_points, write_points

    path = Path(str(image))
    points = path.name.lower().endswith(SUFFIXES)
    if output is None:
        stem = path.name if points else f"{path.name.removesuffix('.gz').removesuffix(path.suffix)}.nii.gz"
        output = f"warped_{stem.replace('.nii.nii', '.nii')}"
    if Path(output).resolve() == path.resolve():
        raise FileError(f"output must have a name of its own, got the image itself, {output}.")
    composed = read_transforms(transform)
    flat = composed.grid.dims == 2
    target = None if reference is None else _read_for(composed, reference, flat)
    if points:
        header = None if target is None else target.header
        landmarks = read_points(path, header)
        warped = warp_points(composed, landmarks.points, to_fixed=not inverse)
        return str(write_points(output, landmarks._replace(points=warped), header))
    if target is None:
        raise ValueError("reference must be given for an image: it defines the result's grid.")
    moving = _read_for(composed, path, flat, labels, channels)
    way = composed.inverse() if inverse else composed
    result = Resampling(interpolation, outside)(moving, way, target)
    return str(write_image(output, result.array, result.header))


def compare(first: str, second: str, reference: str, mask: str | None = None) -> dict[str, float]:
    """Distance between two transforms at the points of the fixed image: mean, median, 95th percentile and maximum.

    In millimetres (pixels for images without a header), over the voxels of a mask or of the reference.

    Args:
        first: an ITK transform or displacement field; several are joined by commas, as in `apply`.
        second: likewise.
        reference: the fixed image.
        mask: an image on any grid that is above 0 at the voxels to compare at, such as a label map.
    """
    import numpy as np
    import torch

    from warpzoo.geometry.transforms import POINTS_AT_ONCE
    from warpzoo.transforms import read_transforms

    one, other = read_transforms(first), read_transforms(second)
    if one.grid.dims != other.grid.dims:
        raise ValueError(
            f"first and second must have the same number of axes, got {one.grid.dims}-D and {other.grid.dims}-D."
        )
    where = _read_for(one, reference if mask is None else mask, flat=one.grid.dims == 2)
    voxels = where.array[0].isfinite() if mask is None else where.array[0] > 0
    if not bool(voxels.any()):
        raise FileError(f"{mask} must have a voxel above 0, got an empty mask.")
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


def _read_for(
    transform: Transform, path: str | Path, flat: bool, labels: bool = False, channels: bool = False
) -> Image:
    """An image of the transform's dimension; a volume of one slice goes with both."""
    from warpzoo.images.image import read_image

    image = read_image(path, labels=labels, flat=flat, channels=channels)
    if image.grid.dims != transform.grid.dims:
        raise FileError(f"{path} must be {transform.grid.dims}-D as the transform is, got {image.grid.dims}-D.")
    return image
