"""Images of every kind that programs hold: the same image in the world, and back as what went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from warpzoo.geometry.grid import Grid
from warpzoo.images.conversion import as_image
from warpzoo.images.image import Image

DIMS = (2, 3)


def volume(dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (x, y[, z]) and an oblique RAS affine, (4, 4)."""
    values = np.arange(np.prod((5, 4, 3)[:dims]), dtype=np.int16).reshape((5, 4, 3)[:dims])
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.5, 2.0, 3.0])
    affine[:3, 3] = [10, -20, 0 if dims == 2 else 30]
    return values, affine


def kinds(dims: int, folder: Path) -> dict[str, Any]:
    """The same image with a place in the world, as every library has it."""
    values, affine = volume(dims)
    nifti = nibabel.Nifti1Image(values, affine)
    nibabel.save(nifti, folder / "image.nii.gz")
    keep = np.ix_([*range(dims), 3], [*range(dims), 3])
    lps = np.diag([-1.0, -1.0, *[1.0] * (dims - 1)]) @ affine[keep]
    spacing = np.linalg.norm(lps[:-1, :-1], axis=0)
    simple = sitk.GetImageFromArray(values.T)
    simple.SetSpacing(spacing)
    simple.SetOrigin(lps[:-1, -1])
    simple.SetDirection((lps[:-1, :-1] / spacing).ravel())
    other = itk.image_from_array(np.ascontiguousarray(values.T))
    other.SetSpacing(spacing.tolist())
    other.SetOrigin(lps[:-1, -1].tolist())
    other.SetDirection(itk.matrix_from_array(lps[:-1, :-1] / spacing))
    meta = MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(affine if dims == 3 else affine[keep]))
    return {"nibabel": nifti, "SimpleITK": simple, "itk": other, "MetaTensor": meta, "path": folder / "image.nii.gz"}


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("kind", ["nibabel", "SimpleITK", "itk", "MetaTensor", "path"])
def test_they_lie_in_the_same_place(dims: int, kind: str, tmp_path: Path) -> None:
    values, affine = volume(dims)
    image, _ = as_image(kinds(dims, tmp_path)[kind])
    keep = np.ix_([*range(dims), 3], [*range(dims), 3])
    assert image.grid == Grid(values.shape, affine[keep])
    assert image.array.dtype == torch.float32
    np.testing.assert_array_equal(image.array[0], values)
    labels, _ = as_image(kinds(dims, tmp_path)[kind], labels=True)
    assert labels.array.dtype == torch.int64


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("kind", ["nibabel", "SimpleITK", "itk", "MetaTensor"])
def test_they_come_back_as_what_they_were(dims: int, kind: str, tmp_path: Path) -> None:
    source = kinds(dims, tmp_path)[kind]
    image, back = as_image(source)
    result = back(image)
    assert type(result) is type(source)
    again, _ = as_image(result)
    assert again.grid == image.grid
    assert again.header.dtype == np.int16
    np.testing.assert_array_equal(again.array, image.array)


@pytest.mark.parametrize("lead", [(), (1,)])
@pytest.mark.parametrize("dims", DIMS)
def test_arrays_and_tensors(dims: int, lead: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 255, lead + (6, 5, 4)[:dims]).astype(np.uint8)
    for source in (values, torch.from_numpy(values)):
        image, back = as_image(source, spacing=[0.5, 2.0, 3.0][:dims])
        assert image.grid.shape == (6, 5, 4)[:dims]
        np.testing.assert_allclose(image.grid.spacing, [0.5, 2.0, 3.0][:dims])
        assert not image.header.pixels
        result = back(image)
        assert type(result) is type(source)
        assert result.dtype == source.dtype
        np.testing.assert_array_equal(result, source)
        assert as_image(source)[0].header.pixels


def test_what_is_no_image() -> None:
    with pytest.raises(ValueError, match="fixed must be a path, a numpy array, .*, got dict"):
        as_image({}, name="fixed")
    with pytest.raises(ValueError, match=r"image must have 2 or 3 spatial axes, got shape \(4,\)"):
        as_image(np.zeros(4))
    with pytest.raises(ValueError, match="image must hold one real number per voxel, got complex128"):
        as_image(np.zeros((4, 4), complex))
    with pytest.raises(ValueError, match="spacing must be"):
        as_image(np.zeros((4, 4)), spacing=[1, 2, 3])
    with pytest.raises(ValueError, match="spacing must only be given with arrays"):
        as_image("image.nii.gz", spacing=1.0)
    image = Image.in_memory(torch.zeros(1, 4, 4), Grid((4, 4)))
    assert as_image(image)[0] is image
