"""The wheel works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

ROOT = Path(__file__).parents[2]
BUNDLES = ("voxelmorph_dense", "psf_blindspot")
"""Some, for time's sake."""


@pytest.mark.slow
def test_a_wheel_holds_the_bundles_and_registers_without_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="build is not installed: bash scripts/setup.sh test")
    source, left_out = tmp_path / "source", shutil.ignore_patterns("__pycache__", "runs", "*.egg-info")
    for name in ("common", *(f"bundles/{name}" for name in BUNDLES)):
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)]
    subprocess.run(command, check=True, capture_output=True)  # the wheel is made from the source distribution
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as zipped:
        zipped.extractall(tmp_path / "installed")
        held = {name.removeprefix("warpzoo/shipped/") for name in zipped.namelist() if "/shipped/" in name}
    tracked = subprocess.run(["git", "ls-files", *BUNDLES], cwd=ROOT / "bundles", capture_output=True, text=True)
    if tracked.returncode == 0:
        assert held == set(tracked.stdout.splitlines())

    blob = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(24, 28, 20)), 3).astype(np.float32)
    for name, image in (("fixed", blob), ("moving", np.roll(blob, 1, 0))):
        nibabel.save(nibabel.Nifti1Image(1000 * image, np.eye(4)), tmp_path / f"{name}.nii.gz")
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "PYTHONUTF8": "1"}
    for arguments in (["methods"], ["register", "fixed.nii.gz", "moving.nii.gz", "--method", BUNDLES[0]]):
        code = f"import sys; sys.argv[1:] = {arguments}; from warpzoo.__main__ import main; main(); import warpzoo; "
        command = [sys.executable, "-c", code + "print(warpzoo.__file__)"]
        ended = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        *said, where = ended.stdout.splitlines()
        assert Path(where).is_relative_to(tmp_path / "installed")
        assert said[0].startswith("voxelmorph_dense" if arguments == ["methods"] else "registered: ncc")
    assert (tmp_path / "registered" / "transform.h5").is_file()
