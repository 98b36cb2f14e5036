"""Pairs of images of which it is known how they are registered: by a deformation, or by label maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates

Volume = NDArray[np.float32]
CT = (115, 157, 129)
"""Voxels of a CT of the lung, about 2.5 mm each; the brains are cut to as many."""
SHIFT, SMOOTH = 4.0, 14.0
"""Mean displacement of a known deformation, and how smooth it is (standard deviation), in voxels."""
NOISE = 0.02
FAR = 1000.0
"""Added to coordinates, so that a 0 is seen to come from outside of the image."""


@dataclass(frozen=True)
class Case:
    """A pair of volumes, and what is known of it: label maps, and where each fixed voxel lies in the moving space."""

    kind: str
    name: str
    fixed: Volume
    moving: Volume
    fixed_affine: Volume
    moving_affine: Volume
    fixed_labels: Volume | None = None
    moving_labels: Volume | None = None
    truth: Volume | None = None

    def write(self, folder: Path) -> None:
        for side in ("fixed", "moving"):
            nib.save(nib.Nifti1Image(getattr(self, side), getattr(self, f"{side}_affine")), folder / f"{side}.nii.gz")
        voxels = np.stack(np.meshgrid(*map(np.arange, self.moving.shape), indexing="ij"), -1)
        world = voxels @ self.moving_affine[:3, :3].T + self.moving_affine[:3, 3]
        for axis in range(3):
            image = nib.Nifti1Image((world[..., axis] + FAR).astype(np.float32), self.moving_affine)
            nib.save(image, folder / f"coordinate{axis}.nii.gz")

    def measures(self, folder: Path) -> dict[str, float]:
        """Of what a tool has left in the folder: distance from the truth in mm, mean Dice, folds."""
        there = np.stack([volume(folder / f"warped_coordinate{axis}.nii.gz") for axis in range(3)], -1)
        inside = binary_erosion((there != 0).all(-1), iterations=2) & (self.fixed > 0.2 * np.percentile(self.fixed, 99))
        there = there - FAR
        numbers: dict[str, float] = {}
        if self.truth is not None:
            numbers["error_mm"] = float(np.linalg.norm(there - self.truth, axis=-1)[inside].mean())
        if self.fixed_labels is not None:
            warped = map_coordinates(self.moving_labels, self._voxels(there), order=0)
            shown = np.ones(warped.shape, bool)
            if self.truth is not None:
                ends = np.array(self.moving.shape).reshape(3, 1, 1, 1) - 1
                shown = ((self._voxels(self.truth) >= 0) & (self._voxels(self.truth) <= ends)).all(0)
            numbers["dice"] = dice(self.fixed_labels[shown], warped[shown])
        numbers["folds"] = folds(there, self.fixed_affine, self.moving_affine, inside)
        return numbers

    def _voxels(self, world: Volume) -> Volume:
        back = np.linalg.inv(self.moving_affine)
        return np.moveaxis(world @ back[:3, :3].T + back[:3, 3], -1, 0)


def volume(path: Path) -> Volume:
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


def dice(fixed: Volume, warped: Volume) -> float:
    """The mean over the labels of the fixed image."""
    one, other = fixed.astype(int), np.rint(warped).astype(int)
    count = max(one.max(), other.max()) + 1
    both = np.bincount(one[one == other], minlength=count)
    sizes = np.bincount(one.ravel(), minlength=count), np.bincount(other.ravel(), minlength=count)
    labels = np.flatnonzero(sizes[0])
    labels = labels[labels > 0]
    return float((2 * both[labels] / (sizes[0] + sizes[1])[labels]).mean())


def folds(there: Volume, fixed_affine: Volume, moving_affine: Volume, inside: NDArray[np.bool_]) -> float:
    """Share of the voxels at which the map from fixed to moving voxels turns inside out."""
    points = there @ np.linalg.inv(moving_affine)[:3, :3].T
    jacobian = np.stack(np.gradient(points, axis=(0, 1, 2)), -1)
    orientation = np.sign(np.linalg.det(fixed_affine[:3, :3]) * np.linalg.det(moving_affine[:3, :3]))
    return float((np.linalg.det(jacobian) * orientation <= 0)[inside].mean())


def cropped(path: Path, shape: tuple[int, ...] = CT) -> tuple[Volume, Volume]:
    """The middle of a volume and its matrix."""
    image = nib.load(path)
    low = [(size - side) // 2 for size, side in zip(image.shape, shape, strict=True)]
    part = image.slicer[tuple(slice(first, first + size) for first, size in zip(low, shape, strict=True))]
    return np.asarray(part.dataobj, dtype=np.float32), part.affine


def deformed(values: Volume, affine: Volume, labels: Volume | None, name: str, seed: int) -> Case:
    """An image as moving image, and as fixed image the same after a known smooth deformation and a small affine map,
    with another contrast, another bias field and noise."""
    random = np.random.default_rng(seed)
    shape, dims = values.shape, values.ndim
    smooth = np.stack([gaussian_filter(random.standard_normal(shape), SMOOTH, mode="wrap") for _ in range(dims)], -1)
    smooth *= SHIFT / np.linalg.norm(smooth, axis=-1).mean()
    linear = np.eye(dims) + random.uniform(-0.06, 0.06, (dims, dims))
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    middle = (np.array(shape) - 1) / 2
    there = (voxels + smooth - middle) @ linear.T + middle + random.uniform(-4, 4, dims)
    moving = values / np.percentile(values, 99.5)
    fixed = map_coordinates(moving, np.moveaxis(there, -1, 0), order=3, mode="nearest").clip(0, None)
    bias = gaussian_filter(random.standard_normal(shape), 2 * SMOOTH, mode="wrap")
    fixed = fixed ** random.uniform(0.7, 1.4) * np.exp(0.1 * bias / bias.std())
    noisy = [one + NOISE * random.standard_normal(shape) for one in (fixed, moving)]
    warped_labels = None
    if labels is not None:
        warped_labels = map_coordinates(labels, np.moveaxis(there, -1, 0), order=0, mode="nearest").astype(np.float32)
    truth = there @ affine[:-1, :-1].T + affine[:-1, -1]
    one, other = (image.astype(np.float32) for image in noisy)
    return Case("known deformation", name, one, other, affine, affine, warped_labels, labels, truth.astype(np.float32))


def cases(data: Path, seeds: list[int], hippocampi: int) -> Iterator[Case]:
    """Two brains under known deformations, and the hippocampus of different subjects (the validation half)."""
    brain = data / "brain"
    labels = cropped(brain / "mnia.nii.gz")[0]
    for seed in seeds:
        for name, warped_labels in (("mni", labels), ("ch2", None)):
            yield deformed(*cropped(brain / f"{name}.nii.gz"), warped_labels, f"{name} {seed}", seed)
    files = sorted((data / "hippocampus" / "images").glob("*.nii*"))[100 : 100 + hippocampi + 1]
    yield from (subjects(*pair) for pair in zip(files, files[1:], strict=False))


def subjects(*files: Path) -> Case:
    """Two hippocampi with their label maps, one of which is the fixed image."""
    both = [nib.load(path) for path in files]
    marks = [volume(path.parents[1] / "labels" / path.name) for path in files]
    images = [np.asarray(image.dataobj, dtype=np.float32) for image in both]
    one, other = files
    return Case("hippocampus", f"{one.name[:15]} {other.name[:15]}", *images, *(one.affine for one in both), *marks)


def inverted(case: Case) -> Case:
    """The same with a fixed image whose bright parts are dark; what was dark stays so."""
    noise = NOISE * np.random.default_rng(1).standard_normal(case.fixed.shape)
    fixed = (case.fixed.max() - case.fixed) * (case.fixed > 0.08) + noise
    return replace(case, kind="inverted", fixed=fixed.astype(np.float32))


def remapped(case: Case, seed: int) -> Case:
    """The same with intensities of the fixed image that follow a random curve, up and down, from a dark background."""
    random = np.random.default_rng(seed)
    levels = random.permutation(np.linspace(0, 1, 6))
    levels[0] = 0
    low, high = np.percentile(case.fixed, 1), np.percentile(case.fixed, 99.5)
    fixed = np.interp((case.fixed - low) / (high - low), np.linspace(0, 1, 6), levels)
    fixed += NOISE * random.standard_normal(fixed.shape)
    return replace(case, kind="remapped", fixed=fixed.astype(np.float32))


def thick(case: Case, slices: int) -> Case:
    """The same with a moving image of thick slices: each the mean of so many."""
    last = case.moving.shape[2] // slices * slices
    moving = case.moving[..., :last].reshape(*case.moving.shape[:2], -1, slices).mean(-1)
    affine = case.moving_affine.copy()
    affine[:3, 3] += 0.5 * (slices - 1) * affine[:3, 2]
    affine[:3, 2] *= slices
    labels = None if case.moving_labels is None else case.moving_labels[..., slices // 2 : last : slices]
    kind = f"{case.kind}, slices of {np.linalg.norm(affine[:3, 2]):.2g} mm"
    return replace(case, kind=kind, moving=moving, moving_affine=affine, moving_labels=labels)
