"""How exact a large pair is registered, in which time and memory (Linux): volumes that are larger than what is worked
on whole, by each quality in a process of its own.

A random texture of three scales, the finest of a few voxels, under a smooth displacement of up to 8 voxels, with noise.

python scripts/large_pair.py                      # 320 × 320 × 320 voxels, usual and best
python scripts/large_pair.py 256 512 --qualities best
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

SCALES = 2.0, 6.0, 18.0
FURTHEST = 8.0
NOISE = 0.3
LATTICE = 16
"""Voxels between the points at which the displacement is drawn."""
EDGE = 16
"""Voxels at the image's edge, which have nothing to go to, that are not counted."""


def write_pair(folder: Path, side: int, seed: int = 0) -> np.ndarray:
    """fixed.nii and moving.nii; returns the displacement, (3, side, side, side)."""
    random = np.random.default_rng(seed)
    shape = (side,) * 3
    texture = np.zeros(shape, np.float32)
    for scale in SCALES:
        layer = gaussian_filter(random.standard_normal(shape, np.float32), scale)
        texture += layer / layer.std()
    known = np.empty((3, *shape), np.float32)
    coarse = -(-side // LATTICE) + 1
    places = np.indices(shape, np.float32)
    for axis in range(3):
        drawn = gaussian_filter(random.standard_normal((coarse,) * 3), 1.5)
        known[axis] = map_coordinates(FURTHEST / np.abs(drawn).max() * drawn, places / LATTICE, order=1)
        known[axis] = gaussian_filter(known[axis], LATTICE / 2)
    fixed = map_coordinates(texture, places + known, order=3, mode="nearest")
    for name, image in (("fixed", fixed), ("moving", texture)):
        noisy = 1000 + 100 * (image + NOISE * random.standard_normal(shape, np.float32))
        nib.save(nib.Nifti1Image(noisy.astype(np.int16), np.eye(4)), folder / f"{name}.nii")
    return known


def measured(folder: Path, options: list[str]) -> tuple[float, float]:
    """Gigabytes that the process held at most, and seconds."""
    line = [sys.executable, "-m", "warpzoo", "register", "fixed.nii", "moving.nii", "--output", "out"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*line, "--save", "displacement", *options], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    most = 0
    while process.poll() is None:
        said = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        most = max(most, int(said[1]) if said else 0)
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{' '.join([*line, *options])} ended with {process.returncode}")
    return most / 2**20, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sides", nargs="*", type=int, default=[320], help="voxels along each axis")
    parser.add_argument("--qualities", default="usual,best", help="joined by commas")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| voxels | quality | error, voxels | its 95th percentile | seconds | memory, GB |")
    print("|---:|---|---:|---:|---:|---:|")
    for side in given.sides:
        with TemporaryDirectory() as name:
            folder = Path(name)
            known = write_pair(folder, side, given.seed)
            inside = (slice(EDGE, -EDGE),) * 3
            for quality in given.qualities.split(","):
                memory, seconds = measured(folder, ["--quality", quality])
                field = np.asarray(nib.load(folder / "out" / "displacement.nii.gz").dataobj)[..., 0, :]
                found = np.moveaxis(field, -1, 0) * np.array([-1, -1, 1]).reshape(3, 1, 1, 1)  # the file is in LPS
                error = np.linalg.norm(found - known, axis=0)[inside]
                print(
                    f"| {side}³ | {quality} | {error.mean():.3f} | {np.percentile(error, 95):.3f} | {seconds:.0f} | "
                    f"{memory:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
