"""Label maps and masks registered alone, without images: the truth is a known deformation by SimpleITK."""

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

import warpzoo as package
from warpzoo.registration.label_maps import as_channels

from .conftest import Ended, save, smooth

Call = Callable[..., Ended]


def label_pair(folder: Path, dims: int, labels: int) -> tuple[Path, Path]:
    """Patches with a label each, some touching, and the same bent and turned, by nearest-neighbour interpolation."""
    shape = (64, 56, 40)[:dims]
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    content = np.digitize(smooth(shape), np.quantile(smooth(shape), np.linspace(0, 1, labels + 1))[1:-1])
    values = np.where((places**2).sum(0) < 0.6, 10 * content + 10, 0).astype(np.uint16)
    fixed = save(folder / "fixed.nii.gz", values, np.diag([1.5, 1.2, 1, 1]) if dims == 2 else np.eye(4))
    image = sitk.ReadImage(str(fixed))
    bent = sitk.BSplineTransformInitializer(image, [3] * dims)
    bent.SetParameters(np.random.default_rng(1).normal(0, 3, len(bent.GetParameters())).tolist())
    moving = folder / "moving.nii.gz"
    sitk.WriteImage(sitk.Resample(image, image, bent, sitk.sitkNearestNeighbor, 0), str(moving))
    return fixed, moving


@pytest.mark.parametrize(("dims", "labels"), [(2, 1), (2, 3), (2, 20), (3, 3)])
def test_label_maps_alone(warpzoo: Call, tmp_path: Path, dims: int, labels: int) -> None:
    fixed, moving = label_pair(tmp_path, dims, labels)
    options = f"--fixed_labels={fixed}", f"--moving_labels={moving}", "--method=affine,svf"
    ended = warpzoo("register", *options, "--output", tmp_path / "out", "--inverse")
    assert ended.code == 0, ended.err
    assert "warning" not in ended.out
    numbers = json.loads((tmp_path / "out/metrics.json").read_text())
    assert numbers["dice_mean"] > (0.97 if labels == 1 else 0.85)
    assert numbers["dice_mean"] > 0.5 + 0.5 * numbers["dice_before_mean"]
    assert "ncc" not in numbers
    assert "Dice" in ended.out
    warped = nibabel.load(tmp_path / "out/warped.nii.gz")
    assert warped.get_data_dtype() == np.uint16
    assert set(np.unique(warped.dataobj)) <= set(np.unique(nibabel.load(moving).dataobj))
    assert not (tmp_path / "out/warped_labels.nii.gz").exists()
    assert (tmp_path / "out/report.html").exists()


def test_masks_alone_in_a_list_and_from_python(warpzoo: Call, tmp_path: Path) -> None:
    body = (ndimage.gaussian_filter(smooth((48, 44)), 3) > 1400) & (np.hypot(*np.ogrid[-24:24, -22:22]) < 17)
    save(tmp_path / "a.nii.gz", 255 * body.astype(np.uint8))
    save(tmp_path / "b.nii.gz", 255 * ndimage.shift(body.astype(np.uint8), (4, -3), order=0))
    (tmp_path / "pairs.csv").write_text("fixed_mask,moving_mask\na.nii.gz,b.nii.gz\n")
    ended = warpzoo("register", "--pairs", tmp_path / "pairs.csv", "--method=rigid", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    numbers = json.loads((tmp_path / "out/1/metrics.json").read_text())
    assert numbers["dice"]["1"] > 0.99 > numbers["dice_before"]["1"]
    assert numbers["warnings"] == []
    arrays = {
        f"{side}_mask": nibabel.load(tmp_path / f"{name}.nii.gz").get_fdata() > 0
        for side, name in (("fixed", "a"), ("moving", "b"))
    }
    result = package.register(method="rigid", **arrays)
    assert result.warped.dtype == bool
    assert (result.warped == arrays["fixed_mask"]).mean() > 0.995
    labels = package.register(
        method="rigid", fixed_labels=arrays["fixed_mask"] * 7, moving_labels=arrays["moving_mask"] * 7
    )
    assert set(np.unique(labels.warped)) == {0, 7}
    assert labels.metrics["dice"]["7"] > 0.99
    with pytest.raises(ValueError, match="fixed and moving must be given, or both label maps or masks"):
        package.register(fixed_labels=arrays["fixed_mask"])


def test_what_is_refused_and_what_is_said(warpzoo: Call, make_bundle: Call, tmp_path: Path) -> None:
    make_bundle("shift", [1.0, 0.0])
    fixed, moving = label_pair(tmp_path, 2, 3)
    options = f"--fixed_labels={fixed}", f"--moving_labels={moving}", "--output", tmp_path / "out", "--noreport"
    ended = warpzoo("register", *options, "--method=shift")
    assert "shift must be given images of one channel, got label maps" in ended.err
    assert not list((tmp_path / "out").glob("*"))
    said = warpzoo("register", fixed, moving, "--method=rigid", "--output", tmp_path / "out", "--noreport").out
    assert "warpzoo register takes label maps as fixed_labels and moving_labels, without fixed and moving" in said
    empty = save(tmp_path / "empty.nii.gz", np.zeros((64, 56), np.uint8), np.diag([1.5, 1.2, 1, 1]))
    ended = warpzoo("register", f"--fixed_labels={fixed}", f"--moving_labels={empty}", "--output", tmp_path / "none")
    assert "empty.nii.gz has the same value, 0, everywhere" in ended.err


@pytest.mark.parametrize("count", [1, 8, 9, 100])
def test_channels_tell_all_labels_apart(count: int) -> None:
    labels = torch.randint(0, count + 1, (1, 40, 40)) * 5
    other = labels.roll(3, 1)
    one, two = as_channels(labels, other)
    assert len(one) == (count if count <= 8 else len(bin(count)) - 2)
    torch.testing.assert_close(two, one.roll(3, 1))
    codes = {tuple(code): set() for code in one.flatten(1).T.tolist()}
    for code, label in zip(one.flatten(1).T.tolist(), labels.flatten().tolist(), strict=True):
        codes[tuple(code)].add(label)
    assert all(len(found) == 1 for found in codes.values())
    assert len(codes) == len(labels.unique())
    assert codes[(0.0,) * len(one)] == {0}
