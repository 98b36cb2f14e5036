"""What every bundle's training promises: the same weights with workers and without, killed or not, in two processes."""

from __future__ import annotations

import json
import os
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
MADE = {
    "stn_affine": {"records#pattern": "[1-9]*.nii.gz", "side": 16, "validate#dataset#count": 2},
    "deep_affine": {"records#pattern": "[1-9]*.nii.gz", "side": 16, "validate#dataset#count": 2},
    "denoisereg": {"side": 48, "train#dataset#count": 16, "validate#dataset#count": 2},
}
"""Of bundles that train on pairs made for the purpose."""
DENSE = {
    "validation_subjects": ["4.nii.gz", "5.nii.gz"],
    "test_subjects": ["3.nii.gz"],
    "size": [16, 24, 16],
    "similarity#window": 3,
}


@pytest.fixture(params=[*SMALL, *MADE])
def root(request, bundle):
    return bundle(request.param)


@pytest.fixture
def every_options(hearts, volumes, noisy):
    """Of a small training of each bundle: three epochs of four steps, validated after each."""
    every = {}
    for name, small in {**SMALL, **MADE}.items():
        found = {"steps_per_epoch": LENGTH, "val_interval": 1, "batch_size": 2, **small}
        found["dataset_dir"] = str({"dirnet": hearts.parent, "psf_blindspot": noisy}.get(name, volumes))
        if name in ("fcn_multires", "voxelmorph_dense"):
            found |= DENSE
        if "records#pattern" in found:
            found["records#source"] = str(volumes / "images")
        every[name] = found if "budget" in found else {**found, "epochs": STEPS // LENGTH}
    return every


@pytest.fixture
def options(root, every_options):
    return every_options[root.name]


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
    parts = {**options, "output_dir": str(tmp_path / "parts")}
    for workers, step in ((2, 1), (2, 7), (0, STEPS)):  # before the first checkpoint, in an epoch, after the last step
        killed(start(root, "train", **parts, num_workers=workers), step)
        parts["resume"] = True
    start(root, "train", **parts, num_workers=2).run()
    assert_equal(tmp_path / "whole", tmp_path / "parts")


def run_in_processes(jobs, folder, processes=2):
    """Trainings one after the other in the same processes; ends well, or says why.

    torch's gloo now and then aborts a process that has ended its work: that is not ours to fail for.
    """
    for _ in range(2):
        done = subprocess.run(command(jobs, folder, processes), **ENVIRONMENT, text=True, timeout=900, check=False)
        if "terminate called without an active exception" not in done.stderr:
            break
        jobs = [{**job, "options": {**job["options"], "overwrite": not job["options"].get("resume")}} for job in jobs]
    assert done.returncode == 0, done.stderr[-3000:]


def command(jobs, folder, processes):
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*torchrun, str(Path(__file__).with_name("trainings_in_turn.py")), str(path)]


ENVIRONMENT = {
    "capture_output": True,
    "env": {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(Path(warpzoo.__file__).parents[1]),
    },
}


def job(root, options, folder, **how):
    return {"root": str(root), "options": {**options, "output_dir": str(folder)}, **how}


def kill_in_the_middle(jobs, folder, checkpoint):
    """Kills both processes once the first checkpoint is there."""
    process = subprocess.Popen(
        command(jobs, folder, 2),
        env=ENVIRONMENT["env"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_two_processes_killed_or_not(bundle, every_options, tmp_path):
    """Every bundle interrupted after a step of its own, and one truly killed."""
    jobs, dead = [], "voxelmorph_dense"
    for step, name in enumerate(SMALL, start=5):
        root, options = bundle(name), every_options[name]
        jobs += [job(root, options, tmp_path / name / "whole")]
        jobs += [job(root, options, tmp_path / name / "parts", killed=step)]
        jobs += [job(root, {**options, "resume": True}, tmp_path / name / "parts")]
    run_in_processes(jobs, tmp_path)
    again = job(bundle(dead), every_options[dead], tmp_path / dead / "dead")
    kill_in_the_middle([again], tmp_path, tmp_path / dead / "dead" / "last.pt")
    again["options"]["resume"] = True
    run_in_processes([again], tmp_path)
    for name in SMALL:
        for parts in ("parts", "dead")[: 1 + (name == dead)]:
            assert_equal(tmp_path / name / "whole", tmp_path / name / parts, 1e-6)
            assert json.loads((tmp_path / name / parts / "run.json").read_text())["machine"]["processes"] == 2
    metrics = json.loads((tmp_path / "dirnet" / "whole" / "metrics.json").read_text())
    assert len({pair["id"] for pair in metrics["each"]}) == metrics["pairs"] == 4


@pytest.mark.slow
def test_several_processes_go_as_one_with_as_large_a_batch(bundle, volumes, start, tmp_path):
    runs = {}
    for name in MADE:
        runs[name] = {"epochs": 2, "steps_per_epoch": 8, "batch_size": 6, "val_interval": 1, **MADE[name]}
        if "records#pattern" in runs[name]:
            runs[name]["records#source"] = str(volumes / "images")
    dense = {**SMALL["voxelmorph_dense"], **DENSE, "dataset_dir": str(volumes), "epochs": 4, "steps_per_epoch": 12}
    runs["voxelmorph_dense"] = {**dense, "batch_size": 6, "val_interval": 1}
    roots = {name: bundle(name) for name in runs}
    for name, options in runs.items():
        start(roots[name], "train", output_dir=str(tmp_path / name / "1"), **options).run()
    run_in_processes([job(roots[name], options, tmp_path / name / "2") for name, options in runs.items()], tmp_path)
    last = job(roots[name], options, tmp_path / name / "3")
    run_in_processes([last], tmp_path, 3)
    curves = {}
    for name in runs:
        one, two = (json.loads((tmp_path / name / count / "run.json").read_text()) for count in "12")
        assert two["machine"]["processes"] == 2
        assert [row["step"] for row in one["epochs"]] == [row["step"] for row in two["epochs"]]
        if name in MADE:
            for first, second in zip(one["epochs"], two["epochs"], strict=True):  # of the same weights, of other pairs
                assert second["loss"] == pytest.approx(first["loss"], rel=0.15), name
    for processes in (1, 2, 3):
        folder = tmp_path / "voxelmorph_dense" / str(processes)
        curves[processes] = json.loads((folder / "run.json").read_text())["epochs"]
        metrics = json.loads((folder / "metrics.json").read_text())
        assert [pair["id"] for pair in metrics["each"]] == ["5.nii.gz -> 4.nii.gz", "4.nii.gz -> 5.nii.gz"]
        assert metrics["summary"]["ncc"]["mean"] == pytest.approx(curves[processes][-1]["ncc"], abs=1e-6)
    first = curves[1]
    gained = first[0]["loss"] - first[-1]["loss"]
    assert gained > 0.04
    for processes in (2, 3):  # their random numbers differ, the number of steps and of pairs does not
        assert [row["step"] for row in curves[processes]] == [row["step"] for row in first]
        assert curves[processes][-1]["loss"] == pytest.approx(first[-1]["loss"], abs=0.25 * gained)
