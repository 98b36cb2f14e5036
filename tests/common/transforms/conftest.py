from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from warpzoo.images.image import Image, read_image

SHAPES = {2: ((30, 23), (26, 33)), 3: ((20, 17, 14), (18, 21, 16))}


def oblique_matrix(dims: int, seed: int) -> np.ndarray:
    """Voxel → RAS: oblique, anisotropic, possibly mirrored, with an origin far from zero."""
    generator = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.eye(dims) + 0.25 * generator.standard_normal((dims, dims)))
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = turn * generator.uniform(0.7, 2.0, dims)
    affine[:dims, dims] = generator.uniform(-80, 80, dims)
    return affine


def smooth_values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape)
    for axis in range(noise.ndim):
        for _ in range(6):
            noise = (np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)) / 4
    noise -= noise.min()
    return (1000 * noise / noise.max()).astype(np.float32)


def as_volume(affine: np.ndarray) -> np.ndarray:
    volume = np.eye(4)
    dims = len(affine) - 1
    volume[:dims, :dims], volume[:dims, 3] = affine[:dims, :dims], affine[:dims, dims]
    return volume


@pytest.fixture
def oblique() -> Callable[[int, int], np.ndarray]:
    return oblique_matrix


@pytest.fixture
def smooth_image() -> Callable[[tuple[int, ...], int], np.ndarray]:
    return smooth_values


@pytest.fixture
def make_pair() -> Callable[[Path, int], tuple[Image, Image]]:
    """`make_pair(folder, dims)`: two images on different oblique grids whose middles lie at about the same place."""

    def make(folder: Path, dims: int) -> tuple[Image, Image]:
        images = []
        for name, shape, seed in zip(("fixed", "moving"), SHAPES[dims], (1, 2), strict=True):
            affine = oblique_matrix(dims, seed)
            affine[:dims, dims] = 7.0 - affine[:dims, :dims] @ (0.5 * (np.array(shape) - 1))
            path = folder / f"{name}.nii.gz"
            nifti = nibabel.Nifti1Image(smooth_values(shape, seed), as_volume(affine))
            nifti.set_qform(as_volume(affine), 1)
            nibabel.save(nifti, path)
            images.append(read_image(path))
        return images[0], images[1]

    return make
