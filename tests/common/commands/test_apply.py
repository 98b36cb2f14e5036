"""`apply` and `compare` on files, beside what SimpleITK makes of the same files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image as Picture

import warpzoo
from warpzoo.commands.apply import apply, compare
from warpzoo.files import FileError

CENTRE = (4.0, -6.0, 5.0)


def save(path: Path, values: np.ndarray, spacing: tuple[float, ...], turn: float) -> str:
    """A volume around CENTRE (LPS), turned about z."""
    cosine, sine = np.cos(turn), np.sin(turn)
    image = sitk.GetImageFromArray(values.T)
    direction = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((CENTRE - direction @ (np.array(spacing) * (np.array(values.shape) - 1) / 2)).tolist())
    sitk.WriteImage(image, str(path))
    return str(path)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A fixed and a moving volume, labels, and transforms written by SimpleITK."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(4)
    smooth = generator.standard_normal((24, 22, 20))
    for axis in range(3):
        smooth = smooth + np.roll(smooth, 1, axis) + np.roll(smooth, -1, axis)
    moving = (8000 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.int16)
    # a cubic B-spline that moves the middle and an affine about a centre of its own
    spline = sitk.BSplineTransform(3, 3)
    spline.SetTransformDomainOrigin([-30.0, -40.0, -30.0])
    spline.SetTransformDomainPhysicalDimensions([70.0, 70.0, 70.0])
    spline.SetTransformDomainMeshSize([4, 4, 4])
    spline.SetParameters((1.2 * generator.standard_normal(len(spline.GetParameters()))).tolist())
    affine = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.05, -0.12, (1.5, -1.0, 2.0))
    for name, transform in (("spline.h5", spline), ("affine.tfm", affine)):
        sitk.WriteTransform(transform, str(tmp_path / name))
    return {
        "fixed": save(tmp_path / "fixed.nii.gz", np.zeros((21, 25, 18), np.uint8), (1.1, 0.9, 1.3), 0.3),
        "moving": save(tmp_path / "moving.nii.gz", moving, (1.0, 1.2, 0.8), -0.2),
        "labels": save(tmp_path / "labels.nii.gz", moving.astype(np.int64) // 1000 * 100000007, (1.0, 1.2, 0.8), -0.2),
        "spline": str(tmp_path / "spline.h5"),
        "affine": str(tmp_path / "affine.tfm"),
    }


def through_both(files: dict[str, str]) -> sitk.Transform:
    """Points go through the spline, then through the affine: ITK's composites are read from their end."""
    parts = [sitk.ReadTransform(files[name]) for name in ("affine", "spline")]
    return sitk.CompositeTransform(parts)


def test_images_go_through_several_transforms_in_one_interpolation(files: dict[str, str]) -> None:
    written = apply(f"{files['spline']},{files['affine']}", files["moving"], files["fixed"], outside=-7.0)
    assert written == "warped_moving.nii.gz"
    ours = sitk.ReadImage(written)
    fixed = sitk.ReadImage(files["fixed"])
    theirs = sitk.Resample(sitk.ReadImage(files["moving"]), fixed, through_both(files), sitk.sitkLinear, -7)
    assert ours.GetPixelID() == sitk.sitkInt16
    assert np.allclose(ours.GetDirection(), fixed.GetDirection(), atol=1e-6)
    assert np.allclose(ours.GetOrigin(), fixed.GetOrigin(), atol=1e-4)
    difference = np.abs(sitk.GetArrayFromImage(ours).astype(float) - sitk.GetArrayFromImage(theirs))
    outside = (sitk.GetArrayFromImage(ours) == -7) | (sitk.GetArrayFromImage(theirs) == -7)
    assert difference[~outside].max() <= 8
    assert 0.02 < outside.mean() < 0.5


@pytest.mark.slow
def test_the_order_of_transforms_is_that_of_ants(files: dict[str, str]) -> None:
    ants = pytest.importorskip("ants")
    sitk.WriteTransform(sitk.ReadTransform(files["affine"]), "affine.mat")
    sitk.WriteTransform(sitk.AffineTransform([1.1, 0.2, 0, 0, 0.9, 0, 0, 0.1, 1], [3, 0, -2], [9, 9, 9]), "second.mat")
    ours = nibabel.load(apply("affine.mat,second.mat", files["moving"], files["fixed"], outside=0.0)).get_fdata()
    fixed, moving = ants.image_read(files["fixed"]), ants.image_read(files["moving"])
    theirs = ants.apply_transforms(fixed, moving, ["affine.mat", "second.mat"]).numpy()
    assert np.abs(ours - theirs)[(ours != 0) & (theirs != 0)].max() <= 8


def test_what_was_registered_comes_again(files: dict[str, str], tmp_path: Path) -> None:
    image = nibabel.load(files["moving"])
    part = image.get_fdata().astype(np.int16)[:, :16] - 1000
    nibabel.save(nibabel.Nifti1Image(part, image.affine), tmp_path / "ct.nii.gz")
    moving, fixed = str(tmp_path / "ct.nii.gz"), files["moving"]
    warpzoo.register(fixed, moving, "rigid").save(tmp_path / "out")
    written = nibabel.load(apply(str(tmp_path / "out/transform.tfm"), moving, fixed))
    expected = nibabel.load(tmp_path / "out/warped.nii.gz").get_fdata()
    assert (expected == part.min()).mean() > 0.2  # what lies beyond the part is air there
    np.testing.assert_allclose(written.get_fdata(), expected, atol=1)


def test_labels_keep_their_integers(files: dict[str, str]) -> None:
    written = apply(files["affine"], files["labels"], files["fixed"], output="carried.nii.gz", labels=True)
    ours = sitk.GetArrayFromImage(sitk.ReadImage(written))
    fixed, labels = sitk.ReadImage(files["fixed"]), sitk.ReadImage(files["labels"])
    theirs = sitk.Resample(labels, fixed, sitk.ReadTransform(files["affine"]), sitk.sitkNearestNeighbor)
    assert ours.dtype == np.int64
    assert set(np.unique(ours)) <= set(np.unique(sitk.GetArrayFromImage(labels)))
    assert (ours != sitk.GetArrayFromImage(theirs)).mean() < 1e-3


def test_the_inverse_carries_the_other_way(files: dict[str, str], tmp_path: Path) -> None:
    chain = f"{files['spline']},{files['affine']}"
    lps = np.array([CENTRE, (7.0, -9.0, 2.0), (1.0, -3.0, 8.0)])
    (tmp_path / "fixed.csv").write_text("x,y,z\n" + "".join(f"{-x},{-y},{z}\n" for x, y, z in lps))
    expected = np.array([through_both(files).TransformPoint(point) for point in lps]) * [-1, -1, 1]
    moved = apply(chain, str(tmp_path / "fixed.csv"), output="moving.csv", inverse=True)
    assert np.allclose(np.loadtxt(moved, delimiter=",", skiprows=1), expected, atol=1e-4)
    back = apply(chain, moved, output="back.csv")
    assert np.allclose(np.loadtxt(back, delimiter=",", skiprows=1), lps * [-1, -1, 1], atol=1e-3)
    # an image: there and back is where it was, but for two interpolations
    apply(chain, files["moving"], files["fixed"], output="there.nii.gz", outside=-1)
    apply(chain, "there.nii.gz", files["moving"], output="back.nii.gz", inverse=True, outside=-1)
    start = sitk.GetArrayFromImage(sitk.ReadImage(files["moving"])).astype(float)
    end = sitk.GetArrayFromImage(sitk.ReadImage("back.nii.gz"))
    inner = (slice(7, -7),) * 3
    assert np.corrcoef(start[inner].ravel(), end[inner].ravel())[0, 1] > 0.9
    there = nibabel.load("there.nii.gz").shape
    assert there == (21, 25, 18)


def test_compare_measures_in_millimetres_where_the_mask_is(files: dict[str, str], tmp_path: Path) -> None:
    shift = sitk.TranslationTransform(3, (3.0, 0.0, -4.0))
    sitk.WriteTransform(shift, str(tmp_path / "shift.tfm"))
    sitk.WriteTransform(sitk.TranslationTransform(3), str(tmp_path / "none.tfm"))
    result = compare("shift.tfm", "none.tfm", files["fixed"])
    assert result == pytest.approx({"mean": 5, "median": 5, "95th percentile": 5, "maximum": 5, "voxels": 21 * 25 * 18})
    mask = np.zeros((24, 22, 20), np.uint8)
    mask[2, 3, 4] = mask[20, 11, 7] = 1
    where = save(tmp_path / "mask.nii.gz", mask, (1.0, 1.2, 0.8), -0.2)
    found = compare(files["affine"], "none.tfm", files["fixed"], mask=where)
    affine, image = sitk.ReadTransform(files["affine"]), sitk.ReadImage(where)
    points = [np.array(image.TransformIndexToPhysicalPoint(index)) for index in ((2, 3, 4), (20, 11, 7))]
    distances = [np.linalg.norm(affine.TransformPoint(point) - point) for point in points]
    assert found["mean"] == pytest.approx(np.mean(distances), abs=1e-4)
    assert found["maximum"] == pytest.approx(max(distances), abs=1e-4)
    with pytest.raises(FileError, match="empty"):
        compare("shift.tfm", "none.tfm", files["fixed"], mask=files["fixed"])


def test_pictures_are_carried_in_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    Picture.fromarray(picture).save("moving.png")
    sitk.WriteTransform(sitk.TranslationTransform(2, (4.0, -3.0)), "shift.tfm")
    (tmp_path / "points.csv").write_text("x,y\n12,7\n")
    carried = np.asarray(Picture.open(apply("shift.tfm", "moving.png", "moving.png", output="warped.png")))
    assert np.array_equal(carried[3:, :-4], picture[:-3, 4:])
    assert not carried[:3].any()
    written = apply("shift.tfm", "points.csv", "moving.png")
    assert Path(written).read_text() == "x,y\n8,10\n"


def test_a_slice_goes_through_a_transform_of_space(files: dict[str, str], tmp_path: Path) -> None:
    volume = nibabel.load(files["labels"])
    thin = volume.slicer[:, :, 9:10]
    nibabel.save(nibabel.Nifti1Image(thin.get_fdata(dtype=np.float32), thin.affine), tmp_path / "slice.nii.gz")
    whole = apply(files["affine"], files["moving"], files["labels"], output="whole.nii.gz")
    part = apply(files["affine"], files["moving"], str(tmp_path / "slice.nii.gz"), output="part.nii.gz")
    assert torch.equal(
        torch.from_numpy(nibabel.load(part).get_fdata()), torch.from_numpy(nibabel.load(whole).get_fdata()[:, :, 9:10])
    )


def test_what_does_not_fit_is_said(files: dict[str, str], tmp_path: Path) -> None:
    sitk.WriteTransform(sitk.TranslationTransform(2, (4.0, -3.0)), str(tmp_path / "flat.tfm"))
    with pytest.raises(FileError, match="must be 2-D as the transform is, got 3-D"):
        apply(str(tmp_path / "flat.tfm"), files["moving"], files["fixed"])
    with pytest.raises(FileError, match=r"affine.tfm 3-D, .*flat.tfm 2-D"):
        apply(f"{files['affine']},{tmp_path / 'flat.tfm'}", files["moving"], files["fixed"])
    with pytest.raises(ValueError, match="reference must be given for an image"):
        apply(files["affine"], files["moving"])
    with pytest.raises(FileError, match="the image itself"):
        apply(files["affine"], files["labels"], files["fixed"], output=files["labels"])
