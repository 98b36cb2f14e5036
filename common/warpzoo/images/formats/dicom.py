"""A folder with one DICOM series: a volume of slices at equal steps, read by GDCM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from warpzoo.files import FileError, check_kinds_below, reading
from warpzoo.images.image import Header, from_lps
from warpzoo.images.source import DEFLATE_RATIO, Source, check_size, colour


def open_file(folder: Path, labels: bool = False, channels: bool = False) -> Source:
    import itk

    with reading(folder, "a folder with one DICOM series"):
        check_kinds_below(folder)
        names = itk.GDCMSeriesFileNames.New()
        names.SetUseSeriesDetails(True)
        names.SetDirectory(str(folder))
        names.SetGlobalWarningDisplay(False)  # of every object of ITK; there being none is said below
        series = list(names.GetSeriesUIDs())
        names.SetGlobalWarningDisplay(True)
        if not series:
            raise FileError(
                f"{folder} must hold one DICOM series or, for time, numbered TIFF or PNG files, got no DICOM series "
                f"and no such files."
            )
        if len(series) > 1:
            raise FileError(f"{folder} must hold one DICOM series, got {len(series)}.")
        files = list(names.GetFileNames(series[0]))
        origins = [_origin(file) for file in files]
        image = itk.imread(files)
        values = itk.array_from_image(image)
        if values.ndim != 3:
            raise colour(folder)
        direction = itk.array_from_matrix(image.GetDirection())
        affine = from_lps(direction, list(image.GetSpacing()), list(image.GetOrigin()))
        _check_slices(folder, origins)
    header = Header(folder, values.shape[::-1], affine, values.dtype)
    return Source(header, "XYZ", header.shape, (0, 1, 2), values)


def _origin(file: str) -> list[float]:
    """Where a slice is, once its file can hold what its header declares."""
    import itk

    information = itk.GDCMImageIO.New()
    information.SetFileName(file)
    information.ReadImageInformation()
    shape = [information.GetDimensions(axis) for axis in range(information.GetNumberOfDimensions())]
    check_size(Path(file), shape, np.dtype(f"V{information.GetComponentSize()}"), ratio=DEFLATE_RATIO)
    return [information.GetOrigin(axis) for axis in range(3)]


def _check_slices(folder: Path, origins: Sequence[Sequence[float]]) -> None:
    """Slices at equal steps, each position once."""
    if len(origins) < 3:
        return
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
            f"the steps must be equal."
        )
