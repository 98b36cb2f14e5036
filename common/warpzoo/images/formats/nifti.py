"""NIfTI-1 and NIfTI-2, compressed or not: volumes and series, placed in the world as ITK, ANTs and Slicer do it."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from warpzoo.files import FileError, reading, whole_file
from warpzoo.images.formats import SUFFIXES
from warpzoo.images.image import Header, flatten_affine
from warpzoo.images.source import (
    DEFLATE_RATIO,
    IN_MEMORY,
    OnDisk,
    Source,
    Stored,
    Unpacked,
    check_size,
    colour,
    duration,
)

GZIP_LEVEL = 1
MILLIMETRES = {"meter": 1e3, "micron": 1e-3}
"""What a header's unit of space is, where it is another one or none is named."""
AXES = "XYZTCQR"
"""Letters of the seven axes that a NIfTI can have; the format names the first four."""


def open_file(path: Path, labels: bool = False, channels: bool = False) -> Source:
    import nibabel

    with reading(path, "NIfTI"):
        nifti: Any = nibabel.load(path)
        header = nifti.header
        shape = tuple(int(side) for side in nifti.shape)
        stored_dtype = header.get_data_dtype()
        if stored_dtype.fields is not None:
            raise colour(path)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) < 2:
            raise FileError(f"{path} must have two or three axes, got {len(shape)}.")
        packed = path.name.lower().endswith(".gz")
        proxy = nifti.dataobj
        scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
        check_size(path, shape, stored_dtype, proxy.offset, DEFLATE_RATIO if packed else 1)
        affine, warnings = nifti_affine(path, header)
    stored: Stored = OnDisk(path, stored_dtype, proxy.offset, shape[::-1])
    if packed:
        large = prod(shape) * stored_dtype.itemsize > IN_MEMORY
        copy = partial(_copy_on_disk, dtype=stored_dtype, offset=proxy.offset, shape=shape[::-1])
        stored = Unpacked(path, partial(_unpack, shape=shape), copy if large else None)
    if scaled:
        stored = _Scaled(stored, proxy.slope, proxy.inter)
    if len(shape) == 2:
        affine = flatten_affine(affine, axis=2)[0]
    dtype = np.dtype(np.float32) if scaled else stored_dtype.newbyteorder("=")
    spatial = tuple(range(min(3, len(shape))))
    described = Header(path, shape[:3], affine, dtype, warnings=warnings, nifti=header)
    return Source(described, AXES[: len(shape)], shape, spatial, stored, seconds=_seconds(header))


def _unpack(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    import nibabel

    with reading(path, "NIfTI"):
        np.empty(shape, np.float32)  # a MemoryError now, not after minutes of unpacking
        nifti: Any = nibabel.load(path)
        return nifti.dataobj.get_unscaled().reshape(shape, order="F").T


def _copy_on_disk(path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> OnDisk:
    """The values unpacked into a temporary file without a name, which is gone with the object."""
    with reading(path, "NIfTI"), gzip.open(path) as packed:
        packed.seek(offset)
        file = TemporaryFile()  # noqa: SIM115 (it lives with what is returned)
        shutil.copyfileobj(packed, file, 2**20)
        if file.tell() < prod(shape) * dtype.itemsize:
            raise FileError(f"{path} is incomplete: it ends before its last voxel; copy or export it again.")
        file.flush()
        return OnDisk(path, dtype, 0, shape, file)


class _Scaled:
    """Values that are stored as whole numbers with a slope and an intercept, as float32."""

    def __init__(self, stored: Stored, slope: float, intercept: float) -> None:
        self.stored, self.slope, self.intercept = stored, slope, intercept

    def __getitem__(self, index: Any) -> np.ndarray:
        from nibabel.volumeutils import apply_read_scaling

        values = np.asarray(self.stored[index])
        return apply_read_scaling(values, np.float32(self.slope), np.float32(self.intercept)).astype(np.float32)


def _seconds(header: Any) -> float | None:
    """From one time point to the next; a header without a unit of time has seconds."""
    return duration(float(header["pixdim"][4]), header.get_xyzt_units()[1]) if header["dim"][0] > 3 else None


def nifti_affine(path: Path, header: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Voxels → RAS, in millimetres, as ITK, ANTs and Slicer understand the header, so that transforms fit what they
    see."""
    affine, warnings = _stated_affine(path, header)
    affine[:3] *= MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    return affine, warnings


def _stated_affine(path: Path, header: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """In the unit of the header."""
    qform, q_code = header.get_qform(coded=True)
    sform, s_code = header.get_sform(coded=True)
    if not q_code and not s_code:
        zooms = [*header.get_zooms()[:3], 1.0]
        warning = (
            f"{path} says nothing of its orientation (qform and sform codes are 0): voxels are laid along x, y and z."
        )
        return np.diag([-zooms[0], -zooms[1], zooms[2], 1.0]).astype(np.float64), (warning,)
    if q_code and s_code and not np.allclose(qform, sform, atol=1e-2):
        used = "sform" if s_code == 1 else "qform"
        warning = f"{path} has a qform and an sform that differ: the {used} is used, as ITK does."
        return (sform if s_code == 1 else qform).astype(np.float64), (warning,)
    return (sform if s_code else qform).astype(np.float64), ()


def write(file: Any, path: Path, values: np.ndarray, like: Header) -> None:
    image = _image(values, like)
    if path.name.lower().endswith(".gz"):
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
            _stream(image, values, packed)
    else:
        _stream(image, values, file)


@contextmanager
def created(source: Source, path: Path, dtype: np.dtype) -> Iterator[OnDisk]:
    """Zeros like the source, to be written part by part; the file is at `path` when the block ends well.

    They lie on disk, uncompressed until then.
    """
    if not path.name.lower().endswith(SUFFIXES["nifti"]):
        raise FileError(f"{path} is no NIfTI; choose .nii.gz or .nii for its name.")
    image = _image(np.broadcast_to(np.zeros((), dtype.newbyteorder("=")), source.shape), source.header)
    if source.seconds not in (None, _seconds(image.header)):
        image.header["pixdim"][4] = source.seconds
        image.header.set_xyzt_units(image.header.get_xyzt_units()[0], "sec")
    size = prod(source.shape) * dtype.itemsize
    with whole_file(path) as unfinished, open(unfinished, "w+b") as file:
        packed = path.name.lower().endswith(".gz")
        with TemporaryFile(dir=path.parent) if packed else file as plain:
            image.header.write_to(plain)
            offset = plain.tell()
            plain.truncate(offset + size)
            yield OnDisk(path, image.header.get_data_dtype(), offset, source.shape[::-1], plain)
            if packed:
                _pack(plain, file)


def _pack(plain: IO[bytes], file: IO[bytes]) -> None:
    plain.seek(0)
    with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
        shutil.copyfileobj(plain, packed, 2**20)


def _image(values: np.ndarray, like: Header) -> Any:
    """A NIfTI of these values with the header of `like`, as far as it fits."""
    import nibabel

    if like.nifti is not None:
        kind = nibabel.Nifti2Image if like.nifti["sizeof_hdr"] == 540 else nibabel.Nifti1Image
        header = like.nifti.copy()
        header["cal_min"] = header["cal_max"] = 0  # the window to show the other image's values in
        image = kind(values, None, header, dtype=values.dtype)
    else:
        affine = np.eye(4)
        dims = len(like.shape)
        affine[:dims, :dims], affine[:dims, 3] = like.affine[:dims, :dims], like.affine[:dims, dims]
        image = nibabel.Nifti1Image(values, affine, dtype=values.dtype)
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        image.header.set_xyzt_units("unknown" if like.pixels else "mm")
    if values.ndim == 5:
        image.header.set_intent("vector")
    image.header.set_data_dtype(values.dtype)
    image.header.set_slope_inter(1, 0)
    image.update_header()
    return image


def _stream(image: Any, values: np.ndarray, file: Any) -> None:
    image.header.write_to(file)
    write_values(values.astype(image.header.get_data_dtype(), copy=False), file)


def write_values(values: np.ndarray, file: Any) -> None:
    """First axis fastest, slab by slab."""
    for slab in values.T:
        file.write(np.ascontiguousarray(slab).data)
