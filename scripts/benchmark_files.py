"""Time and memory of a pair of whole-brain volumes from files to files; `benchmark.py files` calls it.

A synthetic pair of 160 × 192 × 224 voxels on two oblique grids goes through `warpzoo register` in a separate process,
with a three-dimensional DIRNet of few channels and random weights: what is measured is everything around the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, resample

ROOT = Path(__file__).parents[1]
SHAPE = (160, 192, 224)
MEMORY_BAR, SECONDS_BAR = 3 * 2**30, 6.0
BUNDLE = "small_3d"
NETWORK = {"spatial_dims": 3, "channels": 4, "spacing": 16, "convolutions": 4, "view": "patch"}


def make_pair(folder: Path) -> tuple[Path, Path]:
    """One content seen on two grids, as float32 and as 16-bit integers, with noise that does not compress."""
    world = Grid((48, 48, 48), np.diag([6.0, 6.0, 6.0, 1.0]))
    content = torch.rand(1, 1, *world.shape, generator=torch.Generator().manual_seed(0))
    paths = []
    for name, turn, spacing, dtype in (("fixed", 0.1, 1.0, np.float32), ("moving", -0.15, 1.1, np.int16)):
        affine = np.eye(4)
        affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        affine[:3, :3] *= spacing
        affine[:3, 3] = world.centre - affine[:3, :3] @ (np.array(SHAPE) / 2)
        grid = Grid(SHAPE, affine)
        seen = resample(content, world, Affine(torch.eye(3, 4)[None], grid), grid)[0, 0]
        noisy = 1000 * seen + 10 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(len(paths)))
        paths.append(folder / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(noisy.numpy().astype(dtype), affine), paths[-1])
    return paths[0], paths[1]


def make_bundle(folder: Path) -> None:
    """dirnet's own bundle with another network in its configuration."""
    sys.path.insert(0, str(ROOT / "bundles" / "dirnet"))
    from dirnet.network import DIRNet

    bundle = folder / BUNDLE
    shutil.copytree(ROOT / "bundles" / "dirnet", bundle, ignore=shutil.ignore_patterns("models", "docs", "runs"))
    config, metadata = (
        json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("inference", "metadata")
    )
    config["network_def"] = {"_target_": "dirnet.network.DIRNet", **NETWORK}
    config["spatial_dims"] = 3
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = ["*"] * 3
    metadata["training_data"] = {}
    for name, content in (("inference", config), ("metadata", metadata)):
        (bundle / "configs" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    network = DIRNet(**NETWORK)
    torch.nn.init.normal_(network.regressor[-1].weight, std=0.1)
    (bundle / "models").mkdir()
    torch.save(network.state_dict(), bundle / "models" / "model.pt")


def measure(threads: int) -> dict:
    """Seconds of each stage, of the process and of its processors; its peak memory in bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fixed, moving = make_pair(folder)
        make_bundle(folder / "bundles")
        arguments = ["register", fixed, moving, "--method", BUNDLE, "--output", folder / "out", "--device", "cpu"]
        environment = {**os.environ, "WARPZOO_BUNDLES": str(folder / "bundles"), "OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen([sys.executable, "-m", "warpzoo", *map(str, arguments)], env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("warpzoo register failed; see above.")
        seconds = json.loads((folder / "out" / "metrics.json").read_text(encoding="utf-8"))["seconds"]
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "processor_seconds": usage.ru_utime + usage.ru_stime, "bytes": usage.ru_maxrss * unit}


def report(threads: int) -> tuple[dict, str]:
    """What `measure` found, and the same as a table."""
    found = measure(threads)
    around = sum(value for stage, value in found["seconds"].items() if stage != BUNDLE)
    lines = ["| stage | seconds |", "|---|---:|", *(f"| {stage} | {s:.2f} |" for stage, s in found["seconds"].items())]
    lines += [
        f"| all but resampling and network (bar {SECONDS_BAR:g}) | {around:.2f} |",
        "",
        f"{' × '.join(map(str, SHAPE))} voxels, {threads} threads. Peak memory {found['bytes'] / 2**30:.2f} GiB (bar "
        f"{MEMORY_BAR / 2**30:g}); processor time, imports and network too, {found['processor_seconds']:.1f} s.",
    ]
    return found | {"around": around}, "\n".join(lines) + "\n"
