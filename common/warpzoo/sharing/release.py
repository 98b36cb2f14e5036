"""A bundle as one file that runs alone: checked, with its exports, its card, and its own copy of what it uses of this
package."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warpzoo.bundles import METADATA, Bundle
from warpzoo.files import alone_in, reading, whole_file
from warpzoo.sharing.archive import pack, sha1
from warpzoo.sharing.card import card
from warpzoo.sharing.exports import export_onnx, export_torchscript
from warpzoo.sharing.results import results
from warpzoo.sharing.rules import broken_rules
from warpzoo.sharing.vendoring import copy_package, is_released

INDEX = "model_info.json"
OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./\.\./[^)]*\)")
"""A link of a page in `docs` to what is outside the bundle; its text stays."""
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "runs", ".*", "data")
"""What trainings and tests leave in a bundle's folder."""


CARD = "README.md"
"""In the released bundle's folder: its model card."""


@dataclass(frozen=True)
class Release:
    """The zip file, and what registries say of it."""

    path: Path
    checksum: str
    metadata: Mapping[str, Any]
    card: str

    @property
    def name(self) -> str:
        """Bundle and version, as the file is called."""
        return self.path.stem

    @property
    def bundle(self) -> str:
        return self.name.removesuffix(f"_v{self.version}")

    @property
    def version(self) -> str:
        return str(self.metadata["version"])

    @property
    def results(self) -> dict[str, float]:
        return dict(self.metadata["eval_metrics"])

    @property
    def tags(self) -> dict[str, str]:
        return {
            "bundle_version": self.version,
            "monai_version": str(self.metadata["monai_version"]),
            "pytorch_version": str(self.metadata["pytorch_version"]),
            "task": str(self.metadata["task"]),
            "sha1": self.checksum,
        }


def read_release(path: Path) -> Release:
    """A zip file that `release` has written."""
    with reading(path, "a released bundle"), zipfile.ZipFile(path) as zipped:
        top = path.stem.rpartition("_v")[0]
        metadata = json.loads(zipped.read(f"{top}/{METADATA.as_posix()}"))
        if path.stem != f"{top}_v{metadata['version']}" or "eval_metrics" not in metadata:
            raise ValueError(f"it has version {metadata['version']}")
        return Release(path, sha1(path), metadata, zipped.read(f"{top}/{CARD}").decode())


def release(bundle: Bundle, output: Path) -> Release:
    """Writes `<name>_v<version>.zip` and its entry in `model_info.json` into a folder.

    A bundle that breaks a rule of the model zoo is refused with all that is wrong.
    """
    if is_released(bundle.root):
        raise ValueError(f"{bundle.root} must be a bundle's source, got one that is released: take its zip file.")
    if broken := broken_rules(bundle):
        raise ValueError(f"{bundle.name} must obey the model zoo's rules, got: {' '.join(broken)}")
    version = bundle.metadata["version"]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / bundle.name
        shutil.copytree(bundle.root, root, ignore=LEFT_OUT)
        export_torchscript(bundle, root / "models" / "model.ts")
        export_onnx(bundle, root / "models" / "model.onnx")
        (root / CARD).write_text(card(bundle), encoding="utf-8")
        for page in (root / "docs").glob("*.md"):
            page.write_text(OUTSIDE.sub(r"\1", page.read_text(encoding="utf-8")), encoding="utf-8")
        metadata = {**bundle.metadata, "eval_metrics": results(bundle)}
        text = json.dumps(metadata, indent=4, ensure_ascii=False) + "\n"
        (root / METADATA).write_text(text, encoding="utf-8")
        copy_package(root)
        path = pack(root, output / f"{bundle.name}_v{version}.zip")
    made = read_release(path)
    add_to_index(output / INDEX, made)
    return made


def read_index(path: Path, missing: bool = True) -> dict[str, Any]:
    """What a folder's index lists; nothing where it is `missing`, if it may be."""
    if missing and not path.exists():
        return {}
    with reading(path, "an index of bundles"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    return content


def add_to_index(path: Path, made: Release) -> None:
    with alone_in(path.parent, patience=60), whole_file(path) as temporary:
        known = read_index(path)
        known[made.name] = {"checksum": made.checksum, "source": made.path.name}
        temporary.write_text(json.dumps(dict(sorted(known.items())), indent=4) + "\n", encoding="utf-8")
