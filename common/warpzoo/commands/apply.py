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
    from warpzoo.images.resampling import Resampling


def apply(
    transform: str | Sequence[str],
    image: str,
    reference: str | None = None,
    output: str | None = None,
    labels: bool = False,
    inverse: bool = False,
    channels: bool = False,
    interpolation: str = "linear",
    outside: float | None = None,
    time_axis: int | None = None,
) -> str:
    """Warps an image, a label map or landmarks of the moving image to the fixed image, by transforms from files.

    Writes the result and prints its name. Several transforms are composed first and the image is interpolated once. By
    a folder of transforms, one for each frame, a series is warped frame by frame.

    Args:
        transform: an ITK transform (.tfm, .txt, .mat, .h5) or displacement field (.nii.gz, .mha, .nrrd), by warpzoo,
            ANTs, SimpleITK or elastix. Several are joined by commas, in the order in which points of the fixed image
            go through them; that is the order of `antsApplyTransforms -t`. One may be a folder with a transform for
            each frame, such as registered/transforms; the image is then a series, landmarks have a column frame.
        image: the image to be warped, or landmarks (.csv with columns x, y, z in RAS millimetres, or in pixels for
            images without a header; .fcsv; .mrk.json).
        reference: the image that defines the result's grid: the fixed image, or with --inverse the moving image.
            For landmarks it is needed only if they are in pixels. If it has time, its first frame is taken.
        output: the file to write; default: `warped_…` in the current folder.
        labels: the image is a label map: nearest-neighbour interpolation.
        inverse: warp in the opposite direction, from the fixed image to the moving image.
        channels: the image has several channels; the output is a vector image (.nii.gz).
        interpolation: of an image: linear, cubic (B-spline) or nearest.
        outside: fill value outside the image; default: its least value, of labels 0, as `warpzoo register` fills.
        time_axis: which axis of a series is time, counted from 0, the slowest first, if its file does not say.
    """
    from warpzoo.images.image import write_image
    from warpzoo.images.resampling import Resampling
    from warpzoo.transforms import frames_of, read_transforms
    from warpzoo.transforms.landmarks import SUFFIXES, read_points, warp_points, write_points

    path = Path(str(image))
    points = path.name.lower().endswith(SUFFIXES)
    named = output
    if output is None:
        stem = path.name if points else f"{path.name.removesuffix('.gz').removesuffix(path.suffix)}.nii.gz"
        output = f"warped_{stem.replace('.nii.nii', '.nii')}"
    if Path(output).resolve() == path.resolve():
        raise FileError(f"output must have a name of its own, got the image itself, {output}.")
    if (frames := frames_of(transform)) is not None:
        if points:
            return _apply_to_points(frames, path, reference, output, inverse)
        resampling = Resampling(interpolation, outside)
        return _apply_to_series(frames, path, reference, named, resampling, labels, inverse, channels, time_axis)
    composed = read_transforms(transform)
    flat = composed.grid.dims == 2
    target = None if reference is None else _read_reference(composed, reference)
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


def _apply_to_series(
    frames: Sequence[Sequence[Path]],
    path: Path,
    reference: str | None,
    output: str | None,
    resampling: Resampling,
    labels: bool,
    inverse: bool,
    channels: bool,
    time_axis: int | None,
) -> str:
    """Warps each frame by its transforms; one of them is in memory at a time."""
    from warpzoo.images.series import create_series, open_series
    from warpzoo.transforms import read_transforms

    if reference is None:
        raise ValueError("reference must be given: it defines the result's grid; it may be the series itself.")
    first = read_transforms(frames[0])
    series = open_series(path, labels, channels, time_axis, flat=first.grid.dims == 2)
    if len(series) != len(frames):
        raise FileError(f"{path} must have a frame for each of the {len(frames)} transforms, got {len(series)}.")
    target = _read_reference(first, reference, time_axis if Path(reference) == path else None)
    written = Path(output or series.name(f"warped_{path.name.partition('.')[0]}", target))
    with create_series(written, series, target) as file:
        for frame, files in enumerate(frames):
            way = read_transforms(files)
            file.put(frame, resampling(series[frame], way.inverse() if inverse else way, target))
    return str(written)


def _apply_to_points(
    frames: Sequence[Sequence[Path]], path: Path, reference: str | None, output: str, inverse: bool
) -> str:
    """Warps the landmarks of each frame by its transforms."""
    from warpzoo.transforms import points_by_frame, read_transforms, together, warp_points, write_points

    header = None if reference is None else _read_reference(read_transforms(frames[0]), reference).header
    known = points_by_frame(path, header)
    if max(known) >= len(frames):
        raise FileError(f"{path} must be in the frames 0 to {len(frames) - 1}, got frame {max(known)}.")
    warped = [
        one._replace(points=warp_points(read_transforms(frames[frame]), one.points, to_fixed=not inverse))
        for frame, one in known.items()
    ]
    return str(write_points(output, together(warped), header))


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
    where = _read_reference(one, reference) if mask is None else _read_for(one, mask, flat=one.grid.dims == 2)
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


def _read_reference(transform: Transform, path: str | Path, time_axis: int | None = None) -> Image:
    """An image on whose grid results lie: of a series the first frame."""
    from warpzoo.images.series import has_time, open_series

    flat = transform.grid.dims == 2
    if time_axis is not None or has_time(path):
        return open_series(path, time_axis=time_axis, flat=flat)[0]
    return _read_for(transform, path, flat)
