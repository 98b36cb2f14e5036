"""Images of several channels: read and written by SimpleITK, nibabel and Pillow, and registered by all channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from PIL import Image as Picture
from scipy import ndimage

import warpzoo as package
from warpzoo.images.image import read_image, write_image

from .conftest import Ended, save, smooth

Call = Callable[..., Ended]
SHIFT = (3.0, -2.0)


def two_channels() -> tuple[np.ndarray, np.ndarray]:
    """Stripes across either axis, a channel each: neither tells the whole shift. (2, 56, 52), float32."""
    along = [
        np.pad(smooth((44, 1), 1).repeat(40, 1), [(6, 6), (6, 6)], mode="edge"),
        np.pad(smooth((1, 40), 2).repeat(44, 0), [(6, 6), (6, 6)], mode="edge"),
    ]
    fixed = np.stack(along).astype(np.float32)
    return fixed, np.stack([ndimage.shift(part, SHIFT, order=1, mode="nearest") for part in fixed])


@pytest.mark.parametrize(
    ("method", "similarity"), [("rigid", None), ("rigid", "mi"), ("svf", None), ("svf", "mse"), ("ffd", "ncc")]
)
def test_each_channel_tells_its_part(method: str, similarity: str | None) -> None:
    fixed, moving = two_channels()
    result = package.register(fixed, moving, method, similarity=similarity, channels=True, spacing=1.0)
    assert result.warped.shape == fixed.shape
    found = result.transform.displacement()[:, 15:-15, 15:-15].mean((1, 2))
    np.testing.assert_allclose(found, SHIFT, atol=0.25)
    one = package.register(fixed[0], moving[0], method, similarity=similarity).transform.displacement()
    assert abs(one[1, 15:-15, 15:-15].mean() - SHIFT[1]) > 1, "the first channel alone does not tell"


@pytest.mark.parametrize("suffix", ["4-D.nii.gz", "5-D.nii.gz", "mha", "nrrd"])
def test_files_of_several_channels(warpzoo: Call, tmp_path: Path, suffix: str) -> None:
    for name, values in zip(("fixed", "moving"), two_channels(), strict=True):
        path = tmp_path / f"{name}.{suffix}"
        whole = np.moveaxis(values, 0, -1)
        if suffix.startswith("4"):
            nibabel.save(nibabel.Nifti1Image(whole[:, :, None], np.diag([-1.5, -1.2, 1, 1])), path)
        else:
            image = sitk.GetImageFromArray(np.ascontiguousarray(whole.transpose(1, 0, 2)), isVector=True)
            image.SetSpacing((1.5, 1.2))
            sitk.WriteImage(image, str(path))
        read = read_image(path, channels=True)
        np.testing.assert_array_equal(read.array, values)
    files = tmp_path / f"fixed.{suffix}", tmp_path / f"moving.{suffix}"
    ended = warpzoo(
        "register", *files, "--method=rigid", "--channels", "--also", files[1], "--output", tmp_path / "out"
    )
    assert ended.code == 0, ended.err
    written = sitk.ReadImage(str(tmp_path / "out/warped.nii.gz"))
    assert written.GetNumberOfComponentsPerPixel() == 2
    assert nibabel.load(tmp_path / "out/warped.nii.gz").header["intent_code"] == 1007
    transform = sitk.ReadTransform(str(tmp_path / "out/transform.tfm"))
    if written.GetDimension() == transform.GetDimension() == 2:
        moving = sitk.ReadImage(str(files[1]))
        reference = sitk.ReadImage(str(files[0]))
        expected = sitk.GetArrayFromImage(sitk.Resample(moving, reference, transform))
        found = sitk.GetArrayFromImage(written)
        assert (np.abs(found - expected)[8:-8, 8:-8] < 1).all()
    refused = warpzoo("register", *files, "--method=rigid", "--output", tmp_path / "none")
    assert "--channels" in refused.err
    assert not (tmp_path / "none").exists()


def test_colours(warpzoo: Call, tmp_path: Path) -> None:
    fixed = np.stack([smooth((48, 40), seed) / 12 for seed in range(3)], -1).astype(np.uint8)
    moved = np.stack([ndimage.shift(fixed[..., part], (2, 3), order=1) for part in range(3)], -1)
    for name, values in (("fixed", fixed), ("moving", moved)):
        Picture.fromarray(values).save(tmp_path / f"{name}.png")
    files = tmp_path / "fixed.png", tmp_path / "moving.png"
    ended = warpzoo("register", *files, "--method=rigid", "--output", tmp_path / "out", "--noreport")
    assert "is a colour image" in ended.err
    ended = warpzoo("register", *files, "--method=rigid", "--channels", "--output", tmp_path / "out", "--noreport")
    assert ended.code == 0, ended.err
    warped = np.asarray(nibabel.load(tmp_path / "out/warped.nii.gz").dataobj)[:, :, 0, 0].transpose(1, 0, 2)
    assert warped.shape == fixed.shape
    assert np.abs(warped[6:-6, 6:-6].astype(float) - fixed[6:-6, 6:-6]).mean() < 3
    grey = np.repeat(fixed[..., :1], 3, -1)
    Picture.fromarray(grey).save(tmp_path / "grey.png")
    assert len(read_image(tmp_path / "grey.png").array) == 1, "a picture whose colours are all grey is grey"
    mixed = warpzoo("register", tmp_path / "fixed.png", tmp_path / "out/warped.nii.gz", "--output", tmp_path / "x")
    assert mixed.code == 1


def test_images_of_libraries() -> None:
    """What comes back is of the kind that the moving image came as, on the fixed grid."""
    fixed, moving = two_channels()
    last = [np.ascontiguousarray(part.transpose(2, 1, 0)) for part in (fixed, moving)]
    kinds: dict[str, tuple[Any, Callable[[Any], np.ndarray]]] = {
        "torch": (torch.from_numpy(moving), lambda image: image.numpy()),
        "MONAI": (MetaTensor(torch.from_numpy(moving), affine=torch.eye(3)), lambda image: image.numpy()),
        "nibabel": (
            nibabel.Nifti1Image(np.moveaxis(moving, 0, -1)[:, :, None, None], np.eye(4)),
            lambda image: np.moveaxis(np.asarray(image.dataobj)[:, :, 0, 0], -1, 0),
        ),
        "SimpleITK": (
            sitk.GetImageFromArray(last[1], isVector=True),
            lambda i: sitk.GetArrayFromImage(i).transpose(2, 1, 0),
        ),
        "itk": (itk.image_from_array(last[1], is_vector=True), lambda i: itk.array_from_image(i).transpose(2, 1, 0)),
    }
    expected = package.register(fixed, moving, "rigid", channels=True, spacing=1.0).warped
    others: dict[str, Any] = {"SimpleITK": sitk.GetImageFromArray(last[0], isVector=True)}
    others["itk"] = others["SimpleITK"]
    for name, (image, values_of) in kinds.items():
        reference = others.get(name, fixed)
        spacing = {"spacing": 1.0} if name not in others else {}
        result = package.register(reference, image, "rigid", channels=True, **spacing)
        assert type(result.warped) is type(image), name
        np.testing.assert_allclose(values_of(result.warped), expected, atol=30, err_msg=name)
    with pytest.raises(ValueError, match="fixed has 2 channels and moving 1"):
        package.register(fixed, moving[:1], "rigid", channels=True)
    data = package.Registerd(["m", "o"], "f", "rigid", channels=True)({"f": fixed, "m": moving, "o": moving})
    np.testing.assert_array_equal(data["o"], data["m"])


def test_networks_take_one_channel(warpzoo: Call, make_bundle: Call, tmp_path: Path) -> None:
    make_bundle("shift", [1.0, 0.0])
    values = np.moveaxis(two_channels()[0], 0, -1)[:, :, None, None]
    image = save(tmp_path / "a.nii.gz", values)
    ended = warpzoo("register", image, image, "--channels", "--method=shift", "--output", tmp_path / "out")
    assert "shift must be given images of one channel, got 2 channels" in ended.err
    read = read_image(image, channels=True)
    with pytest.raises(ValueError, match="cannot hold 2 channels"):
        write_image(tmp_path / "b.mha", read.array, read.header)
