"""Trains every bundle in one process and in two of torchrun, by the same configurations, and compares the curves.

python scripts/several_processes.py              (all bundles; or: several_processes.py dirnet fcn_multires)

Images are made here, seed 0, networks are small. `batch_size` counts the samples of all processes together: two take
half of it each. Both runs begin with the same weights; random numbers differ from process to process. The difference is
the largest between the losses of an epoch, over that of one process. Ends with an error if a run fails, or if a
difference is above MOST.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from warpzoo.data.phantom import beating_heart
from warpzoo.record import cpu_name

ROOT = Path(__file__).resolve().parents[1]
MOST = 0.1
PORT = 29517
SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
EPOCHS, STEPS = 3, 12
SHARED = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "batch_size": 6, "val_interval": 1}
DENSE = {"validation_subjects": "['4.nii.gz','5.nii.gz']", "test_subjects": "['3.nii.gz']", "size": "[16,24,16]"}
AFFINE = {
    "records#pattern": "[1-9]*.nii.gz",
    "side": 16,
    "batch_size": 16,
    "validate#dataset#count": 4,
    "learning_rate": 0.005,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "dirnet": {
        "validation_subjects": "['s1']",
        "test_subjects": "['s2']",
        "network_def#channels": 4,
        "similarity#window": 15,
        "augmentation#crop": "[48,48]",
        "augmentation#noise": 0.0,
        "learning_rate": 0.01,
    },
    "fcn_multires": {
        **DENSE,
        "similarity#window": 3,
        "network_def#channels": "[4,6,8]",
        "network_def#estimators": "[4,6,6]",
    },
    "voxelmorph_dense": {
        **DENSE,
        "similarity#window": 3,
        "network_def#channels": "[4,6,6,6]",
        "network_def#features": 4,
    },
    "stn_affine": AFFINE,
    "deep_affine": AFFINE,
    "psf_blindspot": {"network_def#channels": 4, "patch": 24, "budget": f"{EPOCHS * STEPS}steps"},
    "denoisereg": {"side": 48, "train#dataset#count": 64, "validate#dataset#count": 4},
}
"""Of small trainings."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", default=[*SETTINGS], choices=[*SETTINGS, []])
    parser.add_argument("--machines", action="store_true", help="the two processes meet as those of two machines do")
    options, far = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder))
        print(f"{cpu_name()}, one thread a process; {EPOCHS} epochs of {STEPS} steps")
        print("| bundle | one process: loss, first epoch | last | two: first | last | difference |", flush=True)
        print("|---|---|---|---|---|---|", flush=True)
        for name in options.bundles:
            one, two = (curve(name, Path(folder), processes, options.machines) for processes in (1, 2))
            apart = max(abs(a - b) / abs(a) for a, b in zip(one, two, strict=True))
            ends = " | ".join(f"{losses[end]:.4f}" for losses in (one, two) for end in (0, -1))
            print(f"| {name} | {ends} | {apart:.3f} |", flush=True)
            far += [name] if apart > MOST else []
    if far:
        sys.exit(f"the difference must be {MOST} or less; it is not of {', '.join(far)}.")


def curve(name: str, folder: Path, processes: int, machines: bool = False) -> list[float]:
    """The loss of each epoch, of one process or of several of torchrun, which is started once, or once a machine."""
    configs = [ROOT / "bundles" / name / "configs" / file for file in ("train.json", "multi_gpu_train.json")]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    meeting = [f"--nnodes={processes}", "--nproc_per_node=1", "--rdzv_id=1", "--rdzv_backend=c10d"]
    meeting += [f"--rdzv_endpoint=127.0.0.1:{PORT}"]
    alone = ["--standalone", f"--nproc_per_node={processes}"]
    program = [*torchrun, *(meeting if machines else alone)] if processes > 1 else [sys.executable]
    output = folder / f"{name}_{processes}"
    options = {**SHARED, **SETTINGS[name], "dataset_dir": folder, "output_dir": output}
    if "budget" in options:
        del options["epochs"]
        options["dataset_dir"] = folder / "noisy"
    command = [*program, "-m", "monai.bundle", "run", "--config_file", str([*map(str, configs[:processes])])]
    command += ["--bundle_root", str(ROOT / "bundles" / name)]
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    surroundings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "common")}
    for _ in range(2):
        begun = time.perf_counter()
        started = [
            subprocess.Popen(command, cwd=folder, env={**os.environ, **surroundings}, text=True, **SILENT)
            for _ in range(processes if machines else 1)
        ]
        said = "".join(one.communicate()[1] for one in started)
        if "terminate called without an active exception" not in said:
            break  # torch's gloo now and then aborts a process that has ended its work
        command += ["--overwrite", "True"]
    if any(one.returncode for one in started):
        sys.exit(said[-5000:])
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    if record["machine"].get("processes", 1) != processes:
        sys.exit(f"{name} must have trained in {processes} processes.")
    print(f"{name}, {processes}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    return [row["loss"] for row in record["epochs"]]


def make_images(folder: Path) -> None:
    """Volumes with two blobs, hearts of two phases, and a noisy picture."""
    random = np.random.default_rng(0)
    for name in ("brain", "images", "labels", "noisy"):
        (folder / name).mkdir()
    for number in range(6):
        grid = np.indices((15 + number % 3, 18, 16))
        image = random.normal(100, 3, grid.shape[1:])
        labels = np.zeros(image.shape, np.float32)
        for label, row in ((1, 6), (2, 11)):
            centre = np.array([7, row, 8]) + random.uniform(-1.5, 1.5, 3)
            distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))
            image += (100 + 40 * label) / (1 + np.exp(2 * (distance - 3)))
            labels[distance < 3] = label
        _save(image, folder / "images" / f"{number}.nii.gz")
        _save(labels, folder / "labels" / f"{number}.nii.gz")
        scan = 100 * gaussian_filter(random.standard_normal((28, 30, 26)), 3)
        scan = np.where(np.hypot(*(np.indices(scan.shape)[:2] - 14)) < 11, 100 + 8 * scan, 0)
        _save(scan, folder / "brain" / f"{number}.nii.gz")
    arrays: dict[str, list[np.ndarray]] = {"ed": [], "es": [], "ed_lv": [], "es_lv": []}
    for number in range(6):
        for name, phase in (("ed", 0.0), ("es", 1.0)):
            heart = beating_heart((64, 64), phase, seed=number)
            arrays[name].append(heart.image.numpy().astype(np.uint8))
            arrays[f"{name}_lv"].append(heart.labels.numpy() == 1)
    stacked = {name: np.stack(array) for name, array in arrays.items()}
    subjects = [f"s{number // 2}" for number in range(6)]
    np.savez(folder / "sunnybrook_ed_es_pairs.npz", subject=subjects, slice=[0, 1] * 3, **stacked)
    scene = 30 + 200 * np.abs(gaussian_filter(random.standard_normal((64, 64)), 2))
    tifffile.imwrite(folder / "noisy" / "noisy.tif", random.poisson(scene).astype(np.uint16))


def _save(values: np.ndarray, path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), path)


if __name__ == "__main__":
    main()
