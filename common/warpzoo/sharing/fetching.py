"""Bundles from a registry into the folder of fetched ones: checked before they are listed, without running any of
their code; refused whole."""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from warpzoo.bundles import METADATA, Bundle, read_bundle
from warpzoo.bundles.fetched import ORIGIN, fetched_folder
from warpzoo.files import FileError
from warpzoo.networks.weights import read_weights
from warpzoo.sharing import hub, mlflow_server, shelf
from warpzoo.sharing.rules import is_package

WEIGHTS = (".pt", ".pth", ".ckpt")
CODE_AS_DATA = (".pkl", ".pickle", ".joblib", ".dill")
"""Files whose reading runs what is in them."""


@dataclass(frozen=True)
class Fetched:
    bundle: Bundle
    replaced: bool
    """Whether the folder had one of that name."""


def fetch(source: str, address: str | None = None) -> Fetched:
    """Fetches one bundle; an earlier one of its name is replaced when the new one is complete.

    Args:
        source: `models:/NAME@ALIAS` or `models:/NAME/VERSION` of MLflow, `hf://OWNER/NAME[@REVISION]` of the Hugging
            Face hub, or FOLDER/NAME[_vVERSION], where FOLDER is a folder or an address with a model_info.json.
        address: of the MLflow server.
    """
    folder = fetched_folder()
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    registry = next((one for one in (mlflow_server, hub) if source.startswith(one.SCHEME)), shelf)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
            root = registry.fetch(source, address, Path(temporary))
            try:
                bundle = check(root)
            except ValueError as error:
                said = str(error).replace(f"{root}/", "").replace(str(root), root.name)
                raise FileError(f"{source} is refused: {said}") from error
            origin = {"source": source, "version": bundle.metadata["version"]}
            (root / ORIGIN).write_text(json.dumps(origin, indent=4) + "\n", encoding="utf-8")
            target = folder / root.name
            replaced = target.exists()
            if replaced:
                target.rename(Path(temporary) / "before")
            root.rename(target)
    finally:
        for one in missing:  # those that this call has made, as far as nothing is in them
            with suppress(OSError):
                one.rmdir()
    return Fetched(Bundle(target, bundle.metadata), replaced)


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
    if not isinstance(bundle.metadata.get("version"), str):
        raise FileError("version of the metadata must be a text.")
    bundle.settings("inference")
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            raise FileError(f"{name} must be a file, got a link.")
        if path.suffix in CODE_AS_DATA:
            raise FileError(f"{name} must not be there: reading such a file runs what is in it.")
        if path.suffix in WEIGHTS:
            read_weights(path)
    return bundle
