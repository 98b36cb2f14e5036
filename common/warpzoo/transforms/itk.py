"""Transforms ↔ the files of ITK, which ANTs, SimpleITK, elastix and Slicer read and write.

Convention: in memory a transform takes points of the fixed space to the moving space, in RAS; ITK's files say the same
in LPS millimetres, so x and y change sign (F = diag(−1, −1, 1)): an affine file holds F · M · F, and a displacement of
u voxels on a grid with matrix A is F · A · u. For 2-D files F is diag(−1, −1). Volumes of one slice get 3-D files.

The parts of a composite are stored last first: points go through the part at the end of the file before the others.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from warpzoo.files import FileError, reading, whole_file
from warpzoo.geometry.bspline import bspline_at
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform
from warpzoo.images.image import GZIP_LEVEL, NIFTI, FileHeader, Image, flip_lps, nifti_affine, write_values

AFFINE_KINDS = (".tfm", ".txt", ".mat", ".h5", ".hdf5")
KINDS = "an ITK transform (.tfm, .txt, .mat, .h5) or a displacement field (.nii.gz, .mha, .nrrd)"


class ItkDisplacementField(DisplacementField):
    """A dense field as ITK understands it: linear between voxels, and nothing moves outside its grid."""

    def displace(self, points: Tensor) -> Tensor:
        last = points.new_tensor(self.grid.shape) - 0.5
        inside = ((points >= -0.5) & (points < last)).all(-1, keepdim=True)
        return super().displace(points) * inside


class ItkBSpline(Transform):
    """ITK's cubic B-spline: coefficients (1, dims, *control) in voxels of the control grid, which is `grid`.

    Nothing moves where a point is not within reach of four control points along every axis.
    """

    coefficients: Tensor

    def __init__(self, coefficients: Tensor, grid: Grid) -> None:
        super().__init__(grid)
        self._hold("coefficients", coefficients)

    def displace(self, points: Tensor) -> Tensor:
        last = points.new_tensor(self.grid.shape) - 2
        inside = ((points >= 1) & (points <= last)).all(-1, keepdim=True)
        return bspline_at(self.coefficients, points, [1] * self.grid.dims) * inside


# Writing


def write_transforms(folder: str | Path, transform: Transform, fixed: Image, moving: Image) -> list[Path]:
    """The transform of a pair: `transform.tfm` (affine) or `transform.h5`, and `displacement.nii.gz` for both."""
    folder = Path(folder)
    displacement = physical_displacement(transform, fixed, moving)
    header = fixed.header
    if header.lift is not None and _lifts(fixed, moving) is None:
        header = replace(header, shape=fixed.grid.shape, affine=fixed.grid.affine, nifti=None)
    if isinstance(transform, Affine):
        written = write_affine(folder / "transform.tfm", world_matrix(transform, fixed, moving))
    else:
        written = write_displacement_transform(folder / "transform.h5", displacement, header)
    return [written, write_displacement_image(folder / "displacement.nii.gz", displacement, header)]


def world_matrix(transform: Affine, fixed: Image, moving: Image) -> np.ndarray:
    """What an affine transform does to points of the fixed file's world: (dims + 1, dims + 1), RAS, float64.

    Between volumes of one slice it is 3-D: one plane onto the other, heights unchanged.
    """
    dims = transform.grid.dims
    matrix = np.eye(dims + 1)
    matrix[:dims] = transform.world_matrix()[0].detach().cpu().numpy()
    lifts = _lifts(fixed, moving)
    if lifts is None:
        return matrix
    lifted = np.eye(4)
    lifted[np.ix_([0, 1, 3], [0, 1, 3])] = matrix
    return lifts[1] @ lifted @ np.linalg.inv(lifts[0])


def physical_displacement(transform: Transform, fixed: Image, moving: Image) -> Tensor:
    """The displacement at every voxel of the fixed image, (dims of its file, *shape of its file), LPS mm, float32."""
    field = transform.field(fixed.grid).detach()
    if field.shape[0] != 1:
        raise ValueError(f"transform holds a batch of {field.shape[0]}; a file wants one transform.")
    lifts = _lifts(fixed, moving)
    if lifts is None:
        return _linear_map(flip_lps(fixed.grid.dims) @ fixed.grid.affine, field[0])
    # from each point of the fixed plane to where it lies in the moving plane, seen from the latter
    voxels = fixed.grid.coordinates(torch.float64).T
    start = torch.from_numpy(np.linalg.inv(lifts[1]) @ lifts[0])
    flat = torch.from_numpy(fixed.grid.affine.copy())
    here = flat[:2, :2] @ voxels + flat[:2, 2:]
    there = here + flat[:2, :2] @ field[0].flatten(1).double()
    moved = start[:3, :2] @ here + start[:3, 3:]
    lift = torch.from_numpy(flip_lps(3) @ lifts[1])[:3, :3]
    displacement = lift @ (torch.cat([there, torch.zeros_like(there[:1])]) - moved)
    return displacement.float().reshape(3, *fixed.header.shape)


def write_affine(path: str | Path, matrix: np.ndarray) -> Path:
    """A matrix (dims + 1, dims + 1) from fixed to moving world, RAS → an ITK AffineTransform (.tfm, .txt or .h5)."""
    path = Path(path)
    dims = matrix.shape[0] - 1
    flip = flip_lps(dims)
    lps = flip @ matrix @ flip
    parameters = np.concatenate([lps[:dims, :dims].ravel(), lps[:dims, dims]])
    kind, fixed = f"AffineTransform_double_{dims}_{dims}", np.zeros(dims)
    if path.suffix in (".h5", ".hdf5"):
        with whole_file(path) as temporary:
            _write_hdf5(temporary, [(kind, parameters, fixed)])
    elif path.suffix in (".tfm", ".txt"):
        lines = [
            "#Insight Transform File V1.0",
            "#Transform 0",
            f"Transform: {kind}",
            f"Parameters: {' '.join(map(repr, parameters.tolist()))}",
            f"FixedParameters: {' '.join(map(repr, fixed.tolist()))}",
        ]
        with whole_file(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n")
    else:
        raise FileError(f"{path} is no name for an affine transform; choose .tfm, .txt or .h5.")
    return path


def write_displacement_transform(path: str | Path, displacement: Tensor, fixed: FileHeader) -> Path:
    """`physical_displacement`'s result → an ITK DisplacementFieldTransform (.h5)."""
    path = Path(path)
    if path.suffix not in (".h5", ".hdf5"):
        raise FileError(f"{path} is no name for a dense transform; choose .h5, or .nii.gz for its displacement.")
    dims = displacement.shape[0]
    lps = flip_lps(dims) @ fixed.affine
    spacing = np.linalg.norm(lps[:dims, :dims], axis=0)
    geometry = np.concatenate(
        [displacement.shape[1:], lps[:dims, dims], spacing, (lps[:dims, :dims] / spacing).ravel()]
    )
    vectors = displacement.cpu().float().permute(*range(dims, 0, -1), 0).reshape(-1).numpy()
    with whole_file(path) as temporary:
        _write_hdf5(temporary, [(f"DisplacementFieldTransform_float_{dims}_{dims}", vectors, geometry)])
    return path


def write_displacement_image(path: str | Path, displacement: Tensor, fixed: FileHeader) -> Path:
    """`physical_displacement`'s result → a 5-D NIfTI of vectors (intent 1007), as ITK, ANTs and Slicer read it."""
    import nibabel

    path = Path(path)
    if not path.name.endswith(NIFTI):
        raise FileError(f"{path} is no name for a displacement field; choose .nii.gz or .nii.")
    dims = displacement.shape[0]
    values = displacement.cpu().float().numpy()
    affine = np.eye(4)
    affine[:dims, :dims], affine[:dims, 3] = fixed.affine[:dims, :dims], fixed.affine[:dims, dims]
    if fixed.nifti is not None:
        header = nibabel.Nifti1Header.from_header(fixed.nifti)
        header["cal_min"] = header["cal_max"] = 0
    else:
        header = nibabel.Nifti1Header()
        header.set_xyzt_units("unknown" if fixed.pixels else "mm")
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    if values.shape[-1] == 1:  # ITK would take a field of one slice for a 2-D one: it gets a second, equal slice
        values = values.repeat(2, axis=-1)
    header.set_data_shape((*values.shape[1:], *[1] * (4 - dims), dims))
    header.set_intent("vector")
    if fixed.nifti is None or not (header["qform_code"] or header["sform_code"]):
        header.set_qform(affine, 1)
        header.set_sform(affine, 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        packed = gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) if path.name.endswith(".gz") else file
        packed.write(header.binaryblock + bytes(4))
        for component in values:
            write_values(component, packed)
        if packed is not file:
            packed.close()
    return path


def _write_hdf5(path: Path, transforms: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """ITK's layout; nothing in it depends on the time or the machine, so the same transform gives the same bytes."""
    import h5py

    text = h5py.string_dtype("ascii")
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.create_dataset("ITKVersion", data=["5.4.0"], dtype=text)
        file.create_dataset("HDFVersion", data=[h5py.version.hdf5_version], dtype=text)
        group = file.create_group("TransformGroup")
        for number, (kind, parameters, fixed) in enumerate(transforms):
            one = group.create_group(str(number))
            one.create_dataset("TransformType", data=[kind], dtype=text)
            one.create_dataset("TransformFixedParameters", data=np.asarray(fixed, np.float64))
            one.create_dataset("TransformParameters", data=parameters)


def _lifts(fixed: Image, moving: Image) -> tuple[np.ndarray, np.ndarray] | None:
    """Where both are volumes of one slice their transform's file is 3-D; a slice and a picture meet in 2-D."""
    if fixed.header.lift is None or moving.header.lift is None:
        return None
    return fixed.header.lift, moving.header.lift


def _linear_map(matrix: np.ndarray, field: Tensor) -> Tensor:
    """The linear part of a homogeneous matrix on vectors (dims, *shape), in float32, without copies in between."""
    linear = torch.tensor(matrix[:-1, :-1], dtype=torch.float32)
    return (linear @ field.flatten(1).float()).reshape(field.shape)


# Reading


class Stored(NamedTuple):
    """One transform as ITK stores it: its kind (`AffineTransform`), dimension, parameters and fixed parameters."""

    kind: str
    dims: int
    parameters: np.ndarray
    fixed: np.ndarray


def read_transform(path: str | Path) -> Transform:
    """Any ITK transform or displacement field as a function on points.

    Affine kinds (translation, Euler, versor, similarity, scale …), cubic B-splines, displacement fields, and
    composites of these; float64 but for dense fields.
    """
    path = Path(path)
    name = path.name.lower()
    with reading(path, KINDS):
        if name.endswith(NIFTI):
            return _read_nifti_field(path)
        if name.endswith((".mha", ".mhd", ".nrrd")):
            return _read_itk_field(path)
        if name.endswith((".h5", ".hdf5", ".hdf")):
            stored = _read_hdf5(path)
        elif name.endswith(".mat"):
            stored = _read_matlab(path)
        elif name.endswith((".tfm", ".txt", ".xfm")):
            stored = _read_text(path)
        else:
            raise FileError(f"{path} is of no kind that is read; {KINDS} is wanted.")
        parts = [_from_stored(path, one) for one in reversed(stored) if one.kind != "CompositeTransform"]
    if not parts:
        raise FileError(f"{path} holds no transform; {KINDS} is wanted.")
    return parts[0] if len(parts) == 1 else Composition(*parts)


def _from_stored(path: Path, stored: Stored) -> Transform:
    kind, dims, parameters, fixed = stored
    flip = flip_lps(dims)
    if kind.endswith("DisplacementFieldTransform"):
        shape, affine = _itk_geometry(fixed, dims)
        vectors = torch.from_numpy(np.ascontiguousarray(parameters, np.float32)).reshape(*reversed(shape), dims)
        return _field_from_lps(vectors.permute(dims, *reversed(range(dims))), Grid(shape, flip @ affine))
    if kind == "BSplineTransform":
        shape, affine = _itk_geometry(fixed, dims)
        grid = Grid(shape, flip @ affine)
        vectors = torch.from_numpy(parameters.astype(np.float64)).reshape(dims, *reversed(shape))
        vectors = vectors.permute(0, *range(dims, 0, -1))
        to_voxels = torch.from_numpy(np.linalg.inv(flip @ grid.affine)[:dims, :dims])
        return ItkBSpline((to_voxels @ vectors.flatten(1)).reshape(1, *vectors.shape), grid)
    linear, translation, centre = _linear(path, stored)
    matrix = np.eye(dims + 1)
    matrix[:dims, :dims], matrix[:dims, dims] = linear, translation + centre - linear @ centre
    matrix = flip @ matrix @ flip
    return Affine.from_world(torch.from_numpy(matrix[None, :dims]), Grid([2] * dims))


def _itk_geometry(fixed: np.ndarray, dims: int) -> tuple[tuple[int, ...], np.ndarray]:
    """Size, origin, spacing and direction, as ITK lines them up → shape and voxel → LPS matrix."""
    size, origin, spacing, direction = np.split(np.asarray(fixed, np.float64), [dims, 2 * dims, 3 * dims])
    affine = np.eye(dims + 1)
    affine[:dims, :dims], affine[:dims, dims] = direction.reshape(dims, dims) * spacing, origin
    return tuple(int(round(side)) for side in size), affine


def _field_from_lps(vectors: Tensor, grid: Grid) -> ItkDisplacementField:
    """Vectors (dims, *shape) in LPS millimetres on a grid."""
    displacement = _linear_map(np.linalg.inv(flip_lps(grid.dims) @ grid.affine), vectors)
    return ItkDisplacementField(displacement[None], grid)


def _linear(path: Path, stored: Stored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrix, translation and centre of ITK's linear transforms, in LPS."""
    kind, dims, p, fixed = stored
    p = p.astype(np.float64)
    centre = np.zeros(dims) if len(fixed) < dims else fixed[:dims].astype(np.float64)
    nothing, eye = np.zeros(dims), np.eye(dims)
    if kind == "IdentityTransform":
        return eye, nothing, nothing
    if kind == "TranslationTransform":
        return eye, p, nothing
    if kind in ("AffineTransform", "MatrixOffsetTransformBase", "FixedCenterOfRotationAffineTransform"):
        return p[: dims * dims].reshape(dims, dims), p[dims * dims :], centre
    if kind == "CenteredAffineTransform":
        return p[: dims * dims].reshape(dims, dims), p[-dims:], p[dims * dims : -dims]
    if kind in ("ScaleTransform", "ScaleLogarithmicTransform"):
        return np.diag(np.exp(p) if "Log" in kind else p), nothing, centre
    if dims == 2:
        scale, p = (p[0], p[1:]) if "Similarity" in kind else (1.0, p)
        if kind in ("CenteredRigid2DTransform", "CenteredSimilarity2DTransform", "CenteredEuler2DTransform"):
            return scale * _turn(p[0]), p[3:], p[1:3]
        if kind in ("Euler2DTransform", "Rigid2DTransform", "Similarity2DTransform"):
            return scale * _turn(p[0]), p[1:], centre
    if kind in ("Euler3DTransform", "CenteredEuler3DTransform"):
        x, y, z = (_turn(angle, axis) for axis, angle in enumerate(p[:3]))
        zyx = len(fixed) > 3 and fixed[3] != 0
        linear = z @ y @ x if zyx else z @ x @ y
        return (linear, p[6:], p[3:6]) if kind.startswith("Centered") else (linear, p[3:], centre)
    if kind == "VersorTransform":
        return _versor(p), nothing, centre
    if kind == "VersorRigid3DTransform":
        return _versor(p[:3]), p[3:], centre
    if kind == "Similarity3DTransform":
        return p[6] * _versor(p[:3]), p[3:6], centre
    if kind == "ScaleVersor3DTransform":
        return _versor(p[:3]) + np.diag(p[6:9] - 1), p[3:6], centre
    if kind == "ScaleSkewVersor3DTransform":
        skew = np.diag(p[6:9] - 1)
        skew[[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]] = p[9:15]
        return _versor(p[:3]) + skew, p[3:6], centre
    raise FileError(
        f"{path} holds a {kind}, which is not read; convert it to an AffineTransform or a displacement field."
    )


def _turn(angle: float, axis: int | None = None) -> np.ndarray:
    """The rotation by an angle in the plane, or about an axis of space."""
    cosine, sine = np.cos(angle), np.sin(angle)
    plane = np.array([[cosine, -sine], [sine, cosine]])
    if axis is None:
        return plane
    rotation = np.eye(3)
    others = [(axis + 1) % 3, (axis + 2) % 3]
    rotation[np.ix_(others, others)] = plane
    return rotation


def _versor(vector: np.ndarray) -> np.ndarray:
    """The rotation of a unit quaternion, from its vector part."""
    x, y, z = vector
    w = np.sqrt(max(0.0, 1 - vector @ vector))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _stored(name: str, parameters: Any, fixed: Any) -> Stored:
    kind, *rest = name.strip().split("_")
    return Stored(kind, int(rest[-1]) if rest else 3, np.asarray(parameters), np.asarray(fixed))


def _read_hdf5(path: Path) -> list[Stored]:
    import h5py

    with h5py.File(path, "r") as file:
        group = file["TransformGroup"]
        transforms = []
        for number in sorted(group, key=int):
            one = group[number]
            # ITK before 5 spelled two of these names without their s
            values = [
                next((one[key][()] for key in (f"Transform{name}", f"Tranform{name}") if key in one), np.zeros(0))
                for name in ("Parameters", "FixedParameters")
            ]
            transforms.append(_stored(one["TransformType"][0].decode(), *values))
    return transforms


def _read_text(path: Path) -> list[Stored]:
    transforms: list[Stored] = []
    for line in path.read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == "Transform":
            transforms.append(_stored(rest, [], []))
        elif key in ("Parameters", "FixedParameters") and transforms:
            values, last = np.array(rest.split(), dtype=np.float64), transforms[-1]
            transforms[-1] = last._replace(parameters=values) if key == "Parameters" else last._replace(fixed=values)
    return transforms


def _read_matlab(path: Path) -> list[Stored]:
    """Matlab's format 4, which ANTs writes: named columns, the parameters and then those called `fixed`."""
    data, columns = path.read_bytes(), []
    position = 0
    while position < len(data):
        kind, rows, count, _, length = struct.unpack_from("<5i", data, position)
        position += 20
        name = data[position : position + length].rstrip(b"\0").decode()
        position += length
        values = np.frombuffer(data, {0: "<f8", 10: "<f4"}[kind], rows * count, position)
        position += values.nbytes
        columns.append((name, values))
    return [
        _stored(name, values, fixed) for (name, values), (_, fixed) in zip(columns[::2], columns[1::2], strict=True)
    ]


def _read_nifti_field(path: Path) -> ItkDisplacementField:
    import nibabel

    nifti: Any = nibabel.load(path)
    dims = nifti.shape[-1]
    if len(nifti.shape) != 5 or nifti.shape[3] != 1 or dims not in (2, 3) or nifti.header["intent_code"] != 1007:
        raise FileError(
            f"{path} is no displacement field as ITK writes it (shape {tuple(nifti.shape)}, intent "
            f"{int(nifti.header['intent_code'])}); a 5-D file of vectors in millimetres with intent 1007 is wanted."
        )
    affine = nifti_affine(path, nifti.header)[0]
    if dims == 2:
        affine = affine[np.ix_([0, 1, 3], [0, 1, 3])]
    values = np.asarray(nifti.dataobj, dtype=np.float32)
    values = values.reshape(*values.shape[:dims], dims)
    vectors = torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 0)))
    return _field_from_lps(vectors, Grid(values.shape[:-1], affine))


def _read_itk_field(path: Path) -> ItkDisplacementField:
    import itk

    information = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    information.SetFileName(str(path))
    information.ReadImageInformation()
    dims, components = information.GetNumberOfDimensions(), information.GetNumberOfComponents()
    if dims != components or dims not in (2, 3):
        raise FileError(f"{path} is {dims}-D with {components} values per voxel; a displacement field is wanted.")
    image = itk.imread(str(path), itk.Vector[itk.F, dims])
    values = itk.array_from_image(image)
    lps = np.eye(dims + 1)
    lps[:dims, :dims] = itk.array_from_matrix(image.GetDirection()) * np.array(list(image.GetSpacing()))
    lps[:dims, dims] = list(image.GetOrigin())
    vectors = torch.from_numpy(np.ascontiguousarray(values.T, dtype=np.float32))
    return _field_from_lps(vectors, Grid(tuple(vectors.shape[1:]), flip_lps(dims) @ lps))
