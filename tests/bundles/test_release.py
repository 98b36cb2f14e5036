"""What is released of a bundle: the rules that it obeys, and that the archive runs alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from warpzoo.bundles import _PACKAGES, open_bundle
from warpzoo.sharing.archive import unpack
from warpzoo.sharing.exports import export_onnx
from warpzoo.sharing.release import release
from warpzoo.sharing.rules import broken_rules
from warpzoo.sharing.vendoring import PACKAGE, configurations, used_modules

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/metadata.json"))


@pytest.mark.parametrize("name", NAMES)
def test_every_bundle_obeys_the_rules(name: str) -> None:
    assert broken_rules(open_bundle(ROOT / "bundles" / name)) == []


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle to break; its package is the copy's meanwhile."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "voxelmorph_dense"]:
            del sys.modules[name]

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(_PACKAGES, "opened", {})
    forget()
    ignored = shutil.ignore_patterns("runs", "__pycache__")
    yield Path(shutil.copytree(ROOT / "bundles" / "voxelmorph_dense", tmp_path / "voxelmorph_dense", ignore=ignored))
    forget()


def metadata(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / "configs" / "metadata.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")

    return apply


def drop_from_training(root: Path) -> None:
    path = root / "configs" / "train.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["train"]["trainer"]
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def page(root: Path, before: str, after: str) -> None:
    path = root / "docs" / "README.md"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def spoil_weights(root: Path) -> None:
    path = root / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    torch.save({key: torch.full_like(value, torch.nan) for key, value in state.items()}, path)


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no licence": (lambda root: (root / "LICENSE").unlink(), "LICENSE must be there"),
    "another licence": (lambda root: (root / "LICENSE").write_text("mine"), "LICENSE must be the Apache License"),
    "no weights": (lambda root: (root / "models/model.pt").unlink(), "models/model.pt must be there"),
    "too large": (
        lambda root: (root / "models/big.pt").write_bytes(bytes(2**25)),
        "models/big.pt must have 26214400 bytes or less",
    ),
    "no task": (metadata(lambda content: content.pop("task")), "task of the metadata must be a text"),
    "no packages": (
        metadata(lambda content: content.update(required_packages_version={})),
        "required_packages_version of the metadata must be a mapping",
    ),
    "a package": (
        metadata(lambda content: content["required_packages_version"].pop("scipy")),
        "required_packages_version must have scipy",
    ),
    "optional": (
        metadata(lambda content: content.update(optional_packages_version={"zarr": "3.0.0"})),
        "optional_packages_version must not be",
    ),
    "schema": (metadata(lambda content: content.update(schema="mine")), "schema of the metadata must be https"),
    "channels": (
        metadata(lambda content: content["network_data_format"]["outputs"]["pred"].update(num_channels=7)),
        "must name 7 channels",
    ),
    "version": (metadata(lambda content: content.update(version="0.10.0")), "version must be three digits"),
    "changelog": (metadata(lambda content: content.update(changelog={"0.0.9": "x"})), "must have an entry for version"),
    "form": (
        lambda root: (root / "configs/evaluate.json").write_text("{}"),
        "configs/evaluate.json must be indented by four spaces and end with a newline",
    ),
    "machine": (
        metadata(lambda content: content.update(data_source="/home/me/images")),
        "configs/metadata.json must not have a path of somebody's machine",
    ),
    "package": (
        lambda root: (root / "scripts").mkdir() or (root / "scripts/__init__.py").touch(),
        "the bundle must have one package, voxelmorph_dense, got scripts, voxelmorph_dense",
    ),
    "names": (
        lambda root: shutil.copytree(root / "configs", root.parent / "voxelmorph_dense_2/configs"),
        "must not hold another's, nor be held by it",
    ),
    "properties": (drop_from_training, "configs/train.json must have train#trainer"),
    "sections": (
        lambda root: page(root, "## Performance", "## Results"),
        "docs/README.md must have the sections Performance.",
    ),
    "their order": (
        lambda root: page(root, "## Data\n", "## Limitations\n\n## Data\n"),
        "in this order, got Model Description, Limitations, Data, Performance",
    ),
    "numbers": (
        metadata(lambda content: content.update(results={"page": "docs/README.md", "row": "ours"})),
        "must have a row 'ours', as the metadata of voxelmorph_dense say",
    ),
    "weights": (spoil_weights, "the network must load its weights and run"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_rule_that_is_broken_is_said(kind: str, copy: Path, tmp_path: Path) -> None:
    change, message = BREAKS[kind]
    change(copy)
    broken = broken_rules(open_bundle(copy))
    assert any(message in one for one in broken), broken


def test_a_bundle_that_breaks_a_rule_is_not_released(copy: Path, tmp_path: Path) -> None:
    (copy / "LICENSE").write_text("mine")
    with pytest.raises(ValueError, match=r"must obey the model zoo's rules, got: LICENSE must be the Apache License"):
        release(open_bundle(copy), tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["voxelmorph_dense", "psf_blindspot"])
def test_a_released_bundle_runs_alone(name: str, tmp_path: Path) -> None:
    bundle = open_bundle(ROOT / "bundles" / name)
    made = release(bundle, tmp_path / "once")
    command = [sys.executable, "-m", "warpzoo", "release", name, "--output", "twice"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True, capture_output=True)
    assert made.path.read_bytes() == (tmp_path / "twice" / made.path.name).read_bytes()
    index = json.loads((tmp_path / "once" / "model_info.json").read_text())
    assert index == {f"{name}_v{bundle.metadata['version']}": {"checksum": made.checksum, "source": made.path.name}}
    root = unpack(made.path, tmp_path / "out", made.checksum)
    assert all((root.parent / f"{name}/{file}").is_file() for file in ("models/model.ts", "models/model.onnx"))
    there = {".".join(path.relative_to(root).with_suffix("").parts) for path in (root / "warpzoo").rglob("*.py")}
    whole = {".".join(one.relative_to(PACKAGE.parent).with_suffix("").parts) for one in PACKAGE.rglob("*.py")}
    assert there == whole
    assert {one.removesuffix(".__init__") for one in there} >= set(used_modules(ROOT / "bundles" / name))
    links = {
        page.parent / link for page in root.rglob("*.md") for link in re.findall(r"\]\(([^):]+)\)", page.read_text())
    }
    assert all(link.exists() and link.resolve().is_relative_to(root.resolve()) for link in links), links
    assert not any('"$import warpzoo' in path.read_text(encoding="utf-8") for path in configurations(root))

    def ended_with(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *map(str, words)], cwd=tmp_path, text=True, capture_output=True)

    assert ended_with(ROOT / "scripts" / "verify_bundles.py", root).returncode == 0
    again = ended_with("-m", "warpzoo", "release", root, "--output", "again")
    assert "must be a bundle's source, got one that is released: take its zip file" in again.stderr
    for number, released in enumerate((root, made.path)):
        assert ended_with("-m", "warpzoo", "deploy", released, "--output", f"app{number}").returncode == 0
        assert (tmp_path / f"app{number}" / "models" / name / "warpzoo" / "__init__.py").is_file()
    command = [sys.executable, str(ROOT / "scripts" / "try_release.py"), str(made.path)]
    ended = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]


def test_without_onnx_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ValueError, match=r"ONNX must have onnx and onnxruntime installed .*pip install 'warpzoo\[release\]'"
    ):
        export_onnx(open_bundle(ROOT / "bundles" / "voxelmorph_dense"), tmp_path / "model.onnx")
