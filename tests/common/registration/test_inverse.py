"""The inverse of a registration, and what is written: SimpleITK gets the same from the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

import warpzoo
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform, Velocity
from warpzoo.images.image import Image
from warpzoo.registration.inverse import Inverse

from .conftest import Ended, oblique, save, smooth

Call = Callable[..., Ended]
INTERPOLATORS = {"linear": sitk.sitkLinear, "cubic": sitk.sitkBSpline, "nearest": sitk.sitkNearestNeighbor}
INVERSE = {"inverse_displacement.nii.gz", "inverse_warped.nii.gz"}


def pair_of(folder: Path, dims: int) -> tuple[Path, Path]:
    """A content, and the same, bent, on another grid; oblique ones in 3-D."""
    shape, other = ((44, 40), (48, 44)) if dims == 2 else ((30, 28, 20), (28, 32, 22))
    affine, second = np.diag([1.5, 1.2, 1, 1]), np.diag([1.4, 1.25, 1, 1])
    if dims == 3:
        affine = oblique([1.5, 1.2, 2.0], [-20.0, -17, -20], 12)
        second = oblique([1.6, 1.1, 1.9], [-21.0, -18, -19], 6)
    content = 1000 + np.pad(smooth(tuple(size - 12 for size in shape)), 6).astype(np.float32)
    fixed = save(folder / "fixed.nii.gz", content, affine)
    moving = save(folder / "moving.nii.gz", np.zeros(other, np.int16), second)
    image = sitk.ReadImage(str(fixed))
    bent = sitk.BSplineTransformInitializer(image, [3] * dims)
    bent.SetParameters(np.random.default_rng(1).normal(0, 1.5, len(bent.GetParameters())).tolist())
    like = sitk.ReadImage(str(moving))
    sitk.WriteImage(sitk.Cast(sitk.Resample(image, like, bent, sitk.sitkLinear, 1000.0), sitk.sitkInt16), str(moving))
    return fixed, moving


def resampled(image: Path, reference: Path, transform: Path, how: str, outside: float) -> np.ndarray:
    """As SimpleITK does it with the file of a transform."""
    values, like = sitk.ReadImage(str(image), sitk.sitkFloat64), sitk.ReadImage(str(reference))
    result = sitk.Resample(values, like, sitk.ReadTransform(str(transform)), INTERPOLATORS[how], outside)
    return sitk.GetArrayFromImage(result)


def values_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat64))


def share_within(found: np.ndarray, expected: np.ndarray, tolerance: float) -> float:
    return float((np.abs(found - expected) <= tolerance).mean())


@pytest.mark.parametrize("how", INTERPOLATORS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", ["rigid", "svf"])
def test_what_is_written_is_what_simpleitk_makes(
    warpzoo: Call, tmp_path: Path, method: str, dims: int, how: str
) -> None:
    fixed, moving = pair_of(tmp_path, dims)
    out = tmp_path / "out"
    options = f"--method={method}", "--noreport", f"--interpolation={how}", "--outside=-500", "--inverse"
    ended = warpzoo("register", fixed, moving, *options, "--output", out)
    assert ended.code == 0, ended.err
    end = "tfm" if method == "rigid" else "h5"
    written = {path.name for path in out.iterdir()}
    assert written == INVERSE | {"displacement.nii.gz", "metrics.json", "warped.nii.gz", f"transform.{end}"} | {
        f"inverse_transform.{end}"
    }
    # a point at a border of voxels or of the image falls to one side or the other, and values are rounded to int16
    forward = resampled(moving, fixed, out / f"transform.{end}", how, -500)
    assert share_within(values_of(out / "warped.nii.gz"), forward, 1.5) > 0.995
    back = resampled(fixed, moving, out / f"inverse_transform.{end}", how, -500)
    assert share_within(values_of(out / "inverse_warped.nii.gz"), back, 1e-2) > 0.995
    assert -500 in np.unique(values_of(out / "inverse_warped.nii.gz"))
    numbers = json.loads((out / "metrics.json").read_text())
    assert numbers["inverse_missing"] == 0
    assert numbers["inverse_error"] < (1e-6 if method == "rigid" else 0.05)

    there, again = (sitk.ReadTransform(str(out / f"{name}transform.{end}")) for name in ("", "inverse_"))
    image = sitk.ReadImage(str(fixed))
    inner = [np.arange(9, size - 9, 3) for size in image.GetSize()]
    missed = []
    for index in np.stack(np.meshgrid(*inner), -1).reshape(-1, dims):
        point = image.TransformIndexToPhysicalPoint(index.tolist())
        missed.append(np.linalg.norm(np.subtract(again.TransformPoint(there.TransformPoint(point)), point)))
    assert max(missed) < (1e-6 if method == "rigid" else 0.3)


def test_the_inverse_of_a_steep_velocity_is_exact() -> None:
    """Going back along the negative velocity misses where it is steep, as it is interpolated at every step."""
    grid, noise = Grid((40, 44)), np.random.default_rng(3).standard_normal((2, 10, 11))
    velocity = ndimage.gaussian_filter(noise, (0, 0.8, 0.8))
    lattice = Grid((10, 11), grid.affine @ np.diag([4.0, 4, 1]))
    forward = Composition(Velocity(torch.from_numpy(velocity)[None].float(), lattice), grid=grid)
    image = Image.in_memory(torch.rand(1, *grid.shape), grid)
    inverse = Inverse(forward, image, image)

    def missed(back: Transform) -> np.ndarray:
        places = np.indices(grid.shape) + back.field(grid)[0].numpy()
        there = forward.field(grid)[0].numpy()
        again = places + [ndimage.map_coordinates(axis, places, order=1, mode="nearest") for axis in there]
        return np.linalg.norm(again - np.indices(grid.shape), axis=0)[8:-8, 8:-8]

    assert missed(forward.inverse()).max() > 0.15
    assert missed(inverse.transform).max() < 0.03
    assert not inverse.missing.any()


def test_places_without_an_inverse_are_told() -> None:
    """A wave that folds along one axis: what several points go to, counted by numpy."""
    grid = Grid((96, 24))
    x = torch.arange(96.0)
    displacement = torch.zeros(1, 2, 96, 24)
    displacement[0, 0] = (40 * torch.sin(2 * torch.pi * x / 95) * torch.exp(-(((x - 47.5) / 16) ** 2)))[:, None]
    image = Image.in_memory(torch.rand(1, 96, 24), grid)
    inverse = Inverse(DisplacementField(displacement, grid), image, image)
    fine = np.linspace(0, 95, 20001)
    reached = fine + np.interp(fine, np.arange(96), displacement[0, 0, :, 0].numpy())
    crossings = [(np.diff(np.sign(reached - y - 1e-6)) != 0).sum() for y in range(96)]
    expected = np.array(crossings) > 1
    assert 4 < expected.sum() < 60
    found = inverse.missing[0].numpy() > 0
    assert (found == found[:, 12:13])[:, 3:-3].all()
    assert (found[:, 12] != expected).sum() <= 2, "but for the voxels at either end"
    assert inverse.metrics["inverse_missing"] == pytest.approx(expected.mean(), abs=0.03)
    assert "does not exist at" in str(inverse.findings[0])


def test_a_fold_is_written_and_said(warpzoo: Call, tmp_path: Path) -> None:
    image = save(tmp_path / "image.nii.gz", smooth((40, 36)).astype(np.float32))
    field = np.zeros((40, 36, 1, 1, 2), np.float32)
    field[..., 0] = -5 * np.sin(np.arange(40) / 39 * 2 * np.pi * 2)[:, None, None, None]
    folded = nibabel.Nifti1Image(field, np.eye(4))
    folded.header.set_intent("vector")
    nibabel.save(folded, tmp_path / "folded.nii.gz")
    options = "--method=rigid", "--initial", tmp_path / "folded.nii.gz", "--inverse", "--noreport"
    ended = warpzoo("register", image, image, *options, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "the inverse does not exist at" in ended.out
    numbers = json.loads((tmp_path / "out/metrics.json").read_text())
    missing = nibabel.load(tmp_path / "out/inverse_missing.nii.gz").get_fdata()
    assert numbers["inverse_missing"] == pytest.approx(missing.mean(), abs=1e-6)
    assert missing.mean() > 0.1
    assert any("does not exist" in one for one in numbers["warnings"])


@pytest.mark.parametrize(
    ("save_what", "names"),
    [
        ("transform", {"transform.tfm"}),
        ("warped,report", {"warped.nii.gz", "warped_labels.nii.gz", "report.html", "report.png"}),
        ("displacement, inverse", {"displacement.nii.gz", "inverse_transform.tfm", *INVERSE}),
    ],
)
def test_only_what_is_chosen_is_written(warpzoo: Call, tmp_path: Path, save_what: str, names: set[str]) -> None:
    image = save(tmp_path / "image.nii.gz", smooth((40, 36)).astype(np.float32))
    labels = save(tmp_path / "labels.nii.gz", (smooth((40, 36)) > 1500).astype(np.uint8))
    options = "--method=rigid", f"--save={save_what}", "--moving_labels", labels, "--output", tmp_path / "out"
    ended = warpzoo("register", image, image, *options)
    assert ended.code == 0, ended.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"metrics.json"}


def test_from_python(tmp_path: Path) -> None:
    content = np.pad(smooth((40, 36)), 8).astype(np.float32)
    moving = ndimage.shift(content, (3.4, -2.3), order=3)
    linear, cubic = (warpzoo.register(content, moving, "rigid", interpolation=how) for how in ("linear", "cubic"))
    place = np.stack(np.meshgrid(*map(np.arange, content.shape), indexing="ij")) + cubic.transform.displacement()
    for order, result in ((1, linear), (3, cubic)):
        expected = ndimage.map_coordinates(moving, place, order=order, mode="mirror")
        np.testing.assert_allclose(result.warped[6:-6, 6:-6], expected[6:-6, 6:-6], atol=0.5)
    np.testing.assert_array_equal(cubic.transform.apply(moving, interpolation="cubic"), cubic.warped)
    assert warpzoo.register(content, moving, "rigid", outside=-7).warped[0, 0] == -7
    assert isinstance(cubic.registration.inverse.transform, Affine)
    cubic.save(tmp_path / "out", report=False, inverse=True, only="transform")
    expected = {"metrics.json", "transform.tfm", "inverse_transform.tfm", *INVERSE}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    with pytest.raises(ValueError, match="interpolation must be one of linear, cubic, nearest, got 'lanczos'"):
        warpzoo.register(content, moving, "rigid", interpolation="lanczos")


@pytest.mark.parametrize("how", INTERPOLATORS)
def test_apply_interpolates_as_simpleitk(warpzoo: Call, tmp_path: Path, how: str) -> None:
    fixed, moving = pair_of(tmp_path, 3)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.1, 0.05, -0.2, (2, 1, 3))
    sitk.WriteTransform(turn, str(tmp_path / "turn.tfm"))
    out = tmp_path / "out.nii.gz"
    options = "--reference", fixed, "--output", out, f"--interpolation={how}", "--outside=-9"
    ended = warpzoo("apply", tmp_path / "turn.tfm", moving, *options)
    assert ended.code == 0, ended.err
    expected = resampled(moving, fixed, tmp_path / "turn.tfm", how, -9)
    assert share_within(values_of(out), expected, 1.0) > 0.999
