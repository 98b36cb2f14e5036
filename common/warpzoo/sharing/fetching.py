"""Bundles from a registry into the folder of fetched ones: checked before they are listed, without running any of
their code; refused whole."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from warpzoo.bundles import Bundle
from warpzoo.bundles.fetched import ORIGIN, fetched_folder
from warpzoo.files import FileError
from warpzoo.sharing import hub, mlflow_server, shelf
from warpzoo.sharing.checks import check


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
            try:
                root, wanted = registry.fetch(source, address, Path(temporary))
            except FileError as error:
                raise FileError(str(error).replace(f"{temporary}/", "")) from error
            try:
                bundle = check(root)
                found = f"{root.name}_v{bundle.metadata['version']}"
                if wanted not in (root.name, found):
                    raise FileError(f"it must be {wanted}, got {found}.")
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
