"""What an application writes as DICOM beside its other files, where both images came as DICOM series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from pydicom import Dataset

from warpzoo.deployment.application.dicom_objects import (
    Maker,
    deformable_registration,
    read_headers,
    secondary_capture,
    spatial_registration,
)
from warpzoo.deployment.application.inputs import is_dicom
from warpzoo.files import whole_file
from warpzoo.geometry.transforms import Affine
from warpzoo.registration.pair import Registration
from warpzoo.transforms.writing import physical_displacement, world_matrix


def write_dicom(
    registration: Registration, files: Mapping[str, Path], maker: Maker, folder: Path, report: Path | None = None
) -> list[Path]:
    """registration.dcm: a matrix as Spatial Registration, any other transform as Deformable Spatial Registration; and
    report.dcm, the picture of the report. Nothing if an image came as another kind of file."""
    if not all(is_dicom(files[side]) for side in ("fixed", "moving")):
        return []
    fixed, moving = (read_headers(files[side]) for side in ("fixed", "moving"))
    transform, images = registration.transform, (registration.fixed, registration.moving)
    if isinstance(transform, Affine):
        made = spatial_registration(world_matrix(transform, *images), fixed, moving, maker)
    else:
        displacement = physical_displacement(transform, *images).numpy()
        affine = registration.fixed.header.affine
        made = deformable_registration(displacement, affine, fixed, moving, maker)
    written = [_save(made, folder / "registration.dcm")]
    if report is not None and report.exists():
        pixels = np.asarray(Picture.open(report).convert("RGB"))
        written.append(_save(secondary_capture(pixels, "Registration report", fixed, maker), folder / "report.dcm"))
    return written


def _save(made: Dataset, path: Path) -> Path:
    with whole_file(path) as temporary:
        made.save_as(temporary, enforce_file_format=True)
    return path
