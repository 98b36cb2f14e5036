"""The model of an image in the world, and files read into it and written from it.

Convention: array axes are (channels, x, y[, z]), as nibabel and MONAI have them; the grid maps voxels to RAS world
millimetres. Formats without a place in the world (PNG, JPEG, TIFF, OME-Zarr) use pixels: (column, row) from the centre
of the first one, with both signs turned as between LPS and RAS, so that ITK sees plain pixel coordinates. Print
resolutions (dpi) are not a spacing and are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.files import FileError, TooLargeError, whole_file
from warpzoo.geometry.grid import Grid

if TYPE_CHECKING:
    from warpzoo.images.source import Source


@dataclass(frozen=True)
class Header:
    """What a file says beside its values, and what is needed to write another like it.

    path: the file, or what messages call an image that has none.
    shape, affine: as in the file, before a one-slice volume becomes 2-D; affine maps voxels to RAS millimetres.
    dtype: of the values (float32 where a NIfTI scales its integers).
    pixels: True for images whose world is pixels.
    warnings: sentences about what is doubtful in the header.
    nifti: the header of a NIfTI.
    indexed: True for arrays that have a spacing at most: their axes have no anatomical direction.
    lift: for a volume of one slice read as 2-D, the orthonormal 4 × 4 matrix from (2-D world, height over the slice) to
        the file's world.
    """

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype
    pixels: bool = False
    warnings: tuple[str, ...] = ()
    nifti: Any = None
    lift: np.ndarray | None = None
    indexed: bool = False

    def place(self, flat: bool = True) -> tuple[Grid, Header]:
        """The grid of the voxels, and the header with its `lift`; a volume of one slice is 2-D if `flat`."""
        if not flat or len(self.shape) < 3 or 1 not in self.shape:
            return Grid(self.shape, self.affine), self
        axis = self.shape.index(1)
        affine, lift = flatten_affine(self.affine, axis)
        return Grid(np.delete(self.shape, axis).tolist(), affine), replace(self, lift=lift)


@dataclass(frozen=True)
class Image:
    """array (channels, *spatial), the grid its voxels lie on, and the header of its file.

    Example:
        >>> image = Image.in_memory(torch.rand(1, 64, 48), Grid((64, 48), np.diag([0.5, 0.5, 1.0])), "fixed image")
    """

    array: Tensor
    grid: Grid
    header: Header

    def __post_init__(self) -> None:
        if tuple(self.array.shape[1:]) != self.grid.shape:
            raise ValueError(
                f"array must be (channels, {', '.join(map(str, self.grid.shape))}) on {self.grid}, got "
                f"{tuple(self.array.shape)}."
            )

    @classmethod
    def in_memory(cls, array: Tensor, grid: Grid, name: str = "image", pixels: bool = False) -> Image:
        """An image without a file; `name` is what messages call it, `pixels` whether its world is pixels."""
        dtype = array.new_empty(0, device="cpu").numpy().dtype
        return cls(array, grid, Header(Path(name), grid.shape, grid.affine, dtype, pixels))

    def on(self, target: Image, array: Tensor) -> Image:
        """The image resampled on another one's grid, as `array`: to be written like that one, of its own type."""
        return Image(array, target.grid, replace(target.header, path=self.header.path, dtype=self.header.dtype))


def open_image(path: str | Path, labels: bool = False, channels: bool = False) -> Source:
    """The file with all its axes, its values to be read where they are needed; `labels` if it is a label map,
    `channels` if a picture's colours are an axis."""
    from warpzoo.images.formats import format_of

    return format_of(Path(path)).open_file(Path(path), labels, channels)


def read_image(
    path: str | Path,
    labels: bool = False,
    flat: bool = True,
    time: int | None = None,
    channel: int | None = None,
    channels: bool = False,
) -> Image:
    """One image or volume: (1, *spatial), float32, or int64 for a label map (whole numbers only).

    Args:
        path: a file, or a folder with one DICOM series.
        labels: whether it is a label map.
        flat: a volume of one slice becomes 2-D, in the plane's own millimetres.
        time: which time point of a series, counted from 0.
        channel: which channel, counted from 0.
        channels: all of them, (channels, *spatial): colours, values of a vector image, or the fourth axis of a NIfTI.

    Series, several channels and colour are refused unless one is chosen; a picture whose colours are all grey is grey.
    """
    source = open_image(path, labels, channels)
    header = source.header
    try:
        values = source.channels() if channels else source.frame(time, channel)[None]
        array = to_tensor(header.path, values, labels)
    except (MemoryError, TooLargeError) as error:
        gigabytes = np.prod(source.shape, dtype=float) * header.dtype.itemsize / 1e9
        raise FileError(
            f"{path} has {by(source.shape)} {header.dtype} values ({gigabytes:.3g} GB), more than fit into memory; "
            f"crop or downsample it, or export it again if its header is wrong."
        ) from error
    grid, header = header.place(flat)
    if sum(side > 1 for side in grid.shape) < 2:
        raise FileError(f"{path} must have at least two sides longer than 1 voxel, got {by(header.shape)}.")
    return Image(array.reshape(-1, *grid.shape), grid, header)


def write_image(path: str | Path, array: Tensor, like: Header, dtype: np.dtype | type | str | None = None) -> Path:
    """Writes (1, *spatial) on the grid of the file that `like` describes, with its header; the format is by the suffix.

    Several channels are written as the values of a vector image, NIfTI only.

    `dtype` (by default like's) is kept: values are rounded for whole numbers and clipped to the type's range. The same
    values give the same bytes.
    """
    from warpzoo.images.formats import format_of

    path = Path(path)
    values = to_dtype(array, like.dtype if dtype is None else np.dtype(dtype))
    if len(array) > 1 and "nii" not in path.name.lower().split("."):
        raise FileError(f"{path} cannot hold {len(array)} channels; choose .nii.gz for its name.")
    values = vector_values(values, like.shape) if len(array) > 1 else values.reshape(like.shape)
    write = getattr(format_of(path), "write", None)
    if write is None:
        raise unknown_name(path)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        write(file, path, values, like)
    return path


def vector_values(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """(channels, *spatial) as the five axes x, y, z, 1, channels that a NIfTI has them in."""
    whole = np.moveaxis(values.reshape(len(values), *shape), 0, -1)
    return whole.reshape(*shape, *[1] * (4 - len(shape)), len(values))


def to_dtype(array: Tensor, dtype: np.dtype) -> np.ndarray:
    """The values in another type: rounded and clipped to its range where it is one of whole numbers."""
    dtype = dtype.newbyteorder("=")
    if not array.is_floating_point() or dtype.kind == "f":
        return array.cpu().numpy().astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    # float32 does not hold the limits of 32-bit types; float64 does, and of 64-bit types up to the last few
    values = array.cpu().numpy().astype(np.float64 if limits.bits >= 32 else np.float32)
    low, high = values.dtype.type(limits.min), values.dtype.type(limits.max)
    if limits.bits == 64:
        high = np.nextafter(high, 0)
    return np.clip(np.rint(values, out=values), low, high, out=values).astype(dtype)


def flatten_affine(affine: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The 3 × 3 matrix of a one-slice volume seen as 2-D, and the orthonormal 4 × 4 `lift` back to its world.

    The plane is turned by the least rotation that lays it on the nearest pair of world axes, so lengths stay
    millimetres and an axial slice keeps its x and y.
    """
    in_plane = [other for other in range(3) if other != axis]
    normal = np.cross(affine[:3, in_plane[0]], affine[:3, in_plane[1]])
    normal /= np.linalg.norm(normal)
    height = int(np.abs(normal).argmax())
    normal *= np.sign(normal[height])
    kept = [other for other in range(3) if other != height]
    target = np.eye(3)[height]
    turn = np.cross(normal, target)
    skew = np.array([[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0]])
    rotation = np.eye(3) + skew + skew @ skew / (1 + normal @ target)
    turned = rotation @ affine[:3]
    flat = np.eye(3)
    flat[:2] = turned[np.ix_(kept, [*in_plane, 3])]
    lift = np.eye(4)
    lift[:3, :3] = rotation.T[:, [*kept, height]]
    lift[:3, 3] = rotation.T[:, height] * turned[height, 3]
    return flat, lift


def flip_lps(dims: int) -> np.ndarray:
    """RAS ↔ LPS on homogeneous points: x and y change sign."""
    return np.diag([-1.0, -1.0] + [1.0] * (dims - 1))


def from_lps(direction: Any, spacing: Any, origin: Any) -> np.ndarray:
    """What ITK says of an image's place, in LPS → the matrix from voxels to RAS."""
    dims = len(spacing)
    lps = np.eye(dims + 1)
    lps[:dims, :dims], lps[:dims, dims] = np.asarray(direction) * np.asarray(spacing), origin
    return flip_lps(dims) @ lps


def to_lps(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inverse of `from_lps`: direction, spacing and origin."""
    lps = flip_lps(len(affine) - 1) @ affine
    spacing = np.linalg.norm(lps[:-1, :-1], axis=0)
    return lps[:-1, :-1] / spacing, spacing, lps[:-1, -1]


def by(shape: Sequence[float]) -> str:
    """A shape in words: 3 × 4 × 5."""
    return " × ".join(map(str, shape))


def unknown_name(path: Path) -> FileError:
    """A file name whose suffix is of no format that is written."""
    return FileError(f"{path} is of no kind that is written; choose .nii.gz, .nii, .mha, .nrrd, .tif or .png.")


def to_tensor(path: Path, values: np.ndarray, labels: bool) -> Tensor:
    """float32, or int64 for label maps, of values as a file has them."""
    if values.dtype.kind not in "biuf":
        raise FileError(f"{path} must hold one real number per voxel, got {values.dtype} values.")
    if not labels:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    whole = values.astype(np.int64)
    if values.dtype.kind == "f" and not (whole == values).all():
        raise FileError(f"{path} must be a label map of whole numbers, got fractions (an image is no label map).")
    return torch.from_numpy(np.ascontiguousarray(whole))
