"""A volume of the size of a large CT against another one of its size, from files to files by `warpzoo register`.

A body with two lungs, 512 × 512 × 300 voxels of 0.7 × 0.7 × 1 mm, with structure at three scales, and itself under a
smooth deformation, each with noise of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, zoom

from experiments.whole_pairs import run
from warpzoo import read_transform

SHAPE, SPACING = (512, 512, 300), (0.7, 0.7, 1.0)
SHIFT = 7.0
"""Voxels, the standard deviation of the deformation along each axis at its control points."""
KNOTS = (6, 6, 5)
NOISE = 15.0
"""Of the intensities, which are Hounsfield units."""
STRUCTURE = {5: 60.0, 12: 120.0, 28: 144.0}
"""Standard deviations of the intensities at scales of so many voxels."""
CHUNK = 32
STEP = 8
"""Every so many voxels along each axis the error is measured."""

Volume = NDArray[np.float32]


def measured(options: Sequence[str], threads: int, seed: int, shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    """Mean distance from the truth inside the body in mm, seconds by the clock and of the processor, memory in GB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        displacement, body = write_pair(folder, shape, seed)
        files = ["--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz", "--output", "out"]
        how = [*options, "--threads", str(threads)]
        begun = time.perf_counter()
        processor, memory = run([[sys.executable, "-m", "warpzoo", "register", *files, *how]], folder)
        seconds = time.perf_counter() - begun
        points = np.argwhere(body) * STEP * np.array(SPACING)
        found = read_transform(folder / "out" / "transform.h5").transform.world(torch.from_numpy(points))[0].numpy()
        apart = np.linalg.norm(found - points - displacement[:, body].T * SPACING, axis=1)
        before = np.linalg.norm(displacement[:, body].T * SPACING, axis=1)
    return {
        "before_mm": float(before.mean()),
        "error_mm": float(apart.mean()),
        "seconds": seconds,
        "processor_seconds": processor,
        "memory_gb": memory,
    }


def write_pair(folder: Path, shape: tuple[int, ...], seed: int) -> tuple[Volume, NDArray[np.bool_]]:
    """fixed.nii.gz and moving.nii.gz; the displacement in voxels and where the body is, at every `STEP` voxels."""
    random = np.random.default_rng(seed)
    moving, body = chest(shape, random)
    displacement = np.stack([smooth(shape, KNOTS, random) * SHIFT for _ in shape])
    fixed = np.empty_like(moving)
    for start in range(0, shape[0], CHUNK):
        there = displacement[:, start : start + CHUNK]
        indices = np.indices(there.shape[1:], dtype=np.float32)
        indices[0] += start
        fixed[start : start + CHUNK] = map_coordinates(moving, indices + there, order=1, mode="nearest")
    for name, image in (("fixed", fixed), ("moving", moving)):
        seen = (image + NOISE * random.standard_normal(shape, np.float32)).round().astype(np.int16)
        nib.save(nib.Nifti1Image(seen, np.diag([*SPACING, 1.0])), folder / f"{name}.nii.gz")
    every = (slice(None, None, STEP),) * len(shape)
    return displacement[(slice(None), *every)], body[every]


def chest(shape: tuple[int, ...], random: np.random.Generator) -> tuple[Volume, NDArray[np.bool_]]:
    """The image in Hounsfield units and where the body is."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape), indexing="ij", sparse=True)
    body = np.broadcast_to((x / 0.85) ** 2 + (y / 0.65) ** 2 < 1, shape)
    lungs = ((np.abs(x) - 0.4) / 0.3) ** 2 + (y / 0.45) ** 2 + (z / 0.9) ** 2 < 1
    structure = np.zeros(shape, np.float32)
    for voxels, deviation in STRUCTURE.items():
        structure += deviation * smooth(shape, [size // voxels + 2 for size in shape], random)
    image = np.where(body, 40 + structure, np.float32(-1000))
    return np.where(lungs, -800 + 0.01 * np.maximum(structure, 0) ** 2, image), body


def smooth(shape: Sequence[int], knots: Sequence[int], random: np.random.Generator) -> Volume:
    """Random numbers of standard deviation 1 at so many knots along each axis, interpolated by cubic splines."""
    values = random.standard_normal(knots, np.float32)
    field: Volume = zoom(values, [size / count for size, count in zip(shape, knots, strict=True)], order=3)
    return field
