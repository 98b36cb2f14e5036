"""Finding bundles, their variants, and their packages, from anywhere."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warpzoo.bundles import Bundle, bundle_folders, bundles, find_bundle, open_bundle
from warpzoo.denoising.denoise import denoiser
from warpzoo.registration.methods import find_methods

ROOT = Path(__file__).parents[2]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle for registration, with a variant that changes training and inference."""
    monkeypatch.setattr("warpzoo.bundles._PACKAGES.opened", {})
    root = tmp_path / "shelf" / "toy"
    (root / "configs/variants").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "models/model.pt").write_bytes(b"")
    (root / "models/wide.pt").write_bytes(b"")
    image = {"format": "magnitude", "spatial_shape": ["*", "*", "*"]}
    formats = {"inputs": {"image": image}, "outputs": {"pred": {"format": "registration"}}}
    files = {
        "metadata": {"task": "toys", "network_data_format": formats},
        "inference": {"network_def": {"_target_": "toy.network.Toy", "width": 1}, "spacing": 2},
        "train": {"network_def": {"_target_": "toy.network.Toy", "width": 1}, "epochs": 3, "records": {"of": "a"}},
        "variants/wide": {"network_def#width": 8, "epochs": 9, "which": 5, "records": {"of": "@which"}, "unused": 1},
        "variants/long": {"epochs": 99},
    }
    for name, content in files.items():
        (root / "configs" / f"{name}.json").write_text(json.dumps(content))
    (root / "toy").mkdir()
    (root / "toy/__init__.py").write_text("")
    (root / "toy/network.py").write_text("class Toy:\n    def __init__(self, width):\n        self.width = width\n")
    yield root
    for name in ("toy", "toy.network"):
        sys.modules.pop(name, None)


def test_what_a_bundle_says(toy: Path) -> None:
    bundle = open_bundle(toy)
    assert (bundle.name, bundle.task, bundle.spatial_dims) == ("toy", "registration", 3)
    assert bundle.variants == ["long", "wide"]
    assert bundle.weights() == toy / "models/model.pt"
    assert bundle.weights(["long", "wide"]) == toy / "models/wide.pt"
    assert bundle.shipped_weights() == ["model", "wide"]


def test_variants_have_one_meaning(toy: Path) -> None:
    """They change what a configuration has, with all that this refers to; later ones come on top."""
    bundle = open_bundle(toy)
    inference = bundle.config("inference", ["wide", "long"])
    assert inference["network_def"]["width"] == 8
    assert "epochs" not in inference
    assert "which" not in inference
    train = bundle.config("train", ["wide", "long"], epochs=7)
    assert train["network_def#width"] == 8
    assert train["epochs"] == 7
    assert train.get_parsed_content("records") == {"of": 5}
    assert bundle.config("train", ["long", "wide"])["epochs"] == 9
    assert bundle.config("inference").get_parsed_content("network_def").width == 1
    with pytest.raises(ValueError, match=r"variant must be one of toy's \(long, wide\), got 'narrow'"):
        bundle.config("train", ["narrow"])


def test_found_by_path_and_by_name(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_bundle(str(toy), "registration").root == toy
    monkeypatch.chdir(toy.parent)
    assert find_bundle("./toy", "registration").root == toy
    with pytest.raises(ValueError, match="method must be one of affine, deep_affine, denoisereg, dirnet, .* got 'toy'"):
        find_bundle("toy", "registration", ["affine"])
    shelves = os.pathsep.join([str(toy.parent / "none"), str(toy.parent)])
    monkeypatch.setenv("WARPZOO_BUNDLES", shelves)
    assert find_bundle("toy", "registration").root == toy
    names = [bundle.name for bundle in bundles("registration")]
    assert names[0] == "toy"
    assert "dirnet" in names, "the shipped ones are still there"
    with pytest.raises(ValueError, match="method must be a bundle for denoising, got 'toy', which is for registration"):
        find_bundle("toy", "denoising")
    with pytest.raises(ValueError, match="bundle_root must be the folder of a bundle"):
        find_bundle(str(toy / "configs"), "registration")


def test_own_bundles_come_before_shipped_ones(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(toy, toy.parent / "dirnet")
    monkeypatch.setenv("WARPZOO_BUNDLES", str(toy.parent))
    found = {bundle.name: bundle for bundle in bundles("registration")}
    assert found["dirnet"].root == toy.parent / "dirnet"
    assert bundle_folders()[-1] == ROOT / "bundles"


def test_a_package_of_the_same_name_from_elsewhere_is_refused(toy: Path) -> None:
    shutil.move(toy, toy.parent / "json")
    with pytest.raises(ValueError, match="another package json is loaded already"):
        open_bundle(toy.parent / "json")


def test_bundles_of_other_tasks_are_no_methods(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segmentation of MONAI's zoo; an own denoiser is listed, but is not the default."""
    monkeypatch.setenv("WARPZOO_BUNDLES", str(toy.parent))
    for name, kind in (("a_spleen", "segmentation"), ("a_denoiser", "denoised")):
        shutil.copytree(toy, toy.parent / name)
        metadata = json.loads((toy / "configs/metadata.json").read_text())
        metadata["network_data_format"]["outputs"]["pred"]["format"] = kind
        (toy.parent / name / "configs/metadata.json").write_text(json.dumps(metadata))
    assert open_bundle(toy.parent / "a_spleen").task is None
    assert [bundle.name for bundle in bundles("denoising")] == ["a_denoiser", "psf_blindspot"]
    assert "a_spleen" not in [bundle.name for bundle in bundles("registration")]
    assert denoiser().root == ROOT / "bundles/psf_blindspot"
    with pytest.raises(ValueError, match="method must be a bundle for denoising, got 'a_spleen'"):
        denoiser("a_spleen")


@pytest.mark.parametrize(
    "content", ["{broken", "{}", "[]", '{"network_data_format": {"inputs": {}, "outputs": {}}}', b"\xff\xfe"]
)
def test_a_damaged_bundle_leaves_the_others_alone(
    toy: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes
) -> None:
    monkeypatch.setenv("WARPZOO_BUNDLES", str(toy.parent))
    metadata = toy.parent / "broken/configs/metadata.json"
    metadata.parent.mkdir(parents=True)
    metadata.write_bytes(content.encode() if isinstance(content, str) else content)
    assert [bundle.name for bundle in bundles("registration")][:2] == ["toy", "deep_affine"]
    for name in ("broken", str(metadata.parents[1])):
        with pytest.raises(ValueError, match=re.escape(str(metadata))):
            find_methods(name)
        with pytest.raises(ValueError, match=re.escape(str(metadata))):
            denoiser(name)


def test_what_a_configuration_refuses_is_one_value_error(toy: Path) -> None:
    refusing = {"_target_": "warpzoo.checks.check_spacing", "name": "width", "spacing": -1, "dims": 2}
    (toy / "configs/inference.json").write_text(json.dumps({"method": refusing, "initialize": [refusing]}))
    with pytest.raises(ValueError, match="^width must be one positive length"):
        open_bundle(toy).part("method", "inference")
    with pytest.raises(ValueError, match="^width must be one positive length"):
        open_bundle(toy).workflow("inference")


def test_a_workflow_starts_silently(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, said = logging.getLogger("monai.bundle.workflows"), []
    monkeypatch.setattr(logger, "handle", lambda one: None if logger.disabled else said.append(one.getMessage()))
    open_bundle(toy).workflow("inference", initialize=[])
    assert said == []
    logger.warning("later")
    assert said == ["later"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["checkout", "copy"])
def test_monais_own_functions_find_the_network_from_anywhere(tmp_path: Path, place: str) -> None:
    """Without PYTHONPATH and from another folder; a copy is found by the configuration's path on the command line."""
    root = ROOT / "bundles" / "voxelmorph_dense"
    if place == "copy":
        root = Path(shutil.copytree(root, tmp_path / "copy" / "voxelmorph_dense"))
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import sys, torch\n"
        "from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out\n"
        f"config, meta = {str(root / 'configs/inference.json')!r}, {str(root / 'configs/metadata.json')!r}\n"
        "verify_net_in_out('network_def', meta_file=meta, config_file=config, any=16, device='cpu')\n"
        f"ckpt_export('network_def', filepath='model.ts', ckpt_file={str(root / 'models/model.pt')!r}, meta_file=meta,"
        " config_file=config)\n"
        f"workflow = ConfigWorkflow(config, meta_file=meta, workflow_type='inference', bundle_root={str(root)!r})\n"
        "workflow.initialize()\n"
        "print(type(workflow.network_def).__module__, sys.modules['voxelmorph_dense'].__file__)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "WARPZOO_BUNDLES")}
    environment["PYTHONPATH"] = str(ROOT / "common")
    arguments = [f"--config_file={root}/configs/inference.json"] if place == "copy" else []
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[-2:] == ["voxelmorph_dense.network", str(root / "voxelmorph_dense/__init__.py")]
    assert (tmp_path / "elsewhere/model.ts").exists()


def test_importing_the_package_takes_no_heavy_module() -> None:
    code = "import sys, warpzoo; print([name for name in ('torch', 'numpy', 'monai', 'itk') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_bundle_is_plain_data(toy: Path) -> None:
    assert Bundle(toy, json.loads((toy / "configs/metadata.json").read_text())) == open_bundle(toy)
