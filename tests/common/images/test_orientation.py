"""Images in the order of RAS axes and at a chosen spacing: nibabel and SimpleITK say where everything belongs."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Image, read_image, write_image
from warpzoo.images.orientation import canonical, canonical_grid

VALUES = np.random.default_rng(0).normal(100, 20, (5, 6, 7)).astype(np.float32)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_axes_are_those_of_nibabels_closest_canonical_image(order: tuple[int, ...], tmp_path: Path) -> None:
    for signs in product((1, -1), repeat=3):
        affine = np.eye(4)
        turn = np.linalg.qr(np.eye(3)[:, list(order)] * signs + 0.1 * np.arange(9).reshape(3, 3) / 9)[0]
        affine[:3, :3], affine[:3, 3] = turn * [1.0, 2.0, 3.0], (7, -8, 9)
        image = nibabel.Nifti1Image(VALUES, affine)
        nibabel.save(image, tmp_path / "image.nii.gz")
        theirs = nibabel.as_closest_canonical(image)
        ours = canonical(read_image(tmp_path / "image.nii.gz"))
        assert np.array_equal(ours.array[0], theirs.get_fdata(dtype=np.float32))
        assert ours.grid == Grid(theirs.shape, theirs.affine) == canonical_grid(Grid(VALUES.shape, affine))


def test_resampling_is_sitks(tmp_path: Path) -> None:
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    source = Image.in_memory(torch.from_numpy(VALUES)[None], Grid(VALUES.shape, affine))
    ours = canonical(source, (1.5, 1.5, 2.0))
    assert ours.grid.spacing == pytest.approx((1.5, 1.5, 2.0))
    assert (np.diag(ours.grid.affine) > 0).all()
    moving, like = (
        sitk.ReadImage(str(write_image(tmp_path / name, image.array, Image.in_memory(image.array, image.grid).header)))
        for name, image in (("moving.mha", source), ("like.mha", ours))
    )
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, like, sitk.Transform(), sitk.sitkLinear, -1.0)).T
    inside = theirs != -1
    assert inside.mean() > 0.6
    np.testing.assert_allclose(ours.array[0][inside], theirs[inside], atol=1e-3)
    # what is equal within a hundredth stays, and labels stay whole numbers
    assert canonical(source, (1.005, 2, 3)).grid.shape == source.grid.shape
    labels = Image.in_memory(torch.from_numpy(VALUES > 100)[None].long() * 7, source.grid)
    assert set(canonical(labels, 1.3).array.unique().tolist()) == {0, 7}
    with pytest.raises(ValueError, match="spacing"):
        canonical(source, (1.0, 2.0))
