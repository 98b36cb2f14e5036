"""What every bundle's training promises: the same weights with workers and without, killed or not, in two processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Events

import warpzoo

STEPS, LENGTH = 12, 4
"""Steps in all, and of an epoch."""


class Killed(BaseException):
    pass


@pytest.fixture(scope="session")
def noisy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    tifffile.imwrite(folder / "noisy.tif", np.random.default_rng(0).poisson(30, (48, 48)).astype(np.uint16))
    return folder


SMALL = {
    "dirnet": {
        "validation_subjects": ["s1"],
        "test_subjects": ["s2"],
        "network_def#channels": 4,
        "similarity#window": 15,
        "augmentation#crop": [48, 48],
        "augmentation#shift": 3,
        "augmentation#noise": 0.1,
        "learning_rate": 0.005,
    },
    "fcn_multires": {"network_def#channels": [4, 6, 8], "network_def#estimators": [4, 6, 6]},
    "voxelmorph_dense": {"network_def#channels": [4, 6, 6, 6], "network_def#features": 4},
    "psf_blindspot": {"network_def#channels": 4, "patch": 24, "budget": f"{STEPS}steps"},
}
DENSE = {
    "validation_subjects": ["4.nii.gz", "5.nii.gz"],
    "test_subjects": ["3.nii.gz"],
    "size": [16, 24, 16],
    "similarity#window": 3,
}


@pytest.fixture(params=SMALL)
def root(request, bundle):
    return bundle(request.param)


@pytest.fixture
def options(root, hearts, volumes, noisy):
    """Of a small training of the bundle: three epochs of four steps, validated after each."""
    found = {"steps_per_epoch": LENGTH, "val_interval": 1, "batch_size": 2, **SMALL[root.name]}
    found["dataset_dir"] = str({"dirnet": hearts.parent, "psf_blindspot": noisy}.get(root.name, volumes))
    if root.name in ("fcn_multires", "voxelmorph_dense"):
        found |= DENSE
    return found if "budget" in found else {**found, "epochs": STEPS // LENGTH}


def states(folder, name):
    state = torch.load(folder / name, weights_only=True)
    return state.get("network", state)


def assert_equal(one, other, tolerance=0.0):
    for name in ("last.pt", "model.pt"):
        first, second = states(one, name), states(other, name)
        assert first.keys() == second.keys()
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=0, atol=tolerance, msg=f"{name}: {key}")
    rows = [json.loads((folder / "run.json").read_text())["epochs"] for folder in (one, other)]
    assert len(rows[0]) == len(rows[1]) == STEPS // LENGTH
    for first, second in zip(*rows, strict=True):
        assert first == (second if not tolerance else pytest.approx(second, abs=1e-4))


def killed(workflow, step):
    """A run that ends in the middle of things."""

    def kill(_):
        raise Killed

    trainer = workflow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=step), kill)
    with pytest.raises(Killed):
        workflow.run()


def test_one_process_with_workers_and_without_killed_or_not(root, options, start, tmp_path):
    start(root, "train", output_dir=str(tmp_path / "whole"), **options).run()
    for workers, step in ((2, None), (0, 1), (2, 7), (0, STEPS)):
        folder = tmp_path / f"{workers}_{step}"
        chosen = {**options, "output_dir": str(folder), "num_workers": workers}
        if step is not None:
            killed(start(root, "train", **chosen), step)
            chosen |= {"resume": True, "num_workers": 2 - workers}
        start(root, "train", **chosen).run()
        assert_equal(tmp_path / "whole", folder)


def command(root, options, processes):
    configs = [str(root / "configs" / name) for name in ("train.json", "multi_gpu_train.json")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words = [*torchrun, "-m", "monai.bundle", "run", "--config_file", str(configs), "--bundle_root", str(root)]
    return words + [part for name, value in options.items() for part in (f"--{name}", str(value))]


ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": str(Path(warpzoo.__file__).parents[1]),
}


def run_in_processes(root, options, folder, processes=2):
    """Ends well, or says why; torch's gloo now and then aborts a process that has ended its work: that is not ours to
    fail for."""
    for _ in range(2):
        done = subprocess.run(
            command(root, {**options, "output_dir": folder}, processes),
            cwd=folder.parent,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if "terminate called without an active exception" not in done.stderr:
            break
        options = {**options, "overwrite": True, "resume": False}
    return done


def kill_in_the_middle(root, options, folder):
    """Kills both processes once the first checkpoint is there."""
    process = subprocess.Popen(
        command(root, {**options, "output_dir": folder}, 2),
        cwd=folder.parent,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not (folder / "last.pt").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_two_processes_killed_or_not(root, options, tmp_path):
    done = run_in_processes(root, options, tmp_path / "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    kill_in_the_middle(root, options, tmp_path / "parts")
    done = run_in_processes(root, {**options, "resume": True}, tmp_path / "parts")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal(tmp_path / "whole", tmp_path / "parts", 1e-6)
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["machine"]["processes"] == 2


@pytest.mark.slow
def test_two_processes_go_as_one_and_three_validate_two_pairs(bundle, volumes, start, tmp_path):
    root = bundle("voxelmorph_dense")
    options = {**SMALL["voxelmorph_dense"], **DENSE, "dataset_dir": str(volumes), "epochs": 4, "steps_per_epoch": 25}
    options |= {"batch_size": 6, "val_interval": 1}
    start(root, "train", output_dir=str(tmp_path / "1"), **options).run()
    curves = {}
    for processes in (1, 2, 3):
        if processes > 1:
            done = run_in_processes(root, options, tmp_path / str(processes), processes)
            assert done.returncode == 0, done.stderr[-3000:]
        curves[processes] = json.loads((tmp_path / str(processes) / "run.json").read_text())["epochs"]
        metrics = json.loads((tmp_path / str(processes) / "metrics.json").read_text())
        assert [pair["id"] for pair in metrics["each"]] == ["5.nii.gz -> 4.nii.gz", "4.nii.gz -> 5.nii.gz"]
        assert metrics["summary"]["ncc"]["mean"] == pytest.approx(curves[processes][-1]["ncc"], abs=1e-6)
    first = curves[1]
    gained = first[0]["loss"] - first[-1]["loss"]
    assert gained > 0.04
    for processes in (2, 3):  # their random numbers differ, the number of steps and of pairs does not
        assert [row["step"] for row in curves[processes]] == [row["step"] for row in first]
        assert curves[processes][-1]["loss"] == pytest.approx(first[-1]["loss"], abs=0.25 * gained)
    done = run_in_processes(root, {**options, "batch_size": 5}, tmp_path / "odd", 2)
    assert done.returncode
    assert re.search(r"batch_size must be a multiple of the number of processes, 2, got 5", done.stderr)


MADE = {
    "stn_affine": {"records#subjects": ["0.nii.gz"], "side": 16, "validate#dataset#count": 2},
    "deep_affine": {"records#subjects": ["0.nii.gz"], "side": 16, "validate#dataset#count": 2},
    "denoisereg": {"side": 48, "train#dataset#count": 16, "validate#dataset#count": 2},
}
"""Of bundles that train on pairs made for the purpose."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_two_processes_have_the_curve_of_one_with_as_large_a_batch(name, bundle, volumes, start, tmp_path):
    root = bundle(name)
    options = {"epochs": 2, "steps_per_epoch": 8, "batch_size": 6, "val_interval": 1, **MADE[name]}
    if "records#subjects" in options:
        options["records#records#source"] = str(volumes / "images")
    start(root, "train", output_dir=str(tmp_path / "1"), **options).run()
    done = run_in_processes(root, options, tmp_path / "2")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / count / "run.json").read_text()) for count in "12")
    assert two["machine"]["processes"] == 2
    assert [row["step"] for row in one["epochs"]] == [row["step"] for row in two["epochs"]] == [8, 16]
    for first, second in zip(one["epochs"], two["epochs"], strict=True):  # of the same weights, of other random pairs
        assert second["loss"] == pytest.approx(first["loss"], rel=0.15)
