"""What is done to a pair if no method is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

import warpzoo
from warpzoo.bundles import find_bundle
from warpzoo.geometry.composition import parts_of
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform
from warpzoo.images.image import Image
from warpzoo.registration import contrasts, find_methods, optimisation
from warpzoo.registration.budget import Budget
from warpzoo.registration.contrasts import BetweenContrasts
from warpzoo.registration.optimisation import Optimisation, smoothed
from warpzoo.registration.usual import NetworkForAny

from .conftest import smooth


def names(**options: str) -> list[str]:
    return [method.name for method in find_methods(**options)]


def test_qualities_differ_in_passes_and_iterations() -> None:
    networks = ["fcn_multires:any", "fcn_multires:any_2d"]
    assert names(quality="fast") == ["affine", *networks, "svf", "svf"]
    twice = [f"{network},{network}" for network in networks]
    assert names() == names(quality="usual") == names(quality="best") == ["affine", *twice, "svf", "svf"]
    chains = [find_methods(quality=quality) for quality in ("fast", "usual", "best")]
    for dims in (2, 3):
        own = [
            next(one for one in chain if getattr(one, "dims", None) == dims and one.name == "svf") for chain in chains
        ]
        iterations = [one.budget.amount for one in own]  # type: ignore[attr-defined]
        assert sorted(iterations) == iterations
        assert len(set(iterations)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": "good"}, "quality must be one of fast, usual, best, got 'good'"),
        ({"quality": "best", "chain": "affine"}, "quality must only be given where no method"),
        ({"quality": "best", "weights": "missing.pt"}, "missing.pt"),
        ({"refine": "40"}, "method must be given with refine"),
        ({"adapt": "2s"}, "method must be given with adapt"),
        ({"variant": "any"}, "method must be given with variant"),
        ({"resolution": -1.0}, "resolution must be a length above 0"),
        ({"similarity": "nmi"}, "similarity must be one of"),
    ],
)
def test_options_that_do_not_go_with_it(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_methods(**options)


def known_displacement(shape: tuple[int, ...]) -> np.ndarray:
    """SciPy's to be found: smooth, up to some voxels, none at the edge."""
    place = np.indices(shape).astype(float)
    inside = np.prod([np.sin(np.pi * axis / (size - 1)) for axis, size in zip(place, shape, strict=True)], 0)
    if len(shape) == 3:
        return inside * np.stack([3 * np.sin(place[1] / 6), 2 * np.cos(place[2] / 7), 3 * np.sin(place[0] / 5)])
    return inside * np.stack([3 * np.sin(place[1] / 9), 2 * np.cos(place[0] / 8)])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("shape", "network"), [((40, 44, 36), "any"), ((64, 60), "any_2d")])
def test_two_images_of_one_or_two_contrasts(shape: tuple[int, ...], network: str, sign: int) -> None:
    moving, known = smooth(shape), known_displacement(shape)
    fixed = ndimage.map_coordinates(moving, np.indices(shape) + known, order=1)
    result = warpzoo.register(sign * fixed, moving, quality="fast")
    assert result.registration.method == f"affine,fcn_multires:{network},svf"
    apart = np.linalg.norm(result.registration.displacement.displacement[0].numpy() - known, axis=0)
    assert apart.mean() < 0.3 * np.linalg.norm(known, axis=0).mean()


def test_images_that_the_network_cannot_take_do_without() -> None:
    volumes = [smooth((2, 20, 22, 18), seed).astype(np.float32) for seed in (0, 0)]
    assert warpzoo.register(*volumes, channels=True, quality="fast").registration.method == "affine,svf"
    labels = (smooth((24, 22, 20)) > 1500).astype(np.uint8)
    alone = warpzoo.register(fixed_labels=labels, moving_labels=np.roll(labels, 1, 0), quality="fast")
    assert alone.registration.method == "affine,svf"


def test_what_is_unlike_in_windows_is_compared_by_mutual_information() -> None:
    """Intensities of the fixed image go up and down again: what they share is no correlation."""
    shape = (72, 70)
    moving, known = smooth(shape), 0.7 * known_displacement(shape)
    straight = ndimage.map_coordinates(moving, np.indices(shape) + known, order=1)
    fixed = 3000 * np.abs(np.sin(straight / 3000 * 2 * np.pi))
    errors = {}
    for contrast, image in (("one", straight), ("two", fixed)):
        pair = [Image.in_memory(torch.from_numpy(one)[None], Grid(shape), "a") for one in (image, moving)]
        for between in (False, True):
            method = (BetweenContrasts if between else Optimisation)("svf")
            found = method(*pair, None).field(pair[0].grid)[0].numpy()
            errors[contrast, between] = np.linalg.norm(found - known, axis=0).mean()
    assert errors["one", True] == errors["one", False]
    assert errors["two", True] < 0.5 * errors["two", False]


def volume_and_its_deformed(contrast: Callable[[np.ndarray], np.ndarray]) -> tuple[list[Image], np.ndarray]:
    """A volume under a known deformation, in another contrast, with a little noise on both sides."""
    shape, rng = (40, 38, 36), np.random.default_rng(0)
    moving, known = smooth(shape), 0.5 * known_displacement(shape)
    fixed = contrast(ndimage.map_coordinates(moving, np.indices(shape) + known, order=1))
    noisy = [(one + rng.normal(0, 30, shape)).astype(np.float32) for one in (fixed, moving)]
    return [Image.in_memory(torch.from_numpy(one)[None], Grid(shape), "a") for one in noisy], known


@pytest.mark.parametrize(
    ("up_and_down", "windows", "expected"),
    [(False, True, [None]), (True, True, [None, "mind"]), (True, False, ["mi", None, "mind"])],
)
def test_descriptors_are_tried_where_edges_go_other_ways_and_information_decides(
    monkeypatch: pytest.MonkeyPatch, up_and_down: bool, windows: bool, expected: list[str | None]
) -> None:
    """Where windows are alike enough, and where they are not and mutual information comes first."""

    def contrast(values: np.ndarray) -> np.ndarray:
        return 3000 * np.abs(np.sin(values / 3000 * 1.5 * np.pi)) if up_and_down else 0.8 * values + 100

    pair, known = volume_and_its_deformed(contrast)
    monkeypatch.setattr(contrasts, "UNLIKE", 0.0 if windows else 1.0)  # whatever a coarse look says
    run, tried = optimisation.optimise, []

    def optimise(method: str, *arguments: Any, **options: Any) -> Transform:
        found = run(method, *arguments, **options)
        error = np.linalg.norm(found.field(pair[0].grid)[0].numpy() - known, axis=0).mean()
        tried.append((arguments[-1], float(error)))
        return found

    monkeypatch.setattr(optimisation, "optimise", optimise)
    found = BetweenContrasts("svf", budget=Budget(60))(*pair, None)
    error = np.linalg.norm(found.field(pair[0].grid)[0].numpy() - known, axis=0).mean()
    assert [similarity for similarity, _ in tried] == expected
    assert error == pytest.approx(min(error for _, error in tried))


@pytest.mark.parametrize("one_anatomy", [True, False])
def test_in_a_plane_descriptors_are_tried_beside_mutual_information_which_decides(
    monkeypatch: pytest.MonkeyPatch, one_anatomy: bool
) -> None:
    """Edges of one anatomy lie in the same places in any contrast, and it then shares as much; another shares less."""
    shape, rng = (96, 90), np.random.default_rng(0)
    labels = ndimage.gaussian_filter(rng.normal(size=shape), 6, mode="wrap")
    moving = np.digitize(labels, np.quantile(labels, [0.2, 0.4, 0.6, 0.8])).astype(float)
    known = 0.7 * known_displacement(shape)
    changed = labels if one_anatomy else labels + 0.2 * labels.std() * smooth(shape, 1) / smooth(shape, 1).std()
    others = np.array([2.0, 0.0, 3.0, 1.0, 2.5])[np.digitize(changed, np.quantile(labels, [0.2, 0.4, 0.6, 0.8]))]
    fixed = ndimage.map_coordinates(others, np.indices(shape) + known, order=1, mode="nearest")
    noisy = [(one + rng.normal(0, 0.1, shape)).astype(np.float32) for one in (fixed, moving)]
    pair = [Image.in_memory(torch.from_numpy(one)[None], Grid(shape), "a") for one in noisy]
    run, tried = optimisation.optimise, {}

    def optimise(method: str, *arguments: Any, **options: Any) -> Transform:
        tried[arguments[-1]] = found = run(method, *arguments, **options)
        return found

    monkeypatch.setattr(optimisation, "optimise", optimise)
    found = BetweenContrasts("svf", budget=Budget(60))(*pair, None)
    if one_anatomy:
        apart = {name: one.field(pair[0].grid)[0].numpy() - known for name, one in tried.items()}
        error = {name: np.linalg.norm(one, axis=0).mean() for name, one in apart.items()}
        assert error["mind"] < 0.9 * error["mi"]
    assert found is tried["mind" if one_anatomy else "mi"]


def test_noise_around_few_cells_is_not_fitted_by_mutual_information() -> None:
    """Windows are compared where it gains little by them and they gain by it: the contrasts are the same."""
    shape, rng = (96, 96), np.random.default_rng(0)
    spots, known = np.zeros(shape), known_displacement(shape)
    spots[tuple(rng.uniform(15, 80, (12, 2)).astype(int).T)] = 1
    cells = ndimage.gaussian_filter(spots, 1.5)
    there = ndimage.map_coordinates(cells, np.indices(shape) + known, order=3)
    noisy = [(one / cells.max() + rng.normal(0, 0.03, shape)).astype(np.float32) for one in (there, cells)]
    pair = [Image.in_memory(torch.from_numpy(one)[None], Grid(shape), "a") for one in noisy]
    start = DisplacementField(torch.from_numpy(0.8 * known)[None].float(), pair[0].grid)

    def error(method: Optimisation) -> float:
        found = method(*pair, start).field(pair[0].grid)[0].numpy()
        return float(np.linalg.norm(found - known, axis=0)[there > 0.2 * there.max()].mean())

    usual, information = BetweenContrasts("svf", None, Budget(60)), Optimisation("svf", "mi")
    assert error(usual) < 0.7 * error(information)


def test_no_network_is_made_for_images_that_it_does_not_suit() -> None:
    methods = [one for one in find_methods() if isinstance(one, NetworkForAny)]
    image = warpzoo.register(smooth((24, 20)), smooth((24, 20), 1), method="rigid").registration.fixed
    assert {one.variant: one.suits(image, image) for one in methods} == {"any": False, "any_2d": True}
    assert not any("method" in vars(one) for one in methods)


def test_what_makes_images_less_alike_is_left_out(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle("wild", [9, 0, 0])
    metadata = json.loads((root / "configs/metadata.json").read_text()) | {"any_pair": ["any"]}
    (root / "configs/metadata.json").write_text(json.dumps(metadata))
    (root / "configs/variants").mkdir()
    (root / "configs/variants/any.json").write_text("{}")
    (root / "models/model.pt").rename(root / "models/any.pt")
    image = smooth((32, 30, 28))
    result = warpzoo.register(image, np.roll(image, 1, 1), quality="fast")
    assert "wild:any" in result.registration.method
    alike = result.registration.likeness
    assert alike["wild:any"].windows < alike["affine"].windows
    assert "wild:any" in result.registration.left_out
    assert float(result.registration.displacement.displacement[0, 0].abs().mean()) < 0.5


def test_only_what_a_network_has_found_is_smoothed() -> None:
    """By as much as SciPy's filter does, in millimetres; a matrix, and what was known before, stay."""
    grid = Grid([20, 18, 16], np.diag([1.0, 1.0, 2.0, 1.0]))
    random = torch.Generator().manual_seed(0)
    rough, known = (DisplacementField(torch.randn(1, 3, 20, 18, 16, generator=random), grid) for _ in range(2))
    matrix = Affine.from_world(torch.tensor([[[1.1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, -2.0]]]), grid)
    found = smoothed(Composition(rough, known, matrix), grid, 3.0)
    first, *rest = parts_of(found)
    expected = ndimage.gaussian_filter(rough.displacement.numpy(), (0, 0, 3.0, 3.0, 1.5), mode="nearest")
    np.testing.assert_allclose(first.displacement.numpy(), expected, atol=1e-6)
    assert rest[0] is known
    assert torch.allclose(rest[1].world_matrix(), matrix.world_matrix())


def test_the_command_says_what_each_stage_gained(warpzoo: Callable, tmp_path: Path) -> None:
    image = smooth((32, 30))
    for name, array in (("a", image), ("b", np.roll(image, 3, 0)), ("c", image)):
        sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.float32)), str(tmp_path / f"{name}.nii.gz"))
    for moving, left_out in (("b", 0), ("c", 3)):  # of equal images nothing makes more
        said = warpzoo("register", tmp_path / "a.nii.gz", tmp_path / f"{moving}.nii.gz", "--output", tmp_path / moving)
        line = next(line for line in said.out.splitlines() if line.startswith("alike: start "))
        assert [name in line for name in ("affine", "any_2d", "svf")] == [True] * 3
        numbers = json.loads((tmp_path / moving / "metrics.json").read_text())
        assert line.count("(left out)") == len(numbers["left_out"])
        assert len(numbers["left_out"]) == left_out if left_out else len(numbers["left_out"]) < 3


def test_the_command_takes_a_quality(warpzoo: Callable, tmp_path: Path) -> None:
    for number in range(2):
        sitk.WriteImage(
            sitk.GetImageFromArray(np.roll(smooth((40, 36)), number, 0).astype(np.uint16)), tmp_path / f"{number}.png"
        )
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    ended = warpzoo("register", *files, "--quality", "fast", "--output", tmp_path / "out", "--save", "transform")
    assert ended.code == 0
    numbers = json.loads((tmp_path / "out/metrics.json").read_text())
    assert numbers["settings"]["quality"] == "fast"
    assert numbers["method"] == "affine,fcn_multires:any_2d,svf"
    wrong = warpzoo("register", *files, "--quality", "good", "--output", tmp_path / "none")
    assert wrong.code != 0
    assert "quality must be one of fast, usual, best" in wrong.err
    assert not (tmp_path / "none").exists()


def test_weights_of_ones_own_take_the_place_of_the_network_for_any_pair() -> None:
    shipped = str(find_bundle("fcn_multires").weights(["any_2d"]))
    assert names(weights=shipped, quality="fast") == ["affine", "fcn_multires", "svf", "svf"]
    assert names(weights=shipped) == ["fcn_multires"]
    fixed = smooth((48, 56))
    moving = np.roll(fixed, 3, 1)
    ours, again = (
        warpzoo.register(fixed, moving, quality="fast", **options).registration.displacement.displacement
        for options in ({}, {"weights": shipped})
    )
    assert torch.equal(ours, again)
    with pytest.raises(ValueError, match="2-D"):
        warpzoo.register(smooth((20, 22, 18)), smooth((20, 22, 18)), quality="fast", weights=shipped)


@pytest.mark.parametrize(
    ("truth", "apart", "budget", "expected"),
    [
        (0.0, 0.0, None, ["far", "near", "near"]),
        (12.0, 0.0, None, ["far", "near", "far"]),
        (0.0, 60.0, None, ["far", "far"]),
        (0.0, 0.0, Budget(9.0, seconds=True), ["far", "far"]),
    ],
)
def test_a_far_placement_must_make_images_more_alike_than_a_near_one(
    monkeypatch: pytest.MonkeyPatch, truth: float, apart: float, budget: Budget | None, expected: list[str]
) -> None:
    content = torch.from_numpy(100 * smooth((96, 64))).float()
    fixed, moving = content[20:84][None], content[20 - int(truth) : 84 - int(truth)][None]
    matrix = np.eye(3)
    matrix[0, 2] = apart
    pair = Image.in_memory(fixed, Grid((64, 64))), Image.in_memory(moving, Grid((64, 64), matrix))
    shift = torch.tensor([[[1.0, 0.0, 12.0], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    calls = []

    def optimise(method: str, *arguments: object, **options: object) -> Affine:
        start = arguments[4]
        calls.append("far" if start is None else "near")
        return Affine.from_world(shift, pair[0].grid) if start is None else start  # type: ignore[return-value]

    monkeypatch.setattr(optimisation, "optimise", optimise)
    found = BetweenContrasts("affine", budget=budget)(*pair, None)
    moved = float(found.field(pair[0].grid).abs().max())
    assert [*calls, "far" if moved > 6 else "near"] == expected


@pytest.mark.parametrize(("seen", "expected"), [(1.0, "windows"), (-3.0, "start")])
def test_a_deformation_by_mutual_information_that_goes_astray_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, seen: float, expected: str
) -> None:
    """What windows find instead is, if mutual information gains by it, too; `seen` times the truth."""
    shape, rng = (64, 64), np.random.default_rng(0)
    content, known = smooth(shape), known_displacement(shape)
    fixed = ndimage.map_coordinates(content, np.indices(shape) + known, order=1)
    noise = 0.5 * content.std() * rng.normal(size=(2, *shape))
    pair = [
        Image.in_memory(torch.from_numpy(one + some)[None].float(), Grid(shape), "a")
        for one, some in zip((fixed, content), noise, strict=True)
    ]

    def times(share: float) -> DisplacementField:
        return DisplacementField(torch.from_numpy(share * known)[None].float(), pair[0].grid)

    def optimise(method: str, *arguments: object, **options: object) -> DisplacementField:
        return times(-6.0) if arguments[-1] == "mi" else times(seen)

    monkeypatch.setattr(optimisation, "optimise", optimise)
    monkeypatch.setattr(contrasts, "UNLIKE", 1.0)
    found = BetweenContrasts("svf", levels=2)(*pair, times(0.5))
    wanted = times({"windows": seen, "start": 0.5}[expected])
    assert torch.equal(found.field(pair[0].grid), wanted.field(pair[0].grid))
