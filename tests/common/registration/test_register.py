"""Registering files end to end: what the command writes, seen by SimpleITK and nibabel."""

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
import tifffile
import torch
from PIL import Image as Picture
from scipy import ndimage

from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Image
from warpzoo.registration import NetworkMethod, find_methods, listing, register_pair

from .conftest import oblique, save, smooth

Call = Callable[..., object]
OPTIMISED = ["rigid", "affine", "ffd", "svf"]
RESULTS = ["displacement.nii.gz", "metrics.json", "transform.h5", "warped.nii.gz"]


def numbers_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture
def pair3d(tmp_path: Path) -> tuple[Path, Path]:
    """One content on two grids that share neither shape, spacing, origin, orientation nor data type."""
    fixed_grid = oblique([1.5, 1.2, 2.0], [-30.0, -25, -20], 12)
    moving_grid = oblique([1.1, 1.6, 1.4], [32.0, -26, -27], -8, flip=True)
    shapes = (40, 36, 24), (48, 40, 38)
    lattice = smooth((64, 64, 64))

    def seen(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
        points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
        world = affine[:3, :3] @ points + affine[:3, 3:]
        return ndimage.map_coordinates(lattice, world / 1.5 + 32, order=1, mode="wrap").reshape(shape)

    fixed = save(tmp_path / "fixed.nii.gz", seen(shapes[0], fixed_grid).astype(np.float32), fixed_grid)
    moving = save(tmp_path / "moving.nii.gz", seen(shapes[1], moving_grid).astype(np.int16), moving_grid)
    return fixed, moving


def by_simpleitk(folder: Path, fixed: Path, moving: Path) -> tuple[np.ndarray, np.ndarray]:
    """The moving image through our transform file, and where it has a value at all."""
    transform = sitk.ReadTransform(str(folder / "transform.h5"))
    image = sitk.ReadImage(str(moving), sitk.sitkFloat64)
    carried = sitk.Resample(image, sitk.ReadImage(str(fixed)), transform, sitk.sitkLinear, -1e6)
    values = sitk.GetArrayFromImage(carried)
    return values, values > -1e5


@pytest.mark.parametrize("spacing", [None, 3.0])
def test_volumes_on_any_grids(
    warpzoo: Call, make_bundle: Call, pair3d: tuple[Path, Path], tmp_path: Path, spacing: float | None
) -> None:
    fixed, moving = pair3d
    make_bundle("wavy", [2.4, -1.3, 0.8], wave=1.5, spacing=spacing)
    out = tmp_path / "out of it"
    ended = warpzoo("register", fixed, moving, "--method", "wavy", "--output", out, "--noreport")
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in out.iterdir()) == RESULTS

    expected, inside = by_simpleitk(out, fixed, moving)
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "warped.nii.gz"), sitk.sitkFloat64))
    assert inside.mean() > 0.5
    assert np.abs(warped - expected)[inside].max() < 1e-3 * (expected[inside].max() - expected[inside].min())

    header, like = nibabel.load(out / "warped.nii.gz"), nibabel.load(fixed)
    np.testing.assert_allclose(header.affine, like.affine, atol=1e-5)
    assert header.shape == like.shape
    assert header.get_data_dtype() == np.int16
    field = nibabel.load(out / "displacement.nii.gz")
    assert field.shape == (*like.shape, 1, 3)
    assert field.header["intent_code"] == 1007
    # the network's own answer in the world: a shift in voxels of the working grid, whose axes are the fixed image's
    scale = np.linalg.norm(like.affine[:3, :3], axis=0) if spacing is None else np.full(3, spacing)
    axes = like.affine[:3, :3] / np.linalg.norm(like.affine[:3, :3], axis=0)
    middle = tuple(side // 2 for side in like.shape)
    towards = np.array([2.4, -1.3, 0.8]) * scale
    mine = axes.T @ (np.asarray(field.dataobj)[middle].ravel() * [-1, -1, 1])
    np.testing.assert_allclose(mine[:2], towards[:2], atol=1e-3)
    assert abs(mine[2] - towards[2]) <= 1.5 * scale[2] + 1e-3


def test_pictures(warpzoo: Call, make_bundle: Call, tmp_path: Path) -> None:
    make_bundle("wavy", [3.25, -2.5], wave=2.0)
    for name, shape, seed in (("fixed", (60, 50), 0), ("moving", (70, 55), 1)):
        Picture.fromarray(smooth(shape, seed).astype(np.uint16)).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    files = tmp_path / "fixed.png", tmp_path / "moving.png"
    ended = warpzoo("register", *files, "--method=wavy", "--output", out, "--also", tmp_path / "fixed.png")
    assert ended.code == 0, ended.err
    expected, inside = by_simpleitk(out, tmp_path / "fixed.png", tmp_path / "moving.png")
    warped = np.asarray(nibabel.load(out / "warped.nii.gz").dataobj).T
    assert inside.mean() > 0.8
    assert np.abs(warped - expected)[inside].max() < 3
    picture = tifffile.imread(out / "warped.tif")
    assert picture.dtype == np.uint16
    np.testing.assert_array_equal(picture, warped)
    assert tifffile.imread(out / "warped_fixed.tif").shape == warped.shape
    assert {"report.html", "report.png"} <= {path.name for path in out.iterdir()}
    assert {"check", "wavy", "write"} < {stage for stage, seconds in numbers_of(out)["seconds"].items() if seconds > 0}
    assert numbers_of(out)["files"] == {"fixed": "../fixed.png", "moving": "../moving.png", "also": ["../fixed.png"]}
    told = (out / "report.html").read_text(encoding="utf-8")
    assert f">{tmp_path / 'fixed.png'}<" in told
    assert "PosixPath" not in told
    assert ">id<" not in told


def test_a_slice_in_space_stays_there(warpzoo: Call, make_bundle: Call, tmp_path: Path) -> None:
    make_bundle("shift", [1.5, 0.5])
    affine = oblique([1.5, 1.2, 5.0], [10.0, -20, 30], 20)
    fixed = save(tmp_path / "fixed.nii.gz", smooth((40, 36, 1)).astype(np.float32), affine)
    moving = save(tmp_path / "moving.nii.gz", smooth((40, 36, 1), 1).astype(np.float32), affine)
    ended = warpzoo("register", fixed, moving, "--method", "shift", "--output", tmp_path / "out", "--noreport")
    assert ended.code == 0, ended.err
    warped = nibabel.load(tmp_path / "out/warped.nii.gz")
    np.testing.assert_allclose(warped.affine, affine, atol=1e-4)
    expected = ndimage.shift(np.asarray(nibabel.load(moving).dataobj), [-1.5, -0.5, 0], order=1)
    np.testing.assert_allclose(warped.get_fdata()[:-2, :-2], expected[:-2, :-2], atol=0.5)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_chain_is_resampled_once(warpzoo: Call, make_bundle: Call, tmp_path: Path, dims: int) -> None:
    """Twice half a voxel is a whole one: not a value is mixed with its neighbours'."""
    make_bundle("half", [0.5, *[0.0] * (dims - 1)])
    shape = (32, 28, 20)[:dims]
    noise = np.random.default_rng(0).uniform(0, 100, shape).astype(np.float32)
    moving = save(tmp_path / "moving.nii.gz", noise)
    fixed = save(tmp_path / "fixed.nii.gz", smooth(shape).astype(np.float32))
    ended = warpzoo("register", fixed, moving, "--method", "half, half", "--output", tmp_path / "out", "--noreport")
    assert ended.code == 0, ended.err
    np.testing.assert_allclose(nibabel.load(tmp_path / "out/warped.nii.gz").get_fdata()[:-1], noise[1:], atol=1e-3)
    assert numbers_of(tmp_path / "out")["method"] == "half,half"


@pytest.mark.parametrize("chain", ["shift,wavy", "wavy,shift"])
def test_a_chain_keeps_its_order(warpzoo: Call, make_bundle: Call, tmp_path: Path, chain: str) -> None:
    make_bundle("shift", [6.0, 0.0])
    make_bundle("wavy", [0.0, 0.0], wave=4.0)
    for seed, name in enumerate(("fixed", "moving")):
        save(tmp_path / f"{name}.nii.gz", smooth((49, 40), seed).astype(np.float32))
    files = (tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz")
    assert warpzoo("register", *files, "--method", chain, "--output", tmp_path, "--noreport").code == 0
    field = -np.asarray(nibabel.load(tmp_path / "displacement.nii.gz").dataobj).reshape(49, 40, 2)  # LPS
    # what the second method finds is where a point goes first
    place = np.arange(49.0) + (6 if chain == "wavy,shift" else 0)
    wave = 4 * np.sin(2 * np.pi * np.minimum(place, 48) / 48)
    np.testing.assert_allclose(field[..., 0], 6, atol=1e-3)
    np.testing.assert_allclose(field[..., 1], np.repeat(wave[:, None], 40, 1), atol=2e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_comes_along(warpzoo: Call, make_bundle: Call, tmp_path: Path, dims: int) -> None:
    """A blob, its label, its landmark and another image of it arrive together, where the fixed image has its own."""
    shift = [4.0, -3.0, 2.0][:dims]
    make_bundle("shift", shift)
    shape, here = (48, 44, 30)[:dims], np.array([20.0, 24, 14])[:dims]
    affine = oblique([1.5, 1.2, 2.0], [-30.0, -25, 9], 12) if dims == 3 else np.diag([1.5, 1.2, 1, 1])

    def blob(centre: np.ndarray) -> np.ndarray:
        lattice = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        return np.exp(-((lattice - centre) ** 2).sum(-1) / 40).astype(np.float32)

    def landmark(name: str, centre: np.ndarray) -> Path:
        world = (affine @ [*centre, *[0] * (3 - dims), 1])[:dims]
        path = tmp_path / name
        path.write_text(f"label,{','.join('xyz'[:dims])}\napex,{','.join(map(str, world))}\n")
        return path

    files = {}
    for name, centre in (("fixed", here), ("moving", here + shift)):
        files[name] = save(tmp_path / f"{name}.nii.gz", 100 * blob(centre), affine)
        label_map = np.where(blob(centre) > 0.4, 7, 0) + np.where(blob(centre) > 0.8, 292, 0)
        files[f"{name}_labels"] = save(tmp_path / f"{name}_labels.nii.gz", label_map.astype(np.int16), affine)
        files[f"{name}_points"] = landmark(f"{name}.csv", centre)
    other = save(tmp_path / "T2 map.nii.gz", (blob(here + shift) * 200).astype(np.uint8), affine)
    parts = save(tmp_path / "parts.nii.gz", label_map.astype(np.float32), affine)
    out = tmp_path / "out"
    options = [f"--{name}={path}" for name, path in files.items()]
    options += [f"--also={other}", f"--also_labels={parts}", "--method=shift", "--noreport"]
    ended = warpzoo("register", *options, "--output", out)
    assert ended.code == 0, ended.err

    numbers = numbers_of(out)
    assert set(numbers["dice"]) == set(numbers["dice_before"]) == {"7", "299"}
    assert numbers["dice"] == pytest.approx({"7": 1.0, "299": 1.0})
    assert numbers["dice_mean"] == pytest.approx(1)
    assert numbers["dice_before_mean"] == pytest.approx(np.mean(list(numbers["dice_before"].values())))
    assert numbers["dice_before_mean"] < 0.8
    distance = np.linalg.norm(affine[:dims, :dims] @ shift)
    assert numbers["tre_before"] == pytest.approx(distance, rel=1e-3)
    assert numbers["tre"] == pytest.approx(0, abs=1e-3)
    assert numbers["ncc"] > 0.99 > numbers["ncc_before"]

    labels = nibabel.load(out / "warped_labels.nii.gz")
    assert labels.get_data_dtype() == np.int16
    assert set(np.unique(np.asarray(labels.dataobj))) == {0, 7, 299}
    np.testing.assert_array_equal(nibabel.load(out / "warped_parts.nii.gz").get_fdata(), labels.get_fdata())
    row = next(csv.DictReader((out / "warped_points.csv").open()))
    arrived = np.array([float(row[axis]) for axis in "xyz"[:dims]])
    assert row["label"] == "apex"
    for name in ("warped.nii.gz", "warped_T2 map.nii.gz"):
        image = nibabel.load(out / name)
        centre = ndimage.center_of_mass(image.get_fdata() ** 4)
        there = (image.affine @ [*centre, *[0] * (3 - dims), 1])[:dims]
        np.testing.assert_allclose(there, arrived, atol=0.05)
    assert nibabel.load(out / "warped_T2 map.nii.gz").get_data_dtype() == np.uint8


def test_nothing_of_an_earlier_pair_stays_beside_a_new_transform(warpzoo: Call, tmp_path: Path) -> None:
    files = [save(tmp_path / f"{name}.nii.gz", smooth((40, 36), 3).astype(np.float32)) for name in "fm"]
    options = ("register", *files, "--noreport", "--output", tmp_path / "out")
    assert warpzoo(*options, "--method=rigid", "--also", files[1]).code == 0
    assert (tmp_path / "out/warped_m.nii.gz").exists()
    assert warpzoo(*options, "--method=affine").code == 0
    assert not (tmp_path / "out/warped_m.nii.gz").exists()
    assert (tmp_path / "out/warped.nii.gz").exists()


def test_refinement_improves_and_does_not_fold(warpzoo: Call, make_bundle: Call, tmp_path: Path) -> None:
    make_bundle("still", [0.0, 0.0])
    content = np.pad(smooth((44, 36)), 8).astype(np.float32)
    fixed = save(tmp_path / "fixed.nii.gz", content)
    moving = save(tmp_path / "moving.nii.gz", ndimage.shift(content, [2.0, -1.0], order=1, mode="nearest"))
    before = 0.0
    for steps in (0, 40):
        ended = warpzoo(
            "register", fixed, moving, "--method=still", "--refine", steps, "--output", tmp_path / "out", "--noreport"
        )
        assert ended.code == 0, ended.err
        numbers = numbers_of(tmp_path / "out")
        assert numbers["ncc"] > before + 0.05
        assert numbers["folding_corners"] == 0
        before = numbers["ncc"]


def test_a_list(warpzoo: Call, make_bundle: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle("shift", [2.0, 0.0])
    for seed, name in enumerate(("a", "b")):
        save(tmp_path / f"{name}.nii.gz", smooth((40, 36), seed).astype(np.float32))
    labels = (smooth((40, 36), 5) > 1500).astype(np.uint8)
    save(tmp_path / "labels.nii.gz", labels)
    (tmp_path / "broken.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:900])
    table = tmp_path / "pairs.csv"
    table.write_text(
        "id,fixed,moving,fixed_labels,moving_labels\n"
        "broken,a.nii.gz,broken.nii.gz,,\n"
        "subject 1/base,a.nii.gz,b.nii.gz,labels.nii.gz,labels.nii.gz\n"
        ",b.nii.gz,a.nii.gz,,\n"
    )
    loads = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: loads.append(a) or load(*a, **k))
    arguments = ("register", "--pairs", table, "--method", "shift", "--output", tmp_path / "out", "--noreport")
    ended = warpzoo(*arguments)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "1 of 3 pairs failed" in ended.err
    assert "3/3" in ended.err, "a progress bar"
    assert len(loads) == 1
    rows = {row["id"]: row for row in csv.DictReader((tmp_path / "out/metrics.csv").open())}
    assert list(rows) == ["subject_1_base", "3"]
    assert 0 < float(rows["subject_1_base"]["dice_1"]) == float(rows["subject_1_base"]["dice_mean"]) < 1
    failures = list(csv.DictReader((tmp_path / "out/failures.csv").open()))
    assert [row["id"] for row in failures] == ["broken"]
    assert "broken.nii.gz" in failures[0]["reason"]
    overview = (tmp_path / "out/overview.html").read_text(encoding="utf-8")
    assert "2 registered, 1 failed" in overview
    assert 'href="subject_1_base/metrics.json"' in overview

    made = (tmp_path / "out/3/warped.nii.gz").stat().st_mtime_ns
    save(tmp_path / "broken.nii.gz", smooth((40, 36), 3).astype(np.float32))
    ended = warpzoo(*arguments)
    assert ended.code == 0, ended.err
    assert "2 of 3 pairs are done already" in ended.out
    assert (tmp_path / "out/3/warped.nii.gz").stat().st_mtime_ns == made
    assert not (tmp_path / "out/failures.csv").exists()
    assert len((tmp_path / "out/metrics.csv").read_text().splitlines()) == 4
    assert "3 registered ·" in (tmp_path / "out/overview.html").read_text(encoding="utf-8")

    # other settings are other results, and a pair that fails now keeps none of its earlier ones
    (tmp_path / "b.nii.gz").unlink()
    ended = warpzoo(*arguments, "--refine", 2)
    assert ended.code == 1
    assert not list((tmp_path / "out/3").iterdir())
    assert numbers_of(tmp_path / "out/broken")["settings"]["refine"] == "2"


def test_an_interrupted_list_has_its_tables(
    warpzoo: Call, make_bundle: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle("shift", [2.0, 0.0])
    for seed, name in enumerate(("a", "b")):
        save(tmp_path / f"{name}.nii.gz", smooth((40, 36), seed).astype(np.float32))
    table = tmp_path / "pairs.csv"
    table.write_text("id,fixed,moving\n1,a.nii.gz,b.nii.gz\n2,b.nii.gz,a.nii.gz\n3,a.nii.gz,a.nii.gz\n")
    read = listing.read_pair

    def interrupted(files: dict[str, Any], *options: Any) -> Any:
        if files["id"] == "2":
            raise KeyboardInterrupt
        return read(files, *options)

    monkeypatch.setattr(listing, "read_pair", interrupted)
    arguments = ("register", "--pairs", table, "--method", "shift", "--output", tmp_path / "out")
    assert warpzoo(*arguments).code == 130
    overview = (tmp_path / "out/overview.html").read_text(encoding="utf-8")
    assert "1 registered, 2 not registered yet" in overview
    assert 'href="1/report.html"' in overview
    with Picture.open(tmp_path / "out/1/thumbnail.jpg") as picture:
        assert picture.size == (2 * 100 + 4, 90)
    assert len((tmp_path / "out/metrics.csv").read_text().splitlines()) == 2

    monkeypatch.setattr(listing, "read_pair", read)
    ended = warpzoo(*arguments)
    assert ended.code == 0, ended.err
    assert "3 registered ·" in (tmp_path / "out/overview.html").read_text(encoding="utf-8")


def test_a_label_map_among_images_is_said(warpzoo: Call, make_bundle: Call, tmp_path: Path) -> None:
    make_bundle("shift", [0.5, 0.0])
    image = save(tmp_path / "image.nii.gz", smooth((40, 36)).astype(np.int16))
    parts = save(tmp_path / "parts.nii.gz", (smooth((40, 36)) // 800).astype(np.uint8))
    options = ("register", image, image, "--method=shift", "--output", tmp_path / "out", "--noreport", "--also")
    said = warpzoo(*options, f"{image},{parts}").out
    assert f"warning: {parts} has whole numbers, 4 of them" in said
    assert "--also_labels" in said
    assert "image.nii.gz has whole" not in said


def test_what_was_done_otherwise_is_done_again(
    warpzoo: Call, make_bundle: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_bundle("shift", [2.0, 0.0])
    for seed, name in enumerate(("a", "b")):
        save(tmp_path / f"{name}.nii.gz", smooth((40, 36), seed).astype(np.float32))
    (tmp_path / "pairs.csv").write_text("fixed,moving\na.nii.gz,b.nii.gz\n")
    monkeypatch.chdir(tmp_path)
    options: list[str] = ["--noreport"]

    def done(table: str = "pairs.csv", out: str = "out") -> bool:
        ended = warpzoo("register", "--pairs", table, "--method=shift", "--output", out, *options)
        assert ended.code == 0, ended.err
        return "1 of 1 pairs are done already" in ended.out

    assert not done()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert done("../pairs.csv", "../out"), "the same files, called from another folder"
    monkeypatch.chdir(tmp_path)
    torch.save({"known": torch.tensor([1.0, 0.0, 0.0])}, root / "models/model.pt")
    assert not done(), "other weights under the same name"
    for option in ("--refine=2", "--similarity=mse", "--adapt=1"):
        options.append(option)
        assert not done(), option
        assert done(), option
    options.remove("--noreport")
    assert not done(), "a report is wanted"


def test_weights_of_a_shipped_variant_are_compared_with_the_training_data_too(make_bundle: Call) -> None:
    root = make_bundle("flat", [0.0, 0.0])
    for weights, known in (("model.pt", True), ("wide.pt", True), ("digits/0.pt", False), ("../mine.pt", False)):
        method = NetworkMethod(torch.nn.Identity(), root, root / "models" / weights)
        assert ("content" in method.expectations) == known, weights


def test_weights_may_have_training_data_of_their_own(make_bundle: Call) -> None:
    root = make_bundle("flat", [0.0, 0.0])
    file = root / "configs" / "metadata.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    metadata["training_data"] = {"size": [10, 20], "any.pt": {"content": "anything at all"}}
    file.write_text(json.dumps(metadata), encoding="utf-8")
    own = NetworkMethod(torch.nn.Identity(), root, root / "models" / "any.pt").expectations
    assert own["content"] == "anything at all"
    assert "size" not in own
    assert "size" in NetworkMethod(torch.nn.Identity(), root, root / "models" / "model.pt").expectations


def test_methods(warpzoo: Call, make_bundle: Call) -> None:
    make_bundle("flat", [0.0, 0.0])
    make_bundle("deep", [0.0, 0.0, 0.0])
    lines = warpzoo("methods").out.splitlines()
    found = [line.split()[:3] for line in lines]
    assert found[:2] == [["deep", "3-D", "MR"], ["flat", "2-D", "MR"]]
    assert ["dirnet", "2-D", "MR"] in found, "the shipped ones are still there"
    assert ["stn_affine:any_2d", "2-D", "any"] in found, "and their weights for other images"
    assert [line for line in found if line[0] in OPTIMISED] == [[name, "2/3-D", "any"] for name in OPTIMISED]


def test_a_network_sees_images_on_its_grid_to_the_last_bit(make_bundle: Call) -> None:
    grid, seen = Grid((37, 29)), []
    fixed, moving = (Image.in_memory(torch.from_numpy(smooth(grid.shape, seed)).float()[None], grid) for seed in (0, 1))
    root = make_bundle("still", [0.0, 0.0])
    method = find_methods(str(root), device="cpu")[0]
    method.network.register_forward_pre_hook(lambda network, inputs: seen.extend(inputs[0][0]))
    register_pair(fixed, moving, [method])
    assert torch.equal(seen[0], moving.array[0])
    assert torch.equal(seen[1], fixed.array[0])


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_a_network_sees_volumes_in_one_orientation(
    warpzoo: Call, make_bundle: Call, tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    """However a volume's axes are stored: the network's shift along its first axis is one to the right of the body."""
    make_bundle("shift", [2.0, 0.0, 0.0])
    for seed, name in enumerate(("fixed", "moving")):
        image = nibabel.Nifti1Image(smooth((24, 28, 20), seed).astype(np.float32), np.diag([1.5, 1.5, 1.5, 1]))
        stored = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), np.stack([axes, signs], axis=1).astype(float)
        )
        nibabel.save(image.as_reoriented(stored), tmp_path / f"{name}.nii.gz")
    files = (tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz")
    ended = warpzoo("register", *files, "--method", "shift", "--output", tmp_path / "out", "--noreport")
    assert ended.code == 0, ended.err
    field = sitk.ReadTransform(str(tmp_path / "out/transform.h5"))
    middle = sitk.ReadImage(str(files[0]))
    centre = middle.TransformContinuousIndexToPhysicalPoint([0.5 * (size - 1) for size in middle.GetSize()])
    np.testing.assert_allclose(np.subtract(field.TransformPoint(centre), centre), [-3.0, 0, 0], atol=1e-4)
