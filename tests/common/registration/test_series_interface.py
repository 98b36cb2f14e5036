"""`warpzoo.register_series` on arrays, tensors, lists, nibabel's images and paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch

import warpzoo

from .test_series import POINTS, drifting, true_points

FRAMES = drifting()[:3]


@pytest.fixture(scope="module")
def of_array() -> Any:
    return warpzoo.register_series(FRAMES, to="first", method="rigid")


def test_arrays(of_array: Any, tmp_path: Path) -> None:
    assert of_array.warped.shape == FRAMES.shape
    assert of_array.warped.dtype == np.uint16
    assert np.array_equal(of_array.warped[0], FRAMES[0])
    assert np.corrcoef(of_array.warped[2, 10:38, 10:50].ravel(), FRAMES[0, 10:38, 10:50].ravel())[0, 1] > 0.98
    # points of the frame come to where the first frame has them; arrays are in (row, column)
    there = true_points(2, POINTS)[:, ::-1]
    assert np.abs(of_array.transforms[2].apply(points=there) - POINTS[:, ::-1]).max() < 0.15
    assert [row["frame"] for row in of_array.frames] == [0, 1, 2]
    assert of_array.frames[2]["ncc"] > 0.98 > of_array.frames[2]["ncc_before"]
    assert not of_array.flagged
    folder = of_array.save(tmp_path / "out", report=False)
    assert np.array_equal(nibabel.load(folder / "warped.nii.gz").dataobj[:, :, 0].transpose(2, 0, 1), of_array.warped)
    assert sorted(path.name for path in (folder / "transforms").iterdir())[-1] == "frame_0002.tfm"
    of_array.save(tmp_path / "page", only="report")
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == ["frames.csv", "metrics.json", "report.html"]


@pytest.mark.parametrize("kind", ["tensor", "last axis", "list", "nibabel", "path"])
def test_other_kinds_give_the_same(of_array: Any, kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"to": "first", "method": "rigid"}
    if kind == "tensor":
        warped = warpzoo.register_series(torch.from_numpy(FRAMES.astype(np.int32)), **options).warped
        assert warped.dtype == torch.int32
    elif kind == "last axis":
        warped = warpzoo.register_series(np.moveaxis(FRAMES, 0, -1), time_axis=2, **options).warped
        warped = np.moveaxis(warped, -1, 0)
    elif kind == "list":
        warped = np.stack(warpzoo.register_series([*FRAMES], **options).warped)
    elif kind == "nibabel":
        image = nibabel.Nifti1Image(FRAMES.transpose(1, 2, 0)[:, :, None], np.eye(4))
        image.header["pixdim"][4] = 3
        result = warpzoo.register_series(image, **options).warped
        assert result.header.get_zooms() == (1, 1, 1, 3)
        warped = np.asanyarray(result.dataobj)[:, :, 0].transpose(2, 0, 1)
    else:
        tifffile.imwrite(tmp_path / "a.tif", FRAMES, metadata={"axes": "TYX"}, photometric="minisblack")
        result = warpzoo.register_series(tmp_path / "a.tif", **options)
        warped = np.stack([one.array[0].T for one in result.warped])
    assert np.abs(np.asarray(warped, dtype=float) - of_array.warped)[:, 8:40, 8:50].max() < 12


def test_noise_does_not_draw_the_first_frame_off_the_mean() -> None:
    """Between its voxels interpolation smooths it, which would be more like a mean than what is on them."""
    result = warpzoo.register_series(drifting(noise=150)[:4], to="mean", method="rigid")
    at = result.transforms[0].apply(points=POINTS[:, ::-1])
    for frame in (1, 2, 3):
        there = result.transforms[frame].apply(points=true_points(frame, POINTS)[:, ::-1])
        assert np.linalg.norm(there - at, axis=1).mean() < 0.15


def test_a_fixed_image_and_masks() -> None:
    mask = np.zeros((48, 60))
    mask[8:40, 8:52] = 1
    result = warpzoo.register_series(FRAMES[1:], FRAMES[0], method="rigid", fixed_mask=mask, spacing=0.5)
    assert result.registration.to == "fixed"
    there = true_points(2, POINTS)[:, ::-1] * 0.5
    assert np.abs(result.transforms[1].apply(points=there) - 0.5 * POINTS[:, ::-1]).max() < 0.1
    assert result.frames[0]["ncc_inside"] > 0.98


@pytest.mark.parametrize(
    ("moving", "options", "message"),
    [
        (FRAMES[:1], {"to": "first"}, "moving must have two frames or more, got 1"),
        ([FRAMES[0], FRAMES[1][:-1]], {"to": "first"}, "frames must lie on one grid"),
        (FRAMES, {}, "fixed must be given, or to: first or mean"),
        (
            FRAMES,
            {"to": "end"},
            "to must be first, last, previous, mean or the number of a frame from 0 to 2, got 'end'",
        ),
        (FRAMES, {"to": "first", "time_axis": 5}, r"time_axis must be in \[0, 2\], got 5"),
        ([*FRAMES], {"to": "first", "time_axis": 0}, "time_axis must only be given with a file or an array"),
        (7, {"to": "first"}, "moving must be a path, an array or a list of images, got int"),
    ],
)
def test_messages(moving: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warpzoo.register_series(moving, method="rigid", **options)
