"""Image files ↔ tensors with a place in the world: NIfTI, MetaImage, NRRD, PNG, JPEG, TIFF and DICOM series folders.

Convention: array axes are (x, y[, z]) as nibabel and MONAI have them, the first axis fastest in the file; the grid maps
voxels to RAS world millimetres. PNG, JPEG and TIFF have no place in the world: their world is pixels, (column, row)
from the centre of the first one, with both signs turned as between LPS and RAS, so that ITK sees plain pixel
coordinates. Print resolutions (dpi) are not a place and are left alone.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from warpzoo.files import FileError, reading, whole_file
from warpzoo.geometry.grid import Grid

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
TIFF = (".tif", ".tiff")
KINDS = "NIfTI, MetaImage, NRRD, PNG, JPEG, TIFF or a folder with one DICOM series"
GZIP_LEVEL = 1


@dataclass(frozen=True)
class FileHeader:
    """What a file says beside its values, and what is needed to write another like it.

    shape, affine: as in the file, before a one-slice volume becomes 2-D; affine maps voxels to RAS millimetres.
    dtype: of the values (float32 where a NIfTI scales its integers).
    pixels: True for files whose world is pixels.
    warnings: sentences about what is doubtful in the header.
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


class Image(NamedTuple):
    """array (1, *spatial), the grid its voxels lie on, and the file's header."""

    array: Tensor
    grid: Grid
    header: FileHeader


def read_image(path: str | Path, labels: bool = False, flat: bool = True) -> Image:
    """One greyscale image or volume: float32, or int64 for a label map (whole numbers only).

    A volume of one slice becomes 2-D, in the plane's own millimetres, unless `flat` is False. Time series, several
    channels and colour are refused (a picture whose colours are all grey is taken as grey).
    """
    path = Path(path)
    name = path.name.lower()
    if path.is_dir():
        values, header = _read_dicom_series(path)
    elif name.endswith(NIFTI):
        values, header = _read_nifti(path)
    elif name.endswith(PICTURES):
        values, header = _read_picture(path, labels)
    elif name.endswith(TIFF):
        values, header = _read_tiff(path)
    else:
        values, header = _read_with_itk(path)
    array = _to_tensor(path, values, labels)
    affine = header.affine
    if flat and array.dim() == 3 and 1 in array.shape:
        axis = array.shape.index(1)
        array = array.squeeze(axis)
        affine, lift = flatten_affine(affine, axis)
        header = replace(header, lift=lift)
    if sum(side > 1 for side in array.shape) < 2:
        raise FileError(f"{path} has {_by(header.shape)} voxels; an image with at least two long sides is wanted.")
    return Image(array[None], Grid(tuple(array.shape), affine), header)


def write_image(path: str | Path, array: Tensor, like: FileHeader, dtype: np.dtype | type | str | None = None) -> Path:
    """Writes (1, *spatial) on the grid of the file that `like` describes, with its header; the kind is by the suffix.

    `dtype` (by default like's) is kept: values are rounded for whole numbers and clipped to the type's range. The same
    values give the same bytes.
    """
    path = Path(path)
    values = to_dtype(array, like.dtype if dtype is None else np.dtype(dtype)).reshape(like.shape)
    name = path.name.lower()
    if name.endswith(NIFTI):
        _write_nifti(path, values, like)
    elif name.endswith(".mha"):
        _write_raw(path, values, _mha_header(values, like.affine))
    elif name.endswith(".nrrd"):
        _write_raw(path, values, _nrrd_header(values, like.affine))
    elif name.endswith(TIFF):
        import tifffile

        with whole_file(path) as temporary, open(temporary, "wb") as file:
            axes = "ZYX"[-values.ndim :]
            tifffile.imwrite(file, np.ascontiguousarray(values.T), photometric="minisblack", metadata={"axes": axes})
    elif name.endswith(".png"):
        from PIL import Image as Picture

        if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
            raise FileError(
                f"{path} cannot hold {values.ndim}-D {values.dtype} values; choose .nii.gz or .tif for its name."
            )
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            Picture.fromarray(np.ascontiguousarray(values.T)).save(file, format="PNG")
    else:
        raise FileError(f"{path} is of no kind that is written; choose .nii.gz, .nii, .mha, .nrrd, .tif or .png.")
    return path


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


def _to_tensor(path: Path, values: np.ndarray, labels: bool) -> Tensor:
    if values.dtype.kind not in "biuf":
        raise FileError(f"{path} holds {values.dtype} values; an image of one real number per voxel is wanted.")
    if not labels:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    whole = values.astype(np.int64)
    if values.dtype.kind == "f" and not (whole == values).all():
        raise FileError(f"{path} holds fractions; a label map of whole numbers is wanted (an image is no label map).")
    return torch.from_numpy(np.ascontiguousarray(whole))


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _refuse_series(path: Path, shape: Sequence[int]) -> FileError:
    return FileError(
        f"{path} is a series or has several channels ({_by(shape)}); one volume or image is wanted: "
        f"save the frame or channel to register as a file of its own."
    )


def _refuse_colour(path: Path) -> FileError:
    return FileError(f"{path} is a colour image; a greyscale one is wanted: save it, or one of its channels, as grey.")


def _read_nifti(path: Path) -> tuple[np.ndarray, FileHeader]:
    import nibabel

    with reading(path, "NIfTI"):
        nifti: Any = nibabel.load(path)
        header = nifti.header
        shape = tuple(int(side) for side in nifti.shape)
        if header.get_data_dtype().fields is not None:
            raise _refuse_colour(path)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) > 3:
            raise _refuse_series(path, nifti.shape)
        if len(shape) < 2:
            raise FileError(f"{path} has {len(shape)} axis; an image with two or three is wanted.")
        slope, intercept = nifti.dataobj.slope, nifti.dataobj.inter
        scaled = (slope, intercept) != (1.0, 0.0)
        values = nifti.get_fdata(dtype=np.float32, caching="unchanged") if scaled else np.asanyarray(nifti.dataobj)
        affine, warnings = nifti_affine(path, header)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
            raise FileError(
                f"{path} has a header whose matrix from voxels to millimetres cannot be inverted; "
                f"repair its qform or sform."
            )
    if len(shape) == 2:
        affine = flatten_affine(affine, axis=2)[0]
    dtype = np.dtype(np.float32) if scaled else values.dtype.newbyteorder("=")
    return values.reshape(shape), FileHeader(path, shape, affine, dtype, warnings=warnings, nifti=header)


def nifti_affine(path: Path, header: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Voxels → RAS as ITK, ANTs and Slicer understand the header, so that transforms fit what they see."""
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


def _read_picture(path: Path, labels: bool) -> tuple[np.ndarray, FileHeader]:
    from PIL import Image as Picture

    with reading(path, "a picture"), Picture.open(path) as picture:
        # the colours of a palette are the values of an image, its indices those of a label map
        values = np.asarray(picture.convert("RGB") if picture.mode == "P" and not labels else picture)
        if values.ndim == 3:
            colours = values[..., : 3 if values.shape[-1] > 2 else 1]
            if (colours != colours[..., :1]).any():
                raise _refuse_colour(path)
            values = colours[..., 0]
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    return _pixel_image(path, values)


def _read_tiff(path: Path) -> tuple[np.ndarray, FileHeader]:
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes, shape = series.axes, series.shape
        values = series.asarray()
        for axis in reversed(range(len(axes))):
            if axes[axis] == "S" and not (values != values.take([0], axis)).any():
                values = values.take(0, axis)
            elif axes[axis] == "S":
                raise _refuse_colour(path)
            elif axes[axis] not in "XY" and values.shape[axis] == 1:
                values = values.squeeze(axis)
            elif axes[axis] in "TC":
                raise _refuse_series(path, shape)
    if values.ndim > 3:
        raise _refuse_series(path, shape)
    return _pixel_image(path, values)


def _pixel_image(path: Path, values: np.ndarray) -> tuple[np.ndarray, FileHeader]:
    values = values.T
    return values, FileHeader(path, values.shape, flip_lps(values.ndim), values.dtype.newbyteorder("="), pixels=True)


def _read_with_itk(path: Path) -> tuple[np.ndarray, FileHeader]:
    import itk

    with reading(path, KINDS):
        information = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if information is None:
            raise FileError(f"{path} is of no kind that is read; {KINDS} is wanted.")
        information.SetFileName(str(path))
        information.ReadImageInformation()
        shape = tuple(information.GetDimensions(axis) for axis in range(information.GetNumberOfDimensions()))
        if information.GetNumberOfComponents() > 1:
            raise _refuse_series(path, (*shape, information.GetNumberOfComponents()))
        if len([side for side in shape[3:] if side > 1]) > 0:
            raise _refuse_series(path, shape)
        stored = _COMPONENTS[information.GetComponentTypeAsString(information.GetComponentType())]
        # ITK's Python has no images of some types: they are read as a wider one
        wider = {"int8": itk.SS, "int64": itk.D, "uint64": itk.D}.get(stored)
        image = itk.imread(str(path), wider) if wider else itk.imread(str(path))
        return _from_itk(path, image, np.dtype(stored))


def _read_dicom_series(folder: Path) -> tuple[np.ndarray, FileHeader]:
    import itk

    with reading(folder, "a folder with one DICOM series"):
        names = itk.GDCMSeriesFileNames.New()
        names.SetUseSeriesDetails(True)
        names.SetDirectory(str(folder))
        series = list(names.GetSeriesUIDs())
        if len(series) != 1:
            raise FileError(
                f"{folder} holds {len(series) or 'no'} DICOM series; one is wanted: give it a folder of its own."
            )
        files = list(names.GetFileNames(series[0]))
        image = itk.imread(files)
        values, header = _from_itk(folder, image, np.asarray(itk.array_view_from_image(image)).dtype)
        _check_slices(folder, files)
    return values, header


def _check_slices(folder: Path, files: Sequence[str]) -> None:
    """Slices at equal steps, each position once."""
    import itk

    if len(files) < 3:
        return
    origins = []
    for file in files:
        information = itk.GDCMImageIO.New()
        information.SetFileName(file)
        information.ReadImageInformation()
        origins.append([information.GetOrigin(axis) for axis in range(3)])
    steps = np.linalg.norm(np.diff(np.array(origins), axis=0), axis=1)
    usual = float(np.median(steps))
    if steps.min() < 1e-3 * max(usual, 1e-3):
        raise FileError(
            f"{folder} holds several slices at one position, a time series or several echoes; "
            f"put the files of one volume in a folder of their own."
        )
    if np.abs(steps - usual).max() > 0.1 * usual:
        raise FileError(
            f"{folder} has slices {steps.min():.2f} to {steps.max():.2f} mm apart, so some are missing; "
            f"equal steps are wanted."
        )


def _from_itk(path: Path, image: Any, stored: np.dtype) -> tuple[np.ndarray, FileHeader]:
    import itk

    values = itk.array_from_image(image)
    if values.ndim != image.GetImageDimension():
        raise _refuse_colour(path)
    values = values.T
    dims = image.GetImageDimension()
    lps = np.eye(dims + 1)
    direction = itk.array_from_matrix(image.GetDirection())
    lps[:dims, :dims] = direction * np.array(list(image.GetSpacing()))
    lps[:dims, dims] = list(image.GetOrigin())
    while values.ndim > 3:
        values, lps = values[..., 0], np.delete(np.delete(lps, dims - 1, 0), dims - 1, 1)
        dims -= 1
    return values, FileHeader(path, values.shape, flip_lps(dims) @ lps, stored)


def _write_nifti(path: Path, values: np.ndarray, like: FileHeader) -> None:
    import nibabel

    if like.nifti is not None:
        kind = nibabel.Nifti2Image if like.nifti["sizeof_hdr"] == 540 else nibabel.Nifti1Image
        header = like.nifti.copy()
        header["cal_min"] = header["cal_max"] = 0  # the window to show the other image's values in
        image = kind(values, None, header, dtype=values.dtype)
    else:
        affine = np.eye(4)
        dims = values.ndim
        affine[:dims, :dims], affine[:dims, 3] = like.affine[:dims, :dims], like.affine[:dims, dims]
        image = nibabel.Nifti1Image(values, affine, dtype=values.dtype)
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        image.header.set_xyzt_units("unknown" if like.pixels else "mm")
    image.header.set_data_dtype(values.dtype)
    image.header.set_slope_inter(1, 0)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
                _stream_nifti(image, values, packed)
        else:
            _stream_nifti(image, values, file)


def _stream_nifti(image: Any, values: np.ndarray, file: Any) -> None:
    image.update_header()
    image.header.write_to(file)
    write_values(values.astype(image.header.get_data_dtype(), copy=False), file)


def write_values(values: np.ndarray, file: Any) -> None:
    """First axis fastest, slab by slab."""
    for slab in values.T:
        file.write(np.ascontiguousarray(slab).data)


def _write_raw(path: Path, values: np.ndarray, header: str) -> None:
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(header.encode("ascii"))
        write_values(values, file)


def _mha_header(values: np.ndarray, affine: np.ndarray) -> str:
    dims = values.ndim
    lps = flip_lps(dims) @ affine
    spacing = np.linalg.norm(lps[:dims, :dims], axis=0)
    lines = {
        "ObjectType": "Image",
        "NDims": dims,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": sys.byteorder == "big",
        "CompressedData": False,
        "TransformMatrix": _numbers((lps[:dims, :dims] / spacing).T.ravel()),
        "Offset": _numbers(lps[:dims, dims]),
        "ElementSpacing": _numbers(spacing),
        "DimSize": " ".join(map(str, values.shape)),
        "ElementType": _MET_TYPES[values.dtype.name],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def _nrrd_header(values: np.ndarray, affine: np.ndarray) -> str:
    dims = values.ndim
    lps = flip_lps(dims) @ affine
    lines = {
        "type": {"float32": "float", "float64": "double"}.get(values.dtype.name, values.dtype.name),
        "dimension": dims,
        **({"space": "left-posterior-superior"} if dims == 3 else {"space dimension": dims}),
        "sizes": " ".join(map(str, values.shape)),
        "space directions": " ".join(f"({_numbers(column, ',')})" for column in lps[:dims, :dims].T),
        "kinds": " ".join(["domain"] * dims),
        "endian": sys.byteorder,
        "encoding": "raw",
        "space origin": f"({_numbers(lps[:dims, dims], ',')})",
    }
    return "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items()) + "\n"


def _numbers(values: np.ndarray, between: str = " ") -> str:
    return between.join(map(repr, values.tolist()))


_COMPONENTS = {
    "char": "int8",
    "unsigned_char": "uint8",
    "short": "int16",
    "unsigned_short": "uint16",
    "int": "int32",
    "unsigned_int": "uint32",
    "long": "int64",
    "unsigned_long": "uint64",
    "long_long": "int64",
    "unsigned_long_long": "uint64",
    "float": "float32",
    "double": "float64",
}
_MET_TYPES = {
    "int8": "MET_CHAR",
    "uint8": "MET_UCHAR",
    "int16": "MET_SHORT",
    "uint16": "MET_USHORT",
    "int32": "MET_INT",
    "uint32": "MET_UINT",
    "int64": "MET_LONG_LONG",
    "uint64": "MET_ULONG_LONG",
    "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}
