"""A bundle as one file that runs alone: checked, with its exports and its own copy of what it uses of this package."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warpzoo.bundles import Bundle
from warpzoo.files import whole_file
from warpzoo.sharing.archive import pack, sha1
from warpzoo.sharing.exports import export_onnx, export_torchscript
from warpzoo.sharing.rules import broken_rules
from warpzoo.sharing.vendoring import copy_package

INDEX = "model_info.json"
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "runs", ".*", "data")
"""What trainings and tests leave in a bundle's folder."""


@dataclass(frozen=True)
class Release:
    """The zip file, and its entry in an index such as MONAI's `model_info.json`."""

    path: Path
    checksum: str
    version: str

    @property
    def entry(self) -> dict[str, dict[str, Any]]:
        return {self.path.stem: {"checksum": self.checksum, "source": self.path.name}}


def release(bundle: Bundle, output: Path) -> Release:
    """Writes `<name>_v<version>.zip` and its entry in `model_info.json` into a folder.

    A bundle that breaks a rule of the model zoo is refused with all that is wrong.
    """
    if broken := broken_rules(bundle):
        raise ValueError(f"{bundle.name} must obey the model zoo's rules, got: {' '.join(broken)}")
    version = bundle.metadata["version"]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / bundle.name
        shutil.copytree(bundle.root, root, ignore=LEFT_OUT)
        export_torchscript(bundle, root / "models" / "model.ts")
        export_onnx(bundle, root / "models" / "model.onnx")
        copy_package(root)
        path = pack(root, output / f"{bundle.name}_v{version}.zip")
    made = Release(path, sha1(path), version)
    _list(output / INDEX, made)
    return made


def _list(path: Path, made: Release) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(dict(sorted((known | made.entry).items())), indent=4) + "\n", encoding="utf-8")
