"""DICOM series made with pydicom alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.ndimage import gaussian_filter

ROWS = np.array([0.96, 0.28, 0.0])
COLUMNS = np.array([-0.28 * 0.8, 0.96 * 0.8, 0.6])
"""Where rows and columns of a tilted series point to, LPS."""


def made_scene(shape: tuple[int, ...], shift: int = 0) -> np.ndarray:
    """Smooth values of 0 to 1000 by (slice, row, column), the same ones for every shift, seen from elsewhere."""
    values = gaussian_filter(np.random.default_rng(0).standard_normal([side + 8 for side in shape]), 2.5)
    part = values[tuple(slice(shift, shift + side) for side in shape)]
    return (1000 * (part - values.min()) / np.ptp(values)).astype(np.uint16)


class Series:
    """A series of slices, and how a scan describes it."""

    def __init__(self, description: str = "T1", study: str | None = None, frame: str | None = None) -> None:
        self.description, self.study, self.frame = description, study or generate_uid(), frame or generate_uid()
        self.uid, self.instances = generate_uid(), []

    def write(
        self,
        folder: Path,
        values: np.ndarray,
        spacing: tuple[float, float, float] = (1.5, 1.25, 1.0),
        origin: tuple[float, float, float] = (-20.0, 12.0, 30.0),
        axes: tuple[np.ndarray, np.ndarray] = (ROWS, COLUMNS),
    ) -> Path:
        """Spacing as (slices, rows, columns); files are named so that their order is not that of the slices."""
        folder.mkdir(parents=True, exist_ok=True)
        normal = np.cross(*axes)
        for number, pixels in enumerate(values):
            one = Dataset()
            one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, generate_uid()
            one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "Doe^Jane", "7", "19700101", "F"
            one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = self.study, self.uid, self.frame
            one.StudyDate, one.StudyTime, one.StudyID, one.AccessionNumber = "20260102", "101112", "3", "A5"
            one.ReferringPhysicianName, one.Modality, one.SeriesDescription = "", "MR", self.description
            one.SeriesNumber, one.InstanceNumber, one.PositionReferenceIndicator = 1, number + 1, ""
            position = np.array(origin) + number * spacing[0] * normal
            one.ImagePositionPatient = [round(float(part), 9) for part in position]
            one.ImageOrientationPatient = [float(part) for axis in axes for part in axis]
            one.PixelSpacing, one.SliceThickness = [spacing[1], spacing[2]], spacing[0]
            one.Rows, one.Columns = pixels.shape
            one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
            one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
            one.PixelData = pixels.astype("<u2").tobytes()
            one.file_meta = FileMetaDataset()
            one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
            one.save_as(folder / f"{(number * 7) % 100:02d}_{number}.dcm", enforce_file_format=True)
            self.instances.append(one.SOPInstanceUID)
        return folder


@pytest.fixture(name="series")
def series_class() -> type[Series]:
    return Series


@pytest.fixture
def scene() -> Callable[..., np.ndarray]:
    return made_scene


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with the series fixed and moving, of one patient, with places of their own."""
    Series("T1 before").write(tmp_path / "study" / "fixed", made_scene((12, 20, 18)))
    later = Series("T1 after")
    later.write(tmp_path / "study" / "moving", made_scene((13, 19, 20), 2), (1.6, 1.2, 1.1), (-18.5, 13.0, 28.0))
    return tmp_path / "study"
