"""The bundle's inference: MONAI's own way of running it and `warpzoo register` give the same files, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from warpzoo.commands.register import register

Start = Callable[..., ConfigWorkflow]
SAME = ("warped.nii.gz", "displacement.nii.gz", "transform.h5")


@pytest.fixture
def pair(hearts: Path, tmp_path: Path) -> dict[str, str]:
    """One slice at both phases, with its labels, as pictures."""
    arrays = np.load(hearts)
    files = {}
    for role, name in (("fixed", "ed"), ("moving", "es"), ("fixed_labels", "ed_lv"), ("moving_labels", "es_lv")):
        files[role] = str(tmp_path / f"{role}.png")
        Image.fromarray(arrays[name][0].astype(np.uint8)).save(files[role])
    return files


def assert_same(one: Path, other: Path) -> None:
    for name in SAME:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_the_bundle_and_the_command_write_the_same(
    dirnet: Path, start: Start, pair: dict[str, str], tmp_path: Path
) -> None:
    start(dirnet, "inference", output_dir=str(tmp_path / "bundle"), report=False, **pair).run()
    register(**pair, method="dirnet", output=str(tmp_path / "command"), report=False)
    assert_same(tmp_path / "bundle", tmp_path / "command")
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("bundle", "command"))
    assert one["dice"] == other["dice"]
    assert one["method"] == other["method"] == "dirnet"
    assert one["ncc"] > one["ncc_before"]


def test_a_first_stage_makes_it_a_chain(dirnet: Path, start: Start, pair: dict[str, str], tmp_path: Path) -> None:
    settings = {"output_dir": str(tmp_path / "bundle"), "report": False, "first": "affine"}
    start(dirnet, "inference", **settings, **pair).run()
    register(**pair, method="affine,dirnet", output=str(tmp_path / "command"), report=False)
    assert_same(tmp_path / "bundle", tmp_path / "command")


def test_the_bundle_takes_lists(dirnet: Path, start: Start, pair: dict[str, str], tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(
        f"id,fixed,moving\nthere,{pair['fixed']},{pair['moving']}\nback,{pair['moving']},{pair['fixed']}\n"
    )
    start(dirnet, "inference", output_dir=str(tmp_path / "bundle"), report=False, pairs=str(table)).run()
    register(pairs=str(table), method="dirnet", output=str(tmp_path / "command"), report=False)
    for name in ("there", "back"):
        assert_same(tmp_path / "bundle" / name, tmp_path / "command" / name)


def test_properties(dirnet: Path, start: Start, pair: dict[str, str]) -> None:
    assert not start(dirnet, "inference", **pair).check_properties()


@pytest.mark.slow
def test_both_command_lines(dirnet: Path, pair: dict[str, str], tmp_path: Path) -> None:
    bundle = [f"--config_file={dirnet / 'configs/inference.json'}", f"--bundle_root={dirnet}"]
    files = [f"--{role}={path}" for role, path in pair.items()]
    commands = {
        "bundle": ["monai.bundle", "run", *bundle, *files, f"--output_dir={tmp_path / 'bundle'}"],
        "command": ["warpzoo", "register", "--method=dirnet", *files, f"--output={tmp_path / 'command'}"],
    }
    for module, *arguments in commands.values():
        subprocess.run([sys.executable, "-m", module, *arguments], check=True, cwd=tmp_path)
    assert_same(tmp_path / "bundle", tmp_path / "command")
    assert (tmp_path / "bundle/report.html").exists()
