"""What a browser or a program sends over HTTP → files in a folder, and nothing beyond: neither where they lie nor what
they hold reaches outside of it."""

from __future__ import annotations

import math
import re
import shutil
import zipfile
from pathlib import Path
from typing import IO

from warpzoo.files import FileError, reading, shortened
from warpzoo.images.image import by, open_image

SUFFIXES = (".nii", ".nii.gz", ".mha", ".nrrd", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
UNPACKED = 20
"""How many times the size limit a series may have, once it is out of its zip file."""
VALUES = re.compile(rb"^(?:ElementDataFile *=|data ?file *:) *(.*?) *\r?$", re.M | re.I)
"""Where a MetaImage or NRRD says that its values are: it could be any file of the machine."""


def store(content: IO[bytes], name: str, folder: Path, most_bytes: int) -> Path:
    """One image: a file under a harmless form of its name, or the folder of a DICOM series (.zip) or file (.dcm)."""
    name = re.sub(r"[^\w.-]+", "_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".")[-80:] or "image"
    lower = name.lower()
    folder.mkdir(parents=True)
    if lower.endswith(".zip"):
        return _unpack(content, name, folder / "series", most_bytes * UNPACKED)
    if lower.endswith(".dcm"):
        (folder / "series").mkdir()
        _copy(content, folder / "series" / name)
        return folder / "series"
    if not lower.endswith(SUFFIXES):
        raise FileError(
            f"{shortened(name)} must be an image ({', '.join(SUFFIXES)}), one DICOM file (.dcm) or a DICOM series "
            f"(.zip)."
        )
    path = _copy(content, folder / name)
    if lower.endswith((".mha", ".nrrd")):
        with open(path, "rb") as file:
            elsewhere = VALUES.search(file.read(2**20))
        if elsewhere and elsewhere.group(1).upper() != b"LOCAL":
            raise FileError(f"{shortened(name)} must hold its values itself, not name another file.")
    return path


def check_voxels(path: Path, most: int) -> None:
    """That an image declares so many voxels at most, before it is read: what is packed well may be large."""
    source = open_image(path)
    if (count := math.prod(source.shape)) > most:
        raise FileError(f"{path.name} must have {most} voxels or fewer here, got {by(source.shape)}, {count}.")


def _copy(content: IO[bytes], path: Path) -> Path:
    with open(path, "wb") as file:
        shutil.copyfileobj(content, file)
    return path


def _unpack(content: IO[bytes], name: str, folder: Path, most_bytes: int) -> Path:
    """The files of an archive, whatever folders they are in there, under numbers."""
    archive = _copy(content, folder.with_suffix(".zip"))
    with reading(archive, "a zip file with one DICOM series"), zipfile.ZipFile(archive) as zipped:
        entries = [one for one in zipped.infolist() if not one.is_dir()]
        if sum(one.file_size for one in entries) > most_bytes:
            raise FileError(f"{shortened(name)} must hold {most_bytes} bytes or less.")
        folder.mkdir()
        for number, entry in enumerate(entries):
            with zipped.open(entry) as part:  # ends with an error if there is more than the entry says
                _copy(part, folder / f"{number:05d}.dcm")
    archive.unlink()
    return folder
