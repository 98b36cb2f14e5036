"""Moving images with time: what the command writes, seen by SimpleITK; known motion, stops, frames that fail."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from scipy import ndimage

from warpzoo.geometry.transforms import Affine, Transform
from warpzoo.images.image import Image
from warpzoo.registration import frames as room
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.series import register_series
from warpzoo.registration.series_interface import as_series

from .conftest import oblique, save, smooth

Call = Callable[..., object]
MIDDLE = np.array([23.5, 29.5])
ANGLES = np.deg2rad([0, 3, 6, 8, 11, 12])
SHIFTS = np.array([[0, 0], [1.5, -0.7], [2.6, -1.9], [4.1, -2.2], [4.4, -3.1], [3.8, -4.4]])


def numbers_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "frames.csv", newline="") as file:
        return list(csv.DictReader(file))


def drifting(noise: float = 15.0) -> np.ndarray:
    """Six frames (rows, columns) of 48 × 60 that turn and drift: frame_k(x) = frame_0(R(x - c) + c + shift)."""
    content = ndimage.gaussian_filter(smooth((110, 120)), 1)
    rows = np.stack(np.meshgrid(np.arange(48), np.arange(60), indexing="ij"), -1).reshape(-1, 2)
    frames = []
    for angle, shift in zip(ANGLES, SHIFTS, strict=True):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        there = (rows - MIDDLE) @ turn.T + MIDDLE + shift + 30
        frames.append(ndimage.map_coordinates(content, there.T, order=3).reshape(48, 60))
    values = np.array(frames) + noise * np.random.default_rng(1).normal(size=(6, 48, 60))
    return values.clip(0, 4000).astype(np.uint16)


def true_points(frame: int, points: np.ndarray) -> np.ndarray:
    """Where points (columns, rows) of frame 0 lie in another one."""
    angle, shift = ANGLES[frame], SHIFTS[frame]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((points[:, ::-1] - shift - MIDDLE) @ turn + MIDDLE)[:, ::-1]


POINTS = np.array([[15.0, 12], [30, 24], [45, 36], [20, 35], [40, 10]])


def moved(path: Path, points: np.ndarray) -> np.ndarray:
    """Points through a transform file, by SimpleITK."""
    transform = sitk.ReadTransform(str(path))
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def resampled(values: np.ndarray, transform: Path, fixed: sitk.Image, like: sitk.Image | None = None) -> np.ndarray:
    """A frame through a transform file on the fixed grid, by SimpleITK; -1e6 where it has no value."""
    image = sitk.GetImageFromArray(values.astype(np.float64))
    if like is not None:
        image.CopyInformation(like)
    carried = sitk.Resample(image, fixed, sitk.ReadTransform(str(transform)), sitk.sitkLinear, -1e6)
    return sitk.GetArrayFromImage(carried)


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "cells.tif", drifting(), imagej=True, metadata={"axes": "TYX", "finterval": 2.0})
    return tmp_path / "cells.tif"


def test_known_motion_to_the_first_frame(warpzoo: Call, sequence: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = warpzoo("register", "--moving", sequence, "--to=first", "--method=rigid", "--output", out)
    assert ended.code == 0, ended.err
    assert "6 frames, 0 flagged, ncc" in ended.out
    assert {path.name for path in out.iterdir()} == {
        *("frames.csv", "metrics.json", "report.html", "transforms", "warped.tif")
    }
    frames, fixed = drifting(), sitk.GetImageFromArray(drifting()[0].astype(np.float64))
    with tifffile.TiffFile(out / "warped.tif") as file:
        warped = file.asarray()
        assert (warped.dtype, file.series[0].axes, file.imagej_metadata["finterval"]) == (np.uint16, "TYX", 2)
    rows = rows_of(out)
    for frame in range(6):
        transform = out / f"transforms/frame_{frame:04d}.tfm"
        error = np.linalg.norm(moved(transform, POINTS) - true_points(frame, POINTS), axis=1)
        assert error.max() < 0.15, frame
        expected = resampled(frames[frame], transform, fixed)
        inside = expected > -1e5
        assert inside.mean() > 0.7
        assert np.abs(warped[frame] - expected)[inside].max() < 0.51  # rounded to whole numbers
        row = {name: float(value) for name, value in rows[frame].items() if name not in ("ok", "note")}
        assert row["angle"] == pytest.approx(np.rad2deg(ANGLES[frame]), abs=0.3)
        shift = true_points(frame, np.array([[29.5, 23.5]]))[0] - [29.5, 23.5]
        assert (row["shift_x"], row["shift_y"]) == pytest.approx(shift, abs=0.1)
        assert row["seconds"] == 2 * frame
        assert row["ncc"] > 0.99
    numbers = numbers_of(out)
    assert (numbers["frames"], numbers["to"], numbers["flagged"], numbers["files"]["moving"]) == (
        *(6, "first", {}),
        "../cells.tif",
    )
    assert "cells.tif → its first frame" in (out / "report.html").read_text(encoding="utf-8")


def test_the_mean_is_what_all_frames_come_to(warpzoo: Call, sequence: Path, tmp_path: Path) -> None:
    """Also from one frame to another, and sharper than the mean of the frames as they are."""
    out = tmp_path / "out"
    ended = warpzoo("register", "--moving", sequence, "--to=mean", "--method=rigid", "--output", out)
    assert ended.code == 0, ended.err
    at = {frame: moved(out / f"transforms/frame_{frame:04d}.tfm", POINTS) for frame in range(6)}
    truth = {frame: true_points(frame, POINTS) for frame in range(6)}
    for frame in range(1, 6):
        turn, shift = fitted(at[0], at[frame]), fitted(truth[0], truth[frame])
        assert np.abs(POINTS @ turn[:2] + turn[2] - POINTS @ shift[:2] - shift[2]).max() < 0.15
    mean = np.asarray(nibabel.load(out / "mean.nii.gz").dataobj).T
    expected = tifffile.imread(out / "warped.tif").astype(float)[:, 15:33, 20:40].mean(0)
    assert np.corrcoef(mean[15:33, 20:40].ravel(), expected.ravel())[0, 1] > 0.998
    assert numbers_of(out)["to"] == "mean"


def fitted(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(np.column_stack([here, np.ones(len(here))]), there, rcond=None)[0]


def volumes(tmp_path: Path, count: int = 3) -> tuple[Path, Path, np.ndarray]:
    """A series of volumes on an oblique grid, and a fixed image on another."""
    grid, other = oblique([1.5, 1.2, 2.0], [-30, -25, -20], 12), oblique([1.6, 1.4, 1.8], [-28, -27, -21], -5)
    values = np.stack([smooth((26, 24, 20), seed) for seed in range(count)], -1).astype(np.int16)
    image = nibabel.Nifti1Image(values, grid)
    image.set_qform(grid, 1)
    image.header["pixdim"][4] = 2
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "bold.nii.gz")
    return (
        save(tmp_path / "fixed.nii.gz", smooth((28, 22, 24), 9).astype(np.float32), other),
        tmp_path / "bold.nii.gz",
        values,
    )


@pytest.mark.parametrize("to", [None, "first"])
def test_volumes_to_a_fixed_image_on_another_grid(
    warpzoo: Call, make_bundle: Call, tmp_path: Path, to: str | None
) -> None:
    """By a network with a known displacement; with `to` by two of them, and each frame is resampled once."""
    make_bundle("wavy", [1.4, -0.8, 0.6], wave=0.8)
    fixed, moving, values = volumes(tmp_path)
    out = tmp_path / "out"
    options = ["--to", to] if to else []
    ended = warpzoo(
        "register", fixed, moving, "--method=wavy", *options, "--output", out, "--save=warped,transform,displacement"
    )
    assert ended.code == 0, ended.err
    assert len([*(out / "transforms").iterdir()]) == len([*(out / "displacements").iterdir()]) == 3
    series, reference = sitk.ReadImage(str(moving)), sitk.ReadImage(str(fixed), sitk.sitkFloat64)
    written = sitk.ReadImage(str(out / "warped.nii.gz"))
    assert written.GetSpacing() == pytest.approx((*reference.GetSpacing(), 2))
    assert nibabel.load(out / "warped.nii.gz").get_data_dtype() == np.int16
    warped = sitk.GetArrayFromImage(written)
    for frame in range(3):
        transform = out / f"transforms/frame_{frame:04d}.h5"
        expected = resampled(values[..., frame].T, transform, reference, series[:, :, :, frame])
        inside = expected > -1e5
        assert inside.mean() > 0.3
        assert np.abs(warped[frame] - expected)[inside].max() < 1
        field = sitk.ReadImage(str(out / f"displacements/frame_{frame:04d}.nii.gz"), sitk.sitkVectorFloat64)
        point = reference.TransformIndexToPhysicalPoint((12, 9, 11))
        there = sitk.ReadTransform(str(transform)).TransformPoint(point)
        assert np.allclose(np.add(point, field[12, 9, 11]), there, atol=1e-3)
    if to == "first":  # from the fixed image to the first frame, and from there to the other
        own = tmp_path / "own"
        assert (
            warpzoo("register", "--moving", moving, "--to=first", "--method=wavy", "--output", own, "--noreport").code
            == 0
        )
        there, further = (
            sitk.ReadTransform(str(folder / f"transforms/frame_{frame:04d}.h5"))
            for folder, frame in ((out, 0), (own, 2))
        )
        expected = further.TransformPoint(there.TransformPoint(point))
        assert np.allclose(
            sitk.ReadTransform(str(out / "transforms/frame_0002.h5")).TransformPoint(point), expected, atol=0.02
        )


def test_a_cine_of_one_slice(warpzoo: Call, make_bundle: Call, tmp_path: Path) -> None:
    make_bundle("wavy", [1.4, -0.8], wave=0.8)
    grid = oblique([1.5, 1.2, 8.0], [-30, -25, -20], 12)
    values = np.stack([smooth((40, 36, 1), seed) for seed in range(3)], -1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, grid), tmp_path / "cine.nii")
    out = tmp_path / "out"
    ended = warpzoo(
        "register", "--moving", tmp_path / "cine.nii", "--to=first", "--method=wavy", "--output", out, "--noreport"
    )
    assert ended.code == 0, ended.err
    warped = nibabel.load(out / "warped.nii.gz")
    assert warped.shape == values.shape
    np.testing.assert_allclose(warped.affine, grid, atol=1e-5)
    series = sitk.ReadImage(str(tmp_path / "cine.nii"))
    for frame in (1, 2):
        expected = resampled(
            values[..., frame].T, out / f"transforms/frame_{frame:04d}.h5", series[:, :, :, 0], series[:, :, :, 0]
        )
        mine = np.asarray(warped.dataobj)[..., frame].T
        inside = expected > -1e5
        assert inside.mean() > 0.7
        assert np.abs(mine - expected)[inside].max() < 1
    assert np.array_equal(np.asarray(warped.dataobj)[..., 0], values[..., 0])  # the first frame is itself


def test_frames_that_fail_are_flagged_and_lie_between_their_neighbours(warpzoo: Call, tmp_path: Path) -> None:
    frames = drifting().astype(np.float32)
    frames[2] = 7
    frames[4, 10, 10] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", frames, metadata={"axes": "TYX"}, photometric="minisblack")
    out = tmp_path / "out"
    ended = warpzoo("register", "--moving", tmp_path / "a.tif", "--to=first", "--method=rigid", "--output", out)
    assert ended.code == 0, ended.err
    assert "6 frames, 2 flagged" in ended.out
    resampled = "not registered, and resampled with a transform between those of frames"
    assert f"warning: frame 2: {resampled} 1 and 3: " in ended.out
    assert "has the same value, 7, everywhere" in ended.out
    assert f"frame 4: {resampled} 3 and 5: " in ended.out
    for failed in (2, 4):  # rotations in steps that are not all alike: half-way, and a rotation itself
        at = [moved(out / f"transforms/frame_{frame:04d}.tfm", POINTS) for frame in (failed - 1, failed, failed + 1)]
        assert np.abs(at[1] - (at[0] + at[2]) / 2).max() < 0.05
        assert np.abs(at[1] - true_points(failed, POINTS)).max() < 0.8
        lengths = [np.linalg.norm(np.diff(points, axis=0), axis=1) for points in (at[1], POINTS)]
        assert np.allclose(*lengths, atol=1e-6)
    rows = rows_of(out)
    assert [row["ok"] for row in rows] == ["True", "True", "False", "True", "False", "True"]
    assert rows[2]["ncc"] == ""
    assert rows[2]["note"].startswith("not registered")
    assert [*numbers_of(out)["flagged"]] == ["2", "4"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('class="mark"') == 8  # two in each of four charts
    refused = warpzoo(
        "register", "--moving", tmp_path / "a.tif", "--to=first", "--method=rigid", "--output", out, "--strict"
    )
    assert refused.code == 1
    assert "frame 2: " in refused.err


def test_a_frame_that_jumps_is_found_and_one_of_something_else_is_flagged(warpzoo: Call, tmp_path: Path) -> None:
    content = 20 * ndimage.gaussian_filter(smooth((160, 160)), 5)
    content = content - content.min()
    places = [(40, 40), (41, 39), (42, 41), (64, 20), (43, 40), (44, 41), (45, 42), (45, 43)]
    frames = np.array([content[y : y + 64, x : x + 64] for y, x in places])
    frames[6] = frames[0][::-1, ::-1].T
    tifffile.imwrite(tmp_path / "a.tif", frames.astype(np.uint16), metadata={"axes": "TYX"}, photometric="minisblack")
    out = tmp_path / "out"
    ended = warpzoo(
        "register", "--moving", tmp_path / "a.tif", "--to=first", "--method=rigid", "--output", out, "--noreport"
    )
    assert ended.code == 0, ended.err
    for frame in (3, 4, 7):
        at = moved(out / f"transforms/frame_{frame:04d}.tfm", np.array([[40.0, 40]]))[0]
        assert at == pytest.approx((40 - (places[frame][1] - 40), 40 - (places[frame][0] - 40)), abs=0.2)
    assert [*numbers_of(out)["flagged"]] == ["6"]
    assert "much less like the reference than the other frames" in numbers_of(out)["flagged"]["6"]


class Lazy:
    """Finds the true shift only where it is given no start, and goes no further than that otherwise."""

    name, expectations = "lazy", {}

    def __init__(self, shifts: list[float]) -> None:
        self.shifts, self.starts = iter(shifts), []

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance) -> Transform:
        self.starts.append(None if start is None else float(start.world_matrix()[0, 0, -1]))
        if start is not None:
            return start
        return Affine.from_world(torch.tensor([[[1.0, 0, next(self.shifts)], [0, 1, 0]]]).double(), fixed.grid)


def test_a_frame_starts_from_the_one_before_unless_that_leads_nowhere() -> None:
    content = ndimage.gaussian_filter(smooth((90, 40)), 2)
    frames = [content[20 - shift : 70 - shift].copy() for shift in (0, 5, 5, 9, 9)]
    method = Lazy([5, 9])
    series, _ = as_series(frames, None, False, None)
    done = register_series(series, [method], to="first")
    assert [one if one is None else round(one, 6) for one in method.starts] == [None, 5, 5, None, 9]
    assert [round(float(done.found(frame).matrix[0, 2]), 6) for frame in range(5)] == [0, 5, 5, 9, 9]


@pytest.mark.parametrize("to", ["first", "mean"])
def test_a_stopped_run_goes_on(
    warpzoo: Call, make_bundle: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    make_bundle("wavy", [1.4, -0.8, 0.6], wave=0.8)
    _, moving, _ = volumes(tmp_path, 4)
    command = ["register", "--moving", moving, "--to", to, "--method=wavy", "--noreport", "--output"]
    register, calls = room.register_pair, []

    def counted(*arguments: object, **options: object) -> object:
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(1)
        return register(*arguments, **options)

    monkeypatch.setattr(room, "register_pair", counted)
    stop = -1
    assert warpzoo(*command, tmp_path / "whole").code == 0
    whole = len(calls)
    assert whole == {"first": 3, "mean": 3 + 4 + 4}[to]
    stop = whole - 1
    calls.clear()
    ended = warpzoo(*command, tmp_path / "out")
    assert ended.code == 130
    assert "the same command goes on" in ended.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished"]
    stop = -1
    calls.clear()
    assert warpzoo(*command, tmp_path / "out").code == 0
    assert len(calls) == 1
    assert not (tmp_path / "out/unfinished").exists()
    for path in ("warped.nii.gz", "transforms/frame_0003.h5", "frames.csv"):
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()


def test_other_settings_or_files_begin_anew(
    warpzoo: Call, make_bundle: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle("wavy", [1.4, -0.8, 0.6])
    make_bundle("other", [0.4, -0.8, 0.6])
    _, moving, _ = volumes(tmp_path, 4)
    command = ["register", "--moving", moving, "--to=first", "--noreport", "--output", tmp_path / "out"]
    register, calls = room.register_pair, []

    def counted(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return register(*arguments, **options)

    monkeypatch.setattr(room, "register_pair", counted)
    for again in (["--method=other"], ["--method=wavy", "--overwrite"], ["--method=wavy", "--seed=1"]):
        calls.clear()
        assert warpzoo(*command, "--method=wavy").code == 130
        calls[:] = [1] * 10
        assert warpzoo(*command, *again).code == 0
        assert len(calls) == 13
        shutil.rmtree(tmp_path / "out")


def test_what_belongs_to_a_series(warpzoo: Call, make_bundle: Call, tmp_path: Path) -> None:
    """A fixed mask and fixed labels hold for all frames; labels, other series and landmarks are warped by frame."""
    make_bundle("wavy", [2, -1], wave=0.0)
    frames = np.stack([smooth((40, 36), seed) for seed in range(3)])
    labels = np.zeros((3, 40, 36), np.uint8)
    labels[:, 12:22, 10:20] = 4
    for name, values in (("a", frames.astype(np.uint16)), ("labels", labels), ("red", frames.astype(np.float32))):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, metadata={"axes": "TYX"}, photometric="minisblack")
    mask = np.zeros((40, 36), np.uint8)
    mask[5:30, 5:30] = 1
    for name, values in (
        ("fixed", frames[0].astype(np.uint16)),
        ("mask", mask),
        ("truth", np.roll(labels[0], (1, -2), (0, 1))),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", values)
    (tmp_path / "points.csv").write_text("frame,x,y,name\n0,12,14,a\n2,20,21,b\n2,13,11,c\n")
    given = {"fixed_mask": "mask.tif", "fixed_labels": "truth.tif", "moving_labels": "labels.tif", "also": "red.tif"}
    given |= {"moving_points": "points.csv", "moving_mask": "mask.tif"}
    options = [f"--{name}={tmp_path / file}" for name, file in given.items()]
    out = tmp_path / "out"
    ended = warpzoo("register", tmp_path / "fixed.tif", tmp_path / "a.tif", "--method=wavy", *options, "--output", out)
    assert ended.code == 0, ended.err
    assert {"warped.tif", "warped_labels.tif", "warped_red.tif", "warped_points.csv"} <= {
        path.name for path in out.iterdir()
    }
    rows = rows_of(out)
    assert all(float(row["dice_mean"]) == 1 and float(row["dice_before_mean"]) < 0.9 for row in rows)
    assert all(row["ncc_inside"] for row in rows)
    warped = tifffile.imread(out / "warped_labels.tif")
    assert warped.dtype == np.uint8
    assert np.array_equal(warped, np.roll(labels, (1, -2), (1, 2)))
    # the moving content two columns to the right and one row up comes to the fixed image
    assert np.allclose(
        tifffile.imread(out / "warped_red.tif")[:, 2:-2, 2:-4],
        np.roll(frames, (1, -2), (1, 2))[:, 2:-2, 2:-4],
        atol=0.01,
    )
    points = (out / "warped_points.csv").read_text().splitlines()
    assert points == ["frame,name,x,y", "0,a,10,15", "2,b,18,22", "2,c,11,12"]


def test_transforms_of_frames_are_applied_again(warpzoo: Call, sequence: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        warpzoo("register", "--moving", sequence, "--to=first", "--method=rigid", "--output", out, "--noreport").code
        == 0
    )
    again = tmp_path / "again.tif"
    least = drifting().min()
    ended = warpzoo(
        "apply", out / "transforms", sequence, "--reference", sequence, "--output", again, f"--outside={least}"
    )
    assert ended.code == 0, ended.err
    inside = tifffile.imread(out / "warped.tif") != least
    differences = np.abs(tifffile.imread(again).astype(int) - tifffile.imread(out / "warped.tif"))
    assert differences[:, 12:36, 15:45].max() <= 1
    assert inside.mean() > 0.7
    (tmp_path / "points.csv").write_text(
        "frame,x,y\n" + "".join(f"3,{x},{y}\n" for x, y in true_points(3, POINTS).tolist())
    )
    ended = warpzoo(
        "apply", out / "transforms", tmp_path / "points.csv", "--reference", sequence, "--output", tmp_path / "back.csv"
    )
    assert ended.code == 0, ended.err
    back = np.loadtxt(tmp_path / "back.csv", delimiter=",", skiprows=1)
    assert np.abs(back[:, 1:] - POINTS).max() < 0.15
    ended = warpzoo(
        "apply", out / "transforms", again, "--inverse", "--reference", sequence, "--output", tmp_path / "there.tif"
    )
    there = tifffile.imread(tmp_path / "there.tif").astype(float)
    assert np.corrcoef(there[3, 15:33, 20:40].ravel(), drifting()[3, 15:33, 20:40].ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--moving", "still.tif", "--to=first"], "still.tif has the axes YX of 48 × 60: it has one frame"),
        (
            ["--moving", "stack.tif", "--to=first"],
            r"stack.tif has the axes ZYX of 6 × 48 × 60, .*say which by time_axis",
        ),
        (["cells.tif", "cells.tif"], "cells.tif is a series; fixed must be one image"),
        (["cells.tif", "still.tif"], "cells.tif is a series or has several channels"),
        (["still.tif", "stack.tif"], "2-D and .*stack.tif 3-D.*--time_axis"),
        (["--moving", "cells.tif"], "fixed must be given, or to: first or mean"),
        (
            ["--moving", "cells.tif", "--to=middle"],
            "to must be first, last, previous, mean or the number of a frame, got 'middle'",
        ),
        (["--to=first"], "to must be given with a moving image that has time"),
        (["--pairs", "pairs.csv", "--to=first"], "to must not be given with pairs"),
        (["--moving", "cells.tif", "--to=first", "--inverse"], "inverse must not be given with a series"),
        (
            ["--moving", "cells.tif", "--to=first", "--also=short.tif"],
            "short.tif must have a frame for each of the 6 .* got 2",
        ),
        (["still.tif", "cells.tif", "--moving_points=plain.csv"], "plain.csv must have a column frame"),
        (["still.tif", "cells.tif", "--moving_points=late.csv"], "frames 0 to 5, got frame 6"),
        (["--moving", "blank.tif", "--to=first"], "frame 0: .*blank.tif has the same value.*choose mean"),
        (["volume.nii.gz", "cells.tif"], "3-D and .*cells.tif 2-D"),
    ],
)
def test_what_cannot_be_registered_is_said_in_one_sentence(
    warpzoo: Call, sequence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = drifting()
    tifffile.imwrite("still.tif", frames[0])
    tifffile.imwrite("stack.tif", frames, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite("short.tif", frames[:2], metadata={"axes": "TYX"}, photometric="minisblack")
    tifffile.imwrite(
        "blank.tif", frames * np.array([0, 1, 1, 1, 1, 1], np.uint16)[:, None, None], metadata={"axes": "TYX"}
    )
    save(Path("volume.nii.gz"), smooth((20, 20, 20)))
    Path("plain.csv").write_text("x,y\n1,2\n")
    Path("late.csv").write_text("frame,x,y\n6,1,2\n")
    Path("pairs.csv").write_text("fixed,moving\nstill.tif,still.tif\n")
    ended = warpzoo("register", *arguments, "--method=rigid", "--output=out")
    assert ended.code == 1
    text = ended.err.strip().splitlines()[-1]
    assert re.search(message, text), text
    assert not Path("out").exists()


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """Peak memory of registering and writing 400 frames is that of 40; the method takes no time."""
    code = r"""
        import re, sys
        from pathlib import Path
        from warpzoo.geometry.composition import identity
        from warpzoo.images.series import open_series
        from warpzoo.registration import cleaning
        from warpzoo.registration.series import register_series
        from warpzoo.registration.series_files import InFolder
        from warpzoo.registration.series_results import write_series

        cleaning.KEPT_VOXELS = 0  # else 256 of these are kept

        class Still:
            name, expectations = "still", {}
            def __call__(self, fixed, moving, start, guidance):
                return identity(fixed.grid)

        folder = Path(sys.argv[2])
        series = open_series(sys.argv[1])
        done = register_series(series, [Still()], to="first", store=InFolder(folder / "unfinished"))
        write_series(folder, done, {"moving": Path(sys.argv[1])}, {})
        print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) // 1024)
    """
    peaks = []
    for count in (40, 400):
        frames = np.random.default_rng(0).integers(0, 200, (count, 128, 128)).astype(np.uint16)
        path = tmp_path / f"{count}.tif"
        tifffile.imwrite(path, frames, metadata={"axes": "TYX"}, photometric="minisblack")
        done = subprocess.run(
            [sys.executable, "-c", dedent(code), str(path), str(tmp_path / f"out{count}")],
            capture_output=True,
            text=True,
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "16384"},  # what is freed is given back
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 8  # MB; the frames have 12, as float32 24
