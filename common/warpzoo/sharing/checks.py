"""Bundles of others, looked through before they are used or passed on, without running any of their code."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

from warpzoo.bundles import METADATA, Bundle, read_bundle
from warpzoo.files import FileError, shortened
from warpzoo.networks.weights import read_weights
from warpzoo.sharing.rules import is_package

WEIGHTS = (".pt", ".pth", ".ckpt")
CODE_AS_DATA = (".pkl", ".pickle", ".joblib", ".dill")
"""Files whose reading runs what is in them."""
PICKLED, NEWEST = b"\x80", b"\x05"
"""What those of any name begin with: a byte, and the number of the protocol."""
VERSION = r"\d+(\.\d+)*"


def check(root: Path) -> Bundle:
    """The bundle in a folder, if this package can use it and its data are data; otherwise a ValueError."""
    if not re.fullmatch(r"[A-Za-z]\w*", root.name) or is_package(root.name):
        raise FileError(f"the bundle's name must be a word that is no package's, got {root.name!r}.")
    for file in (METADATA.as_posix(), "configs/inference.json", f"{root.name}/__init__.py"):
        if not (root / file).is_file():
            raise FileError(f"{file} must be there.")
    bundle = read_bundle(root)
    if bundle.task is None:
        raise FileError("the bundle must be for registration or denoising.")
    version = bundle.metadata.get("version")
    if not isinstance(version, str) or not re.fullmatch(VERSION, version):
        raise FileError(f"version of the metadata must be numbers such as 0.1.0, got {shortened(repr(version))}.")
    if bundle.spatial_dims not in (2, 3):
        raise FileError(f"spatial_shape of the metadata must have 2 or 3 axes, got {bundle.spatial_dims}.")
    bundle.settings("inference")
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            raise FileError(f"{name} must be a file, got a link.")
        if path.is_file():
            _check_data(path, name)
    return bundle


def _check_data(path: Path, name: str) -> None:
    """That a file holds no objects whose reading would run something, whatever it is called."""
    with open(path, "rb") as file:
        begins = file.read(2)
    if path.suffix.lower() in CODE_AS_DATA or (begins[:1] == PICKLED and begins[1:] <= NEWEST):
        raise FileError(f"{name} must not be there: reading such a file runs what is in it.")
    if path.suffix.lower() in WEIGHTS or _holds_objects(path):
        read_weights(path)


def _holds_objects(path: Path) -> bool:
    """Whether it is an archive as PyTorch writes it, and none of TorchScript, which runs nothing when it is read."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as zipped:
        names = {PurePosixPath(name).name for name in zipped.namelist()}
    return "data.pkl" in names and "constants.pkl" not in names
