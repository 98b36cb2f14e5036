"""Formats of image files, a module each, imported when a file of its format is met.

`open_file(path, labels, channels)` gives a `Source`; with `channels` a picture's colours are an axis of it. Formats
that are written have `write(file, path, values, like)` for one image at once, `created(source, path, dtype)` for a file
that is written part by part, or both; those that several processes may write at once have `begun`, `reopened`, `units`
and `completed` beside.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

SUFFIXES = {
    "nifti": (".nii", ".nii.gz"),
    "picture": (".png", ".jpg", ".jpeg", ".bmp"),
    "tiff": (".tif", ".tiff"),
    "ome_zarr": (".zarr",),
}


def format_of(path: Path) -> ModuleType:
    """The module by the path's suffix; for other suffixes DICOM if it is a folder, and ITK if not."""
    name = path.name.lower()
    found = (kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes))
    return import_module(f"{__name__}.{next(found, 'dicom' if path.is_dir() else 'itk')}")
