"""What an application finds in its input folder: a fixed and a moving image, or one image.

An image is a file, or a folder with one DICOM series.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from warpzoo.files import FileError

SIDES = ("fixed", "moving")


def find_pair(folder: Path, series: Mapping[str, str], work: Path) -> dict[str, Path]:
    """The fixed and the moving image of a folder.

    They are what is called so there (fixed.nii.gz, moving.mha, folders fixed and moving), or two DICOM series of a
    study whose descriptions match the patterns of `series`; these get a folder each below `work`.
    """
    named = {side: [one for one in _entries(folder) if re.fullmatch(rf"{side}(\..*)?", one.name)] for side in SIDES}
    if all(len(found) == 1 for found in named.values()):
        return {side: _image(found[0]) for side, found in named.items()}
    if any(named.values()):
        raise FileError(
            f"{folder} must have one fixed and one moving image, got {len(named['fixed'])} and {len(named['moving'])}."
        )
    found = _series(folder)
    if not found:
        raise FileError(
            f"{folder} must have a fixed and a moving image, such as fixed.nii.gz and moving.nii.gz, or folders fixed "
            f"and moving with a DICOM series each; got {_names(folder)}."
        )
    return {side: _chosen(folder, side, series, found, work) for side in SIDES}


def find_image(folder: Path) -> Path:
    """The only image of a folder, or what is given itself if that is a file."""
    if folder.is_file():
        return folder
    entries = _entries(folder)
    if len(entries) == 1:
        return _image(entries[0])
    if len(_series(folder)) == 1:
        return folder
    raise FileError(f"{folder} must have one image, a file or a folder with one DICOM series; got {_names(folder)}.")


def is_dicom(path: Path) -> bool:
    """Whether an image is a DICOM series."""
    return path.is_dir() and not path.name.lower().endswith(".zarr")


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileError(f"{folder} must be a folder with the images.")
    return sorted(one for one in folder.iterdir() if not one.name.startswith("."))


def _image(path: Path) -> Path:
    """What an entry is: itself, or where files are nested in folders the folder that has them."""
    while is_dicom(path) and len(_entries(path)) == 1 and is_dicom(_entries(path)[0]):
        path = _entries(path)[0]
    return path


def _series(folder: Path) -> dict[str, tuple[str, list[Path]]]:
    """The DICOM series below a folder: by their identity, what they say they are and their files."""
    found: dict[str, tuple[str, list[Path]]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                header = dcmread(
                    path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SeriesDescription"]
                )
            except (InvalidDicomError, OSError):
                continue
            if "SeriesInstanceUID" in header:
                words = str(header.get("SeriesDescription", ""))
                found.setdefault(header.SeriesInstanceUID, (words, []))[1].append(path)
    return found


def _chosen(
    folder: Path, side: str, patterns: Mapping[str, str], found: Mapping[str, tuple[str, list[Path]]], work: Path
) -> Path:
    words = ", ".join(repr(one) for one, _ in found.values())
    pattern = patterns.get(side, "")
    if not pattern:
        raise FileError(
            f"{folder} has the DICOM series {words}: say in app.yaml, under series, which description {side} has, or "
            f"put it into a folder {side}."
        )
    matching = [files for said, files in found.values() if re.search(pattern, said, re.IGNORECASE)]
    if len(matching) != 1:
        raise FileError(
            f"{folder} must have one series whose description matches {pattern!r}, for {side}; got {len(matching)} of "
            f"{words}."
        )
    target = work / side
    target.mkdir(parents=True)
    for number, file in enumerate(matching[0]):
        (target / f"{number:05d}.dcm").symlink_to(file.resolve())
    return target


def _names(folder: Path) -> str:
    return ", ".join(one.name for one in _entries(folder)[:8]) or "nothing"
