"""Templates: in the middle of their subjects, as SciPy and SimpleITK see it; stopped runs go on; mistakes are said."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.linalg import sqrtm

from warpzoo.cohorts import template
from warpzoo.cohorts.poses import Pose, centred_pose, mean_matrix, way_back
from warpzoo.geometry.grid import Grid

from .conftest import save, smooth

SHAPE = (44, 40)


def disc(scale: tuple[float, float], seed: int = 0) -> np.ndarray:
    """A textured ellipse about the middle, as one of (1, 1) after its axes are scaled, on a dark ground."""
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(float)
    middle = (np.array(SHAPE)[:, None, None] - 1) / 2
    inner = (places - middle) / np.array(scale)[:, None, None]
    texture = ndimage.map_coordinates(smooth(SHAPE, 3), inner + middle, order=1, mode="wrap")
    return ((0.4 * texture + 1000) / (1 + np.exp(np.hypot(*inner) - 12))).astype(np.float32)


@pytest.fixture
def subjects(tmp_path: Path) -> list[Path]:
    """Twice as wide as high and twice as high as wide: their middle is round. Their scales of intensity differ."""
    narrow, wide = disc((0.87, 1.15)), 40 * disc((1.15, 0.87))
    return [save(tmp_path / "narrow.nii.gz", narrow), save(tmp_path / "wide.nii.gz", wide)]


def test_the_mean_of_matrices_is_that_of_their_logarithms() -> None:
    """Of two that commute it is the root of their product, by SciPy, about a point that stays."""
    centre, one, other = np.array([20.0, -5.0]), np.eye(3), np.eye(3)
    one[:2, :2] = [[1.2, 0.3], [0.1, 0.9]]
    other[:2, :2] = one[:2, :2] @ one[:2, :2]
    one[:2, 2] = 7, -3
    mean = mean_matrix([one, other], centre)
    np.testing.assert_allclose(mean[:2, :2], np.real(sqrtm(one[:2, :2] @ other[:2, :2])), atol=1e-9)
    np.testing.assert_allclose(mean[:2, :2] @ centre + mean[:2, 2], centre, atol=1e-9)
    assert mean_matrix([one, np.linalg.inv(one)], centre) == pytest.approx(np.eye(3), abs=1e-9)


def test_poses_are_seen_from_their_middle() -> None:
    """What SciPy interpolates: the mean displacement of all poses is none after points have gone back through it."""
    grid = Grid(SHAPE)
    fields = [np.stack([smooth(SHAPE, 2 * n), smooth(SHAPE, 2 * n + 1)]).astype(np.float32) / 1500 for n in range(3)]
    mean = Pose(np.eye(3), np.mean(fields, axis=0))
    moved = [centred_pose(Pose(np.eye(3), field), mean, way_back(mean, grid), grid).displacement for field in fields]
    assert np.abs(np.mean(fields, axis=0)).mean() > 0.5
    inside = (slice(None), slice(4, -4), slice(4, -4))
    assert np.abs(np.mean(moved, axis=0)[inside]).max() < 1e-3
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(float)
    back = places + mean_inverse(mean.displacement, places)
    through = np.stack([ndimage.map_coordinates(part, back, order=1, mode="nearest") for part in fields[0]])
    np.testing.assert_allclose(moved[0][inside], (back - places + through)[inside], atol=2e-3)


def mean_inverse(field: np.ndarray, places: np.ndarray) -> np.ndarray:
    """By fixed-point iteration."""
    found = np.zeros_like(places)
    for _ in range(100):
        found = -np.stack([ndimage.map_coordinates(part, places + found, order=1, mode="nearest") for part in field])
    return found


def widths(values: np.ndarray) -> np.ndarray:
    """The spread of what is bright along each axis."""
    bright = values > 0.5 * values.max()
    return np.std(np.argwhere(bright), axis=0)


def test_a_template_is_in_the_middle_of_its_subjects(
    warpzoo: Callable[..., Any], subjects: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = warpzoo("template", *subjects, "--output", out, "--iterations", 3, "--threads", 1, "--start", subjects[0])
    assert ended.code == 0, ended.err
    assert "template.nii.gz of 2 subjects" in ended.out
    found = nibabel.load(out / "template.nii.gz").get_fdata().squeeze()
    middle = widths(disc((1.0, 1.0)))
    np.testing.assert_allclose(widths(found), middle, rtol=0.05)
    for subject in subjects:
        assert (abs(widths(nibabel.load(subject).get_fdata()) / middle - 1) > 0.1).all()
    record = json.loads((out / "template.json").read_text())
    assert [row["iteration"] for row in record["iterations"]] == [1, 2, 3]
    assert record["iterations"][-1]["ncc"] > 0.97
    # the transforms that are written take the template to each subject, by SimpleITK
    reference = sitk.ReadImage(str(out / "template.nii.gz"))
    for row in csv.DictReader((out / "subjects.csv").open()):
        transform = sitk.ReadTransform(str(out / f"transforms/{row['subject']}_transform.h5"))
        warped = sitk.Resample(sitk.ReadImage(row["file"]), reference, transform)
        alike = np.corrcoef(sitk.GetArrayFromImage(warped).ravel(), found.T.ravel())[0, 1]
        assert alike == pytest.approx(float(row["ncc"]), abs=0.02)
        assert alike > 0.95
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Template of 2 subjects" in page
    assert page.count("data:image/jpeg") == 4
    assert not [*out.rglob(".*")]


@pytest.mark.parametrize(("at", "left"), [(2, 2), (4, 0)])
def test_a_stopped_run_goes_on_to_the_same_template(
    warpzoo: Callable[..., Any],
    subjects: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    left: int,
) -> None:
    """At the second subject of the first or of the second iteration, whose registrations are there."""
    arguments = ("template", *subjects, "--method", "affine", "--iterations", 2, "--threads", 1, "--output")
    assert warpzoo(*arguments, tmp_path / "whole").code == 0
    move, seen = template.move, []

    def stopped(iteration: template.Iteration, recipe: Any, subject: tuple[str, Path]) -> None:
        seen.append(subject[0])
        if len(seen) == at:
            raise KeyboardInterrupt
        move(iteration, recipe, subject)

    monkeypatch.setattr(template, "move", stopped)
    monkeypatch.setattr(template, "WORDS", {**template.WORDS, stopped: "stopping"})
    assert warpzoo(*arguments, tmp_path / "out").code == 130
    monkeypatch.undo()
    found, register_pair = [], template.register_pair

    def counted(*arguments: Any, **options: Any) -> Any:
        found.append(1)
        return register_pair(*arguments, **options)

    monkeypatch.setattr(template, "register_pair", counted)
    ended = warpzoo(*arguments, tmp_path / "out")
    assert ended.code == 0, ended.err
    assert len(found) == left, "those of the iterations that had not begun"
    for name in ("template.nii.gz", "template_1.nii.gz", "transforms/wide_transform.tfm"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert "other subjects or settings" in warpzoo(*arguments, tmp_path / "out", "--seed", 3).err
    subjects[0].touch()
    assert "of images that have changed since" in warpzoo(*arguments, tmp_path / "out").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["narrow.nii.gz"], "images must be 2 or more"),
        (["narrow.nii.gz", "none.nii.gz"], "none.nii.gz does not exist"),
        (["narrow.nii.gz", "narrow.nii.gz"], "images must differ in their names or folders"),
        (["narrow.nii.gz", "wide.nii.gz", "--iterations", "0"], "iterations must be a whole number"),
        (["narrow.nii.gz", "wide.nii.gz", "--start", "none.nii.gz"], "none.nii.gz does not exist"),
        (["narrow.nii.gz", "flat.nii.gz"], "flat.nii.gz must show something"),
        (["narrow.nii.gz", "hole.nii.gz"], "hole.nii.gz must be finite, got 1 voxels that are NaN or infinite"),
        (["narrow.nii.gz", "volume.nii.gz"], "volume.nii.gz of 3 and"),
    ],
)
def test_mistakes_are_said(
    warpzoo: Callable[..., Any],
    subjects: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    save(tmp_path / "flat.nii.gz", np.ones(SHAPE, np.float32))
    hole = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    hole.flat[50] = np.nan
    save(tmp_path / "hole.nii.gz", hole)
    save(tmp_path / "volume.nii.gz", np.arange(1000, dtype=np.float32).reshape(10, 10, 10))
    monkeypatch.chdir(tmp_path)
    ended = warpzoo("template", *arguments, "--output", "out")
    assert ended.code == 1
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    assert words in ended.err
