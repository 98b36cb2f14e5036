"""A folder, or the same folder behind a file server, as a registry: zip files, and `model_info.json` with their sha1 as
MONAI's model zoo keeps it."""

from __future__ import annotations

import re
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin

from warpzoo.files import FileError, whole_file
from warpzoo.sharing.archive import LARGEST, sha1, unpack
from warpzoo.sharing.release import INDEX, Release, add_to_index, read_index

PATIENCE = 60
"""Seconds in which a server must have begun to answer."""


def publish(release: Release, address: str | None, alias: str) -> str:
    """Puts a release into a folder, `dist` by default; an alias has no place there."""
    if "://" in (address or ""):
        raise ValueError(f"address must be a folder of this machine for the registry folder, got {address!r}.")
    folder = Path(address or "dist")
    path = folder / release.path.name
    read_index(folder / INDEX)
    if not path.exists():
        with whole_file(path) as temporary:
            shutil.copyfile(release.path, temporary)
    elif sha1(path) != release.checksum:
        raise FileError(f"{path} is published already, with other bytes: raise the version of {release.bundle}.")
    add_to_index(folder / INDEX, release)
    return str(folder / release.name)


def fetch(source: str, address: str | None, folder: Path) -> tuple[Path, str]:
    """Unpacks `FOLDER/NAME`, `FOLDER/NAME_vVERSION` or `FOLDER/NAME_vVERSION.zip`, where FOLDER may be an address.
    Also gives what it must be: name and version."""
    where, _, name = source.rstrip("/").rpartition("/")
    index = _index(where, folder)
    versions = {key: _version(key) for key in index if name.removesuffix(".zip") in (key, _name(key))}
    if not versions:
        there = ", ".join(sorted(index)) or "nothing"
        raise FileError(f"{where or '.'}/{INDEX} must list {name}, got {there}.")
    key = max(versions, key=lambda one: versions[one])
    entry = index[key]
    if not isinstance(entry, dict) or not all(isinstance(entry.get(part), str) for part in ("checksum", "source")):
        raise FileError(f"{where or '.'}/{INDEX} must have a checksum and a source for {key}.")
    return unpack(_file(where, entry["source"], folder), folder, entry["checksum"]), key


def _index(where: str, folder: Path) -> dict[str, Any]:
    return read_index(_file(where, INDEX, folder), missing=False)


def _file(where: str, name: str, folder: Path) -> Path:
    """A file of the folder where it is, or of the server in `folder`."""
    if _is_address(name):
        return _download(name, folder)
    if PurePosixPath(name).is_absolute() or {"..", ""} & {*re.split(r"[/\\]", name)} or ":" in name:
        raise FileError(f"{where or '.'}/{INDEX} must only name files of its own folder, got {name!r}.")
    return _download(urljoin(f"{where}/", name), folder) if _is_address(where) else Path(where or ".") / name


def _download(address: str, folder: Path) -> Path:
    path = folder / PurePosixPath(address).name
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "warpzoo"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer, path.open("wb") as file:
            left = LARGEST
            while part := answer.read(2**20):
                file.write(part)
                if (left := left - len(part)) < 0:
                    raise FileError(f"{address} must have {LARGEST} bytes or less.")
    except FileError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise FileError(f"{address} cannot be fetched ({error}).") from error
    return path


def _is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _name(key: str) -> str:
    return key.rpartition("_v")[0]


def _version(key: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", key.rpartition("_v")[2]))
