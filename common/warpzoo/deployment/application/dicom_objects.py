"""A registration as DICOM objects: a matrix as Spatial Registration, a field as Deformable Spatial Registration, and a
picture of the report as Secondary Capture.

Convention: LPS millimetres. As the standard has it, a matrix takes points of the moving frame of reference to the fixed
one, a field points of the fixed one to the moving one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    DeformableSpatialRegistrationStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SpatialRegistrationStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat

from warpzoo.files import FileError
from warpzoo.images.image import flip_lps, to_lps

STUDY = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""What an object has from the images that it is about."""
KNOWN_OR_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
RIGHT_ANGLES = 1e-4
"""How far the axes of a grid, and a rotation, may be from right angles and lengths of 1."""


@dataclass(frozen=True)
class Maker:
    """What made an object: a bundle's name and version."""

    name: str
    version: str


def read_headers(folder: Path) -> list[Dataset]:
    """The files of a series without their pixels."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                found.append(dcmread(path, stop_before_pixels=True))
            except InvalidDicomError:
                continue
    headers: list[Dataset] = [one for one in found if "SOPInstanceUID" in one and "SOPClassUID" in one]
    if not headers:
        raise FileError(f"{folder} must hold one DICOM series, got none.")
    return headers


def spatial_registration(
    world: np.ndarray, fixed: Sequence[Dataset], moving: Sequence[Dataset], maker: Maker
) -> Dataset:
    """A matrix (4, 4) from points of the fixed world to the moving one, RAS millimetres, as a Spatial Registration."""
    made = _registration(SpatialRegistrationStorage, fixed, moving, maker)
    to_fixed = np.linalg.inv(flip_lps(3) @ world @ flip_lps(3))
    made.RegistrationSequence = []
    for matrix, series in ((np.eye(4), fixed), (to_fixed, moving)):
        one = Dataset()
        one.FrameOfReferenceUID = _frame_of(series)
        one.ReferencedImageSequence = [_reference(image) for image in series]
        registered = Dataset()
        registered.RegistrationTypeCodeSequence = []
        registered.MatrixSequence = [_matrix(matrix)]
        one.MatrixRegistrationSequence = [registered]
        made.RegistrationSequence.append(one)
    return made


def deformable_registration(
    displacement: np.ndarray, affine: np.ndarray, fixed: Sequence[Dataset], moving: Sequence[Dataset], maker: Maker
) -> Dataset:
    """A displacement (3, x, y, z) in LPS millimetres, at voxels that `affine` takes to RAS, as a Deformable Spatial
    Registration."""
    made = _registration(DeformableSpatialRegistrationStorage, fixed, moving, maker)
    direction, spacing, origin = to_lps(affine)
    if np.abs(direction.T @ direction - np.eye(3)).max() > RIGHT_ANGLES:
        raise ValueError("the fixed image's axes must be at right angles for a Deformable Spatial Registration.")
    if np.linalg.det(direction) < 0:  # DICOM's third axis is the cross product of the other two
        origin = origin + direction[:, 2] * spacing[2] * (displacement.shape[-1] - 1)
        displacement = displacement[..., ::-1]
    grid = Dataset()
    grid.ImagePositionPatient = _decimals(origin)
    grid.ImageOrientationPatient = _decimals(direction[:, :2].T.ravel())
    grid.GridDimensions = list(displacement.shape[1:])
    grid.GridResolution = [float(one) for one in spacing]
    grid.VectorGridData = np.ascontiguousarray(displacement.T, dtype="<f4").tobytes()
    one = Dataset()
    one.SourceFrameOfReferenceUID = _frame_of(moving)
    one.ReferencedImageSequence = [_reference(image) for image in moving]
    one.RegistrationTypeCodeSequence = []
    one.DeformableRegistrationGridSequence = [grid]
    made.DeformableRegistrationSequence = [one]
    return made


def secondary_capture(pixels: np.ndarray, title: str, fixed: Sequence[Dataset], maker: Maker) -> Dataset:
    """A picture (rows, columns, 3) of 8 bits, in the study of the fixed images."""
    made = _object(SecondaryCaptureImageStorage, fixed, maker, "OT", title)
    made.ConversionType = "WSD"
    made.PatientOrientation = ""
    made.BurnedInAnnotation = "NO"
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.Rows, made.Columns = pixels.shape[:2]
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    values = np.ascontiguousarray(pixels, dtype=np.uint8).tobytes()
    made.PixelData = values + bytes(len(values) % 2)
    return made


def _registration(kind: UID, fixed: Sequence[Dataset], moving: Sequence[Dataset], maker: Maker) -> Dataset:
    """What both kinds have: the frame of reference of the fixed images, and all images as referenced."""
    made = _object(kind, fixed, maker, "REG", "Registration")
    made.FrameOfReferenceUID = _frame_of(fixed)
    made.PositionReferenceIndicator = fixed[0].get("PositionReferenceIndicator", "")
    made.ContentDate, made.ContentTime = made.SeriesDate, made.SeriesTime
    made.ContentLabel = "REGISTRATION"
    made.ContentDescription = ""
    made.ContentCreatorName = ""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for image in (*fixed, *moving):
        of_study = studies.setdefault(image.StudyInstanceUID, {})
        of_study.setdefault(image.SeriesInstanceUID, []).append(_reference(image))
    own = studies.pop(made.StudyInstanceUID)
    made.ReferencedSeriesSequence = _referenced_series(own)
    if studies:
        made.StudiesContainingOtherReferencedInstancesSequence = []
        for study, series in studies.items():
            other = Dataset()
            other.StudyInstanceUID = study
            other.ReferencedSeriesSequence = _referenced_series(series)
            made.StudiesContainingOtherReferencedInstancesSequence.append(other)
    return made


def _object(kind: UID, like: Sequence[Dataset], maker: Maker, modality: str, title: str) -> Dataset:
    """An empty object in a series of its own, in the study of those images."""
    made, source, now = Dataset(), like[0], datetime.now()
    for name in STUDY:
        if name in source:
            setattr(made, name, source[name].value)
        elif name in KNOWN_OR_EMPTY:
            setattr(made, name, "")
    made.SOPClassUID, made.SOPInstanceUID = kind, generate_uid()
    made.Modality, made.SeriesInstanceUID, made.SeriesDescription = modality, generate_uid(), title
    made.SeriesDate, made.SeriesTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.InstanceCreationDate, made.InstanceCreationTime = made.SeriesDate, made.SeriesTime
    made.SeriesNumber, made.InstanceNumber, made.Laterality = None, 1, ""
    made.Manufacturer, made.ManufacturerModelName = "warpzoo", maker.name
    made.DeviceSerialNumber, made.SoftwareVersions = "1", maker.version
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = kind, made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def _referenced_series(series: dict[str, list[Dataset]]) -> list[Dataset]:
    listed = []
    for uid, images in series.items():
        one = Dataset()
        one.SeriesInstanceUID, one.ReferencedInstanceSequence = uid, images
        listed.append(one)
    return listed


def _reference(image: Dataset) -> Dataset:
    one = Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return one


def _frame_of(series: Sequence[Dataset]) -> str:
    found = {str(image.get("FrameOfReferenceUID", "")) for image in series}
    if len(found) != 1 or "" in found:
        raise FileError(
            f"{series[0].filename} must have the frame of reference of its whole series, for a registration as DICOM; "
            f"got {', '.join(sorted(found - {''})) or 'none'}."
        )
    return found.pop()


def _matrix(matrix: np.ndarray) -> Dataset:
    one, linear = Dataset(), matrix[:3, :3]
    rigid = np.abs(linear.T @ linear - np.eye(3)).max() < RIGHT_ANGLES and np.linalg.det(linear) > 0
    one.FrameOfReferenceTransformationMatrixType = "RIGID" if rigid else "AFFINE"
    one.FrameOfReferenceTransformationMatrix = _decimals(matrix.ravel())
    return one


def _decimals(values: Any) -> list[DSfloat]:
    """Numbers as text of 16 characters at most."""
    return [DSfloat(float(one), auto_format=True) for one in values]
