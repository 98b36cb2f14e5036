"""Zip files: the same bytes for the same content, and nothing of a damaged or hostile one on the disk."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from warpzoo.files import FileError, reading, whole_file

MOMENT = (2022, 5, 30, 0, 0, 0)
"""As MONAI's model zoo has it."""
LARGEST = 2**32
"""Bytes that an archive may hold."""


def pack(folder: Path, path: Path) -> Path:
    """All files of a folder below its name, in order, without their times and permissions."""
    with (
        whole_file(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as zipped,
    ):
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            entry = zipfile.ZipInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}", MOMENT)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            zipped.writestr(entry, file.read_bytes())
    return path


def unpack(path: Path, folder: Path, checksum: str | None = None) -> Path:
    """The archive's one folder, in a folder that exists or not; whole or not at all.

    Refused are another checksum (sha1), several folders, names that lead elsewhere, links, and what is there already.
    """
    with reading(path, "a zip file"):
        if checksum is not None and (found := sha1(path)) != checksum:
            raise FileError(f"{path} must have the sha1 {checksum}, got {found}: fetch it again.")
        with zipfile.ZipFile(path) as zipped:
            entries = zipped.infolist()
            for entry in entries:
                is_link = entry.external_attr >> 16 & 0o170000 == 0o120000
                if is_link or not is_inside(entry.filename):
                    raise FileError(f"{path} must only have files of its own folder, got {entry.filename!r}.")
            tops = {PurePosixPath(entry.filename).parts[0] for entry in entries}
            if len(tops) != 1:
                raise FileError(f"{path} must have one folder, got {', '.join(sorted(tops)) or 'nothing'}.")
            if (size := sum(entry.file_size for entry in entries)) > LARGEST:
                raise FileError(f"{path} must hold {LARGEST} bytes or less, got {size}.")
            target = folder / tops.pop()
            if target.exists():
                raise FileError(f"{target} is there already: remove it or choose another folder.")
            if (damaged := zipped.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} has another checksum")
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
                zipped.extractall(temporary)
                shutil.move(Path(temporary) / target.name, target)
    return target


def is_inside(name: str) -> bool:
    """Whether a file's name can be shown, and stays in the folder that it is put into, on any system."""
    path = PurePosixPath(name)
    return (
        name.isprintable()
        and bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and not {"\\", ":"} & {*name}
    )


def sha1(path: Path) -> str:
    """What MONAI's model zoo lists of a file."""
    return hashlib.sha1(path.read_bytes()).hexdigest()
