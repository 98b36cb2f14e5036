"""Makes a 16-bit TIFF of 20,000 × 20,000 pixels, or a volume, denoises it, and prints the peak memory.

python scripts/denoise_large.py                                    # a Gaussian filter: minutes
python scripts/denoise_large.py --volume                           # 64 × 256 × 256 voxels; the network learns 20 steps
python scripts/denoise_large.py --weights bundles/psf_blindspot/models/model.pt --rows 2048
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

COLUMNS = 20_000
VOLUME = (64, 256, 256)
BLOCK = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="of psf_blindspot; default: a Gaussian filter of 1 pixel")
    parser.add_argument("--rows", type=int, default=20_000, help="fewer take less time and the same memory")
    parser.add_argument("--volume", action="store_true", help="a volume, by a network that learns from it")
    parser.add_argument("--folder", type=Path, help="for some 2 GB (default: the temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        noisy, output = (Path(folder) / name for name in ("noisy.tif", "denoised.tif"))
        if options.volume:
            write_volume(noisy)
            chosen = ["--spatial_dims", "3", "--budget", "20steps"]
        else:
            write_noisy(noisy, options.rows)
            chosen = ["--weights", str(options.weights)] if options.weights else ["--method", "gaussian", "--size", "1"]
        began = time.perf_counter()
        command = [sys.executable, "-m", "warpzoo", "denoise", str(noisy), "--output", str(output), *chosen]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seconds = time.perf_counter() - began
        with tifffile.TiffFile(output) as file:
            shape, dtype = file.series[0].shape, file.series[0].dtype
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
        print(f"{' × '.join(map(str, shape))} {dtype}: peak memory {peak:.0f} MB, {seconds:.0f} s")


def write_volume(path: Path) -> None:
    """Photons of smooth light."""
    random = np.random.default_rng(0)
    light = ndimage.gaussian_filter(random.random(VOLUME), (2, 3, 3))
    photons = random.poisson(20 * (light - light.min()) / np.ptp(light))
    tifffile.imwrite(path, photons.astype(np.uint16), imagej=True, metadata={"axes": "ZYX"})


def write_noisy(path: Path, rows: int) -> None:
    """Blocks of photons, written one after the other."""
    random = np.random.default_rng(0)
    tifffile.imwrite(path, shape=(rows, COLUMNS), dtype=np.uint16, photometric="minisblack")
    image = tifffile.memmap(path)
    for start in range(0, rows, BLOCK):
        image[start : start + BLOCK] = random.integers(80, 120, (min(BLOCK, rows - start), COLUMNS), dtype=np.uint16)
    image.flush()


if __name__ == "__main__":
    main()
