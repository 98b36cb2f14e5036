"""Displacement fields as images of vectors in LPS millimetres: NIfTI (read and written), MetaImage and NRRD (read).

Convention: ITK's, ANTs' and Slicer's; a NIfTI is 5-D with intent 1007. One whose intent is named `velocity` holds a
stationary velocity, which ITK has no kind for, in millimetres per unit time.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.files import FileError, whole_file
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import DisplacementField, Velocity
from warpzoo.images.formats import SUFFIXES
from warpzoo.images.formats.itk import read_information
from warpzoo.images.formats.nifti import GZIP_LEVEL, nifti_affine, write_values
from warpzoo.images.image import Header, from_lps
from warpzoo.images.source import DEFLATE_RATIO, check_size
from warpzoo.transforms.itk import field_from_lps, voxels_from_lps

ITK_IMAGES = (".mha", ".mhd", ".nrrd")
VELOCITY = "velocity"


def read_displacement_image(path: Path) -> DisplacementField | Velocity:
    return _read_nifti(path) if path.name.lower().endswith(SUFFIXES["nifti"]) else _read_with_itk(path)


def write_displacement_image(path: Path, vectors: Tensor, header: Header, intent: str = "") -> Path:
    """Vectors (dims, *shape) in LPS millimetres on the grid of `header` → NIfTI."""
    import nibabel

    dims = vectors.shape[0]
    values = vectors.detach().cpu().float().numpy()
    affine = np.eye(4)
    affine[:dims, :dims], affine[:dims, 3] = header.affine[:dims, :dims], header.affine[:dims, dims]
    if header.nifti is not None:
        nifti = nibabel.Nifti1Header.from_header(header.nifti)
        nifti["cal_min"] = nifti["cal_max"] = 0
    else:
        nifti = nibabel.Nifti1Header()
    nifti.set_data_dtype(np.float32)
    nifti.set_slope_inter(1, 0)
    if values.shape[-1] == 1:  # ITK would take a field of one slice for a 2-D one: it gets a second, equal slice
        values = values.repeat(2, axis=-1)
    nifti.set_data_shape((*values.shape[1:], *[1] * (4 - dims), dims))
    nifti.set_intent("vector", name=intent)
    if header.nifti is None or not (nifti["qform_code"] or nifti["sform_code"]):
        nifti.set_qform(affine, 1)
        nifti.set_sform(affine, 1)
        nifti.set_xyzt_units("unknown" if header.pixels else "mm")
    nifti["vox_offset"], nifti["magic"] = 352, b"n+1"
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        packed = gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) if path.name.endswith(".gz") else file
        packed.write(nifti.binaryblock + bytes(4))
        for component in values:
            write_values(component, packed)
        if packed is not file:
            packed.close()
    return path


def _read_nifti(path: Path) -> DisplacementField | Velocity:
    import nibabel

    nifti: Any = nibabel.load(path)
    dims, intent = nifti.shape[-1], int(nifti.header["intent_code"])
    if len(nifti.shape) != 5 or nifti.shape[3] != 1 or dims not in (2, 3) or intent != 1007:
        raise FileError(
            f"{path} is no displacement field as ITK writes it: it must be a 5-D file of vectors in millimetres with "
            f"intent 1007, got shape {tuple(nifti.shape)} and intent {intent}."
        )
    check_size(path, nifti.shape, nifti.header.get_data_dtype(), ratio=DEFLATE_RATIO)
    np.empty(nifti.shape, np.float32)  # a MemoryError now, not after minutes of unpacking
    affine = nifti_affine(path, nifti.header)[0]
    if dims == 2:
        affine = affine[np.ix_([0, 1, 3], [0, 1, 3])]
    values = np.asarray(nifti.dataobj, dtype=np.float32)
    values = values.reshape(*values.shape[:dims], dims)
    vectors, grid = torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 0))), Grid(values.shape[:-1], affine)
    if nifti.header["intent_name"].item().decode() == VELOCITY:
        return Velocity(voxels_from_lps(vectors, grid)[None], grid)
    return field_from_lps(vectors, grid)


def _read_with_itk(path: Path) -> DisplacementField:
    import itk

    information = read_information(path)
    dims, components = information.GetNumberOfDimensions(), information.GetNumberOfComponents()
    if dims != components or dims not in (2, 3):
        raise FileError(
            f"{path} must be a displacement field, with as many values per voxel as axes; "
            f"got {dims} axes with {components} values per voxel."
        )
    image = itk.imread(str(path), itk.Vector[itk.F, dims])
    direction = itk.array_from_matrix(image.GetDirection())
    affine = from_lps(direction, list(image.GetSpacing()), list(image.GetOrigin()))
    vectors = torch.from_numpy(np.ascontiguousarray(itk.array_from_image(image).T, dtype=np.float32))
    return field_from_lps(vectors, Grid(tuple(vectors.shape[1:]), affine))
