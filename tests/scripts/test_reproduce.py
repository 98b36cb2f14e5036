"""`scripts/reproduce.py` on made-up archives of the real ones' layout: its numbers, its pages, its complaints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor, nn

import warpzoo
from warpzoo.geometry.composition import identity
from warpzoo.geometry.grid import Grid
from warpzoo.registration.descent import Interrupted

SCRIPTS = Path(__file__).parents[2] / "scripts"
SIZE = 48
SHIFT = 3
SIDE = 32


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import reproduce

    return reproduce


@pytest.fixture
def without_elastix(reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import dirnet_cardiac

    monkeypatch.setattr(dirnet_cardiac, "installed_version", lambda _: None)


@pytest.fixture
def data(bundle: Callable[[str], Path], tmp_path: Path) -> Path:
    """Discs that move by SHIFT along the first axis from end-diastole to end-systole; bars as digits."""
    config = json.loads((bundle("dirnet") / "configs" / "train.json").read_text())
    subjects = [*config["test_subjects"][:2], config["validation_subjects"][0], "SC-OTHER"]
    generator = np.random.default_rng(0)
    count = len(subjects)
    centres = generator.uniform(20, 28, (count, 2))
    arrays = {}
    for name, shift in (("ed", 0), ("es", SHIFT)):
        x, y = np.mgrid[:SIZE, :SIZE]
        distance = np.hypot(x - centres[:, 0, None, None] - shift, y - centres[:, 1, None, None])
        arrays[name] = (40 + 120 / (1 + np.exp(distance - 8))).astype(np.uint8)
        arrays[f"{name}_lv"] = distance < 8
    (tmp_path / "cardiac").mkdir()
    np.savez(
        tmp_path / "cardiac" / "sunnybrook_ed_es_pairs.npz",
        subject=np.array(subjects),
        slice=np.arange(count) + 1,
        **arrays,
    )
    return tmp_path


def make_weights(
    bundle: Path, folder: Path, name: str, *overrides: str, motion: tuple[float, ...] = (SHIFT, 0)
) -> nn.Module:
    """A network of that variant whose last layer predicts the same small motion everywhere, and its weights' file."""
    config = ConfigParser()
    files = ["train.json", *(f"variants/{override}.json" for override in overrides)]
    config.read_config([str(bundle / "configs" / file) for file in files])
    network = config.get_parsed_content("network_def")
    last = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Conv3d))][-1]
    last.bias.data = torch.tensor(motion, dtype=torch.float32)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / name)
    return network


@pytest.mark.usefixtures("without_elastix")
def test_cardiac_rows_are_measured_and_missing_ones_named(
    reproduce: ModuleType, bundle: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    make_weights(bundle("dirnet"), tmp_path / "models", "model.pt")
    make_weights(bundle("dirnet"), tmp_path / "models", "b1.pt", "paper", "b1")
    arguments = ["dirnet", "--only", "cardiac", "--data", str(data), "--weights", str(tmp_path / "models")]
    assert reproduce.main([*arguments, "--output", str(tmp_path / "out")]) == 0

    result = json.loads((tmp_path / "out" / "results.json").read_text())["cardiac"]
    assert len(result["pairs"]) == 4  # two test subjects, one slice, both ways
    assert set(result["rows"]) == {"before", "B1", "ours", "voxelmorph_dense"}
    forth = result["pairs"].index(next(pair for pair in result["pairs"] if pair.endswith("ed")))
    back = result["pairs"].index(next(pair for pair in result["pairs"] if pair.endswith("es")))
    for row in ("B1", "ours"):  # the displacement is right from end-systole to end-diastole, and wrong for the way back
        numbers = result["rows"][row]
        assert numbers["dice"][forth] == 1
        assert numbers["hd95"][forth] == 0
        assert numbers["dice"][back] < result["rows"]["before"]["dice"][back]
        assert numbers["hd95"][back] == pytest.approx(2 * SHIFT, abs=0.5)
        assert numbers["folding"][forth] == 0
        assert numbers["seconds"][forth] > 0
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| C2 | not trained |" in page
    assert "| elastix | not installed |" in page
    assert (tmp_path / "out" / "figures" / "cardiac.png").stat().st_size > 10_000


def test_a_row_is_what_the_network_predicts_and_a_user_gets(
    reproduce: ModuleType, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    from experiments.common import registered, trained_methods

    network = make_weights(bundle("dirnet"), tmp_path, "model.pt").eval()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    image = torch.from_numpy(gaussian_filter(np.random.default_rng(0).standard_normal((2, 50, 44)), (0, 3, 3))).float()
    prediction, seconds = registered(image, trained_methods(bundle("dirnet"), tmp_path, {"ours": {}})["ours"])
    assert float(prediction[:, 1:].std()) > 0.1
    torch.testing.assert_close(prediction, network(image[None]).detach(), atol=1e-4, rtol=0)
    assert seconds > 0
    weights = str(tmp_path / "model.pt")
    result = warpzoo.register(image[1], image[0], method=str(bundle("dirnet")), weights=weights, device="cpu")
    torch.testing.assert_close(result.registration.displacement.displacement, prediction[:, 1:])
    same, none = registered(image, [])
    assert np.isnan(none)
    assert torch.equal(same[0, 1:], torch.zeros(2, 50, 44))


def test_ctrl_c_ends_a_table(reproduce: ModuleType) -> None:
    from experiments.common import Peer, registered

    def interrupted(fixed: Tensor, moving: Tensor) -> Tensor:
        raise Interrupted(identity(Grid(fixed.shape)))

    with pytest.raises(KeyboardInterrupt) as raised:
        registered(torch.rand(2, 20, 20), [Peer("peer", interrupted)])
    assert not isinstance(raised.value, Interrupted)


@pytest.mark.slow  # importing itk
def test_elastix_finds_the_shift(reproduce: ModuleType, data: Path) -> None:
    pytest.importorskip("itk")
    from experiments import elastix
    from experiments.common import installed_version

    if installed_version(elastix.PACKAGE) is None:
        pytest.skip("itk-elastix is not installed")
    with np.load(data / "cardiac" / "sunnybrook_ed_es_pairs.npz") as archive:
        moving, fixed, label = (torch.from_numpy(archive[name][0].copy()) for name in ("es", "ed", "ed_lv"))
    displacement = elastix.displacement(fixed.float(), moving.float())
    inside = displacement[0, :, label].mean(1)
    assert inside[0] == pytest.approx(SHIFT, abs=0.3)
    assert inside[1] == pytest.approx(0, abs=0.3)
    warped = warped_by_scipy(moving, displacement)
    assert np.abs(warped - fixed.numpy()).mean() < 0.2 * float((moving.float() - fixed).abs().mean())


def warped_by_scipy(moving: Tensor, displacement: Tensor) -> np.ndarray:
    places = np.indices(moving.shape) + displacement[0].numpy()
    return map_coordinates(moving.numpy().astype(float), places, order=1, mode="nearest")


@pytest.fixture
def hippocampi(
    reproduce: ModuleType, bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Two-coloured balls that lie SHIFT to either side of the first along an axis, on scales of their own; the bundle
    works on small volumes, for a moment only."""
    from experiments import fcn_multires_hippocampus
    from experiments.common import read_config

    from warpzoo.registration import optimisation
    from warpzoo.registration.budget import Budget

    monkeypatch.setattr(fcn_multires_hippocampus, "installed_version", lambda _: None)
    monkeypatch.setitem(fcn_multires_hippocampus.NETWORKS, "refined", {"refine": 6})
    monkeypatch.setitem(fcn_multires_hippocampus.NETWORKS, "adapted", {"adapt": 1})
    for method in ("affine", "svf", "ffd"):
        monkeypatch.setitem(optimisation.BUDGET, method, Budget(10))
    monkeypatch.setattr(fcn_multires_hippocampus, "OTHER_BUNDLE", "without_weights")
    monkeypatch.setattr(fcn_multires_hippocampus, "read_config", partial(read_config, size=[SIDE] * 3))
    config = json.loads((bundle("fcn_multires") / "configs" / "train.json").read_text())

    data = tmp_path / "data"
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (data / "hippocampus" / kind).mkdir(parents=True)
    chosen = {name: ConfigParser(config).get_parsed_content(f"{name}_subjects") for name in ("test", "validation")}
    names = [*chosen["test"][:3], *chosen["validation"][:2], "first.nii.gz", "second.nii.gz"]
    for index, name in enumerate(names):
        x, y, z = np.mgrid[:SIDE, : SIDE - 2, : SIDE - 3] - np.array([11, 10, 10]).reshape(3, 1, 1, 1)
        x = x - SHIFT * (0, 1, -1)[index % 3]
        distance = np.sqrt(x**2 + y**2 + z**2)
        image = 10.0 ** generator.integers(0, 5) * (2 + 4 / (1 + np.exp(distance - 6)) + np.tanh(y))
        labels = np.where(distance < 6, np.where(y < 0, 1, 2), 0)
        for kind, array in (("images", image.astype(np.float32)), ("labels", labels.astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), data / "hippocampus" / kind / name)
    return data


def test_hippocampi_are_measured_and_averaged(
    reproduce: ModuleType, bundle: Callable[[str], Path], hippocampi: Path, tmp_path: Path
) -> None:
    models, out = tmp_path / "models", tmp_path / "out"
    make_weights(bundle("fcn_multires"), models, "coarse.pt", "paper", "coarse", motion=(SHIFT / 4, 0, 0))
    make_weights(bundle("fcn_multires"), models, "plain.pt", "plain", motion=(SHIFT / 2, 0, 0))
    make_weights(bundle("fcn_multires"), models, "model.pt", motion=(SHIFT / 2, 0, 0))  # the same both ways: none
    arguments = [
        "fcn_multires",
        "--only",
        "hippocampus",
        "--data",
        str(hippocampi),
        "--weights",
        str(models),
        "--output",
        str(out),
    ]
    assert reproduce.main(arguments) == 0

    result = json.loads((out / "results.json").read_text())["hippocampus"]
    assert len(result["pairs"]) == 2  # three test subjects, two of them onto the first
    assert all(pair.endswith(result["fixed"]) for pair in result["pairs"])
    rows = result["rows"]
    placed = {"placed", "placed_twice", "placed_refined", "placed_spline", "placed_dirnet"}
    assert set(rows) == {"before", "coarse", "plain", "ours", "twice", *placed, "refined", "adapted", "optimised"}
    for row in ("coarse", "plain"):  # the displacement is right for the first pair, and wrong for the second
        for structure in ("whole", "anterior", "posterior"):
            right, wrong = rows[row][f"dice_{structure}"]
            assert right == 1
            assert wrong < rows["before"][f"dice_{structure}"][1] < 1
        assert rows[row]["folding"] == rows[row]["folding_corners"] == [0, 0]
    assert rows["ours"]["ncc"] == pytest.approx(rows["before"]["ncc"], abs=1e-4)
    for row in ("refined", "optimised"):
        assert min(np.subtract(rows[row]["ncc"], rows["before"]["ncc"])) > 0
    assert rows["before"]["seconds"] == [None, None]
    assert min(rows["adapted"]["seconds"]) > 0

    means = result["means"]
    assert means["fixed"]["agreement"] == 1
    assert means["coarse"]["agreement"] == pytest.approx((1 + ball_overlap(2 * SHIFT)) / 2, abs=0.02)
    assert means["before"]["agreement"] == pytest.approx(ball_overlap(SHIFT), abs=0.02)
    assert means["before"]["sharpness"] < means["fixed"]["sharpness"]
    correlations = result["correlations"]
    assert {name: len(values["before"]) for name, values in correlations.items()} == {
        "training": 2,
        "validation": 2,
        "test": 6,
    }
    page = (out / "results.md").read_text()
    assert "| ANTs SyN | not installed |" in page
    assert "| no pooling | not trained |" in page
    assert (out / "figures" / "hippocampus.png").stat().st_size > 10_000


def ball_overlap(apart: float, radius: int = 6) -> float:
    """Which share of a ball's voxels lies in another so far away."""
    x, y, z = np.mgrid[-20:21, -20:21, -20:21]
    first, second = (np.sqrt((x - shift) ** 2 + y**2 + z**2) < radius for shift in (0, apart))
    return float((first & second).sum() / first.sum())


@pytest.mark.slow  # importing ants
def test_ants_finds_the_shift(reproduce: ModuleType) -> None:
    pytest.importorskip("ants")
    from experiments import ants

    shifts = (2, -1, 3)
    volume = gaussian_filter(np.random.default_rng(0).standard_normal((36, 34, 32)), 2.5)
    moving = volume[4:28, 4:28, 4:28]
    fixed = volume[tuple(slice(4 + shift, 28 + shift) for shift in shifts)]  # fixed(x) = moving(x + shift)
    displacement = ants.displacement(*(torch.from_numpy(image).float() for image in (fixed + 1, 1000 * (moving + 1))))
    inside = (slice(None), slice(6, 18), slice(6, 18), slice(6, 18))
    found = displacement[0][inside].flatten(1).mean(1)
    assert found.tolist() == pytest.approx(shifts, abs=0.3)
    warped = warped_by_scipy(torch.from_numpy(moving), displacement)
    assert np.abs(warped - fixed)[inside[1:]].mean() < 0.1 * volume.std()


@pytest.mark.usefixtures("without_elastix")
def test_digits_are_averaged_and_the_other_results_kept(
    reproduce: ModuleType, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    bars = np.zeros((12, 28, 28), np.uint8)
    for index, row in enumerate(bars):
        row[4:20, 8 + index % 3 : 14 + index % 3] = 200
    (tmp_path / "mnist").mkdir()
    np.savez(tmp_path / "mnist" / "mnist_train.npz", x=bars, y=np.repeat([3, 5], 6))
    make_weights(bundle("dirnet"), tmp_path / "models", "digits/3.pt", "digits")
    (tmp_path / "out").mkdir()
    arguments = ["dirnet", "--only", "digits", "--data", str(tmp_path), "--weights", str(tmp_path / "models")]
    assert reproduce.main([*arguments, "--subset", "all", "--output", str(tmp_path / "out")]) == 0

    result = json.loads((tmp_path / "out" / "results.json").read_text())["digits"]
    assert list(result["classes"]) == ["3"]
    digits = result["classes"]["3"]
    drawn = int(np.random.default_rng((0, 3)).integers(6))
    others = np.delete(bars[:6], drawn, axis=0)
    oracle = [np.corrcoef(bars[drawn].ravel(), other.ravel())[0, 1] for other in others]
    assert digits["ncc_before"] == pytest.approx(oracle, abs=1e-4)
    mean_oracle = np.corrcoef(bars[drawn].ravel(), others.mean(0).ravel())[0, 1]
    assert digits["ncc_of_mean_before"] == pytest.approx(mean_oracle, abs=1e-4)
    assert np.mean(digits["ncc"]) < np.mean(digits["ncc_before"])  # these weights push upright bars along their axis
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| 3 | 5 |" in page
    assert "| 5 | not trained |" in page
    assert (tmp_path / "out" / "figures" / "digits.png").exists()


@pytest.mark.usefixtures("without_elastix")
def test_two_runs_agree_in_all_but_time(
    reproduce: ModuleType, bundle: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    make_weights(bundle("dirnet"), tmp_path / "models", "model.pt")
    rows = []
    for run in ("first", "second"):
        arguments = ["dirnet", "--only", "cardiac", "--data", str(data), "--weights", str(tmp_path / "models")]
        assert reproduce.main([*arguments, "--limit", "1", "--output", str(tmp_path / run)]) == 0
        numbers = json.loads((tmp_path / run / "results.json").read_text())["cardiac"]["rows"]
        rows.append(
            {row: {name: v for name, v in values.items() if name != "seconds"} for row, values in numbers.items()}
        )
    assert rows[0] == rows[1]
    assert len(rows[0]["ours"]["dice"]) == 1


@pytest.mark.usefixtures("without_elastix")
def test_complaints_are_one_clear_sentence(
    reproduce: ModuleType,
    bundle: Callable[[str], Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models, out = tmp_path / "models", tmp_path / "out"
    make_weights(bundle("dirnet"), models, "model.pt", "paper")  # weights of another variant
    common = ["dirnet", "--only", "cardiac", "--output", str(out)]
    for arguments, words in (
        (
            ["--data", str(tmp_path / "none"), "--weights", str(models)],
            f"data and weights must be folders, got {tmp_path / 'none'}",
        ),
        (["--data", str(models), "--weights", str(models)], "sunnybrook_ed_es_pairs.npz"),
        (["--data", str(data), "--weights", str(models)], "model.pt holds the weights of another network"),
    ):
        assert reproduce.main([*common, *arguments]) == 1
        assert words in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(SystemExit):
        reproduce.main(["dirnet", "--subset", "validation"])
    assert "--output" in capsys.readouterr().err


def test_rows_on_simulated_nuclei(
    reproduce: ModuleType, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from experiments import denoisereg_cells, denoisereg_trained, denoisereg_volumes

    from warpzoo.data.cells import cell_sequence

    for name, value in {"SHAPE": (64, 64), "FRAMES": 4, "BUDGET": "2"}.items():
        monkeypatch.setattr(denoisereg_trained, name, value)
    chosen = ("unregistered", "DenoiseReg", "DenoiseReg, refined", "DenoiseReg, refined, + svf, coarse")
    rows = {row: denoisereg_cells.ROWS[row] for row in chosen}
    monkeypatch.setattr(denoisereg_cells, "ROWS", {**rows, "not there": denoisereg_cells.Row("no_such_method")})
    monkeypatch.setattr(denoisereg_cells, "SNRS", (3.0, 1.5))
    small = partial(cell_sequence, shape=(64, 72), frames=5)
    monkeypatch.setattr(denoisereg_cells, "cell_sequence", small)
    monkeypatch.setattr(denoisereg_volumes, "ROWS", chosen)
    volume = partial(cell_sequence, shape=(16, 64, 56), frames=3, motion=6)
    monkeypatch.setattr(denoisereg_volumes, "cell_sequence", volume)
    arguments = ["denoisereg", "--data", str(tmp_path), "--limit", "1", "--output", str(tmp_path / "out")]
    assert reproduce.main(arguments) == 0
    result = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    entry = result["sequences"]["B1 at 3"]
    assert set(entry["rows"]) == {*chosen, "the true affine part"}
    errors = {row: np.mean(numbers["contour"] + numbers["interior"]) for row, numbers in entry["rows"].items()}
    assert errors["the true affine part"] < 0.5 * errors["unregistered"]
    assert errors["DenoiseReg, refined"] < 0.6 * errors["unregistered"]
    assert entry["psnr"][1] > entry["psnr"][0] + 6
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| DenoiseReg, refined |" in page
    volumes = json.loads((tmp_path / "out" / "results.json").read_text())["volumes"]
    assert volumes["shape"] == [16, 64, 56]
    (entry,) = volumes["snr"].values()
    errors = {row: np.mean(numbers["contour"] + numbers["interior"]) for row, numbers in entry["rows"].items()}
    assert errors["the true affine part"] < errors["DenoiseReg, refined"] < 0.6 * errors["unregistered"]
    assert entry["psnr"][1] > entry["psnr"][0] + 6
    assert "| SNR 3, contour |" in page
    (trained,) = json.loads((tmp_path / "out" / "results.json").read_text())["trained"]["sequences"].values()
    assert trained["as shipped"] < 0.6 * trained["unregistered"]
    assert trained["as shipped"] != trained["trained for 3min"]
    assert "| as shipped, refined |" in page
    assert (tmp_path / "out" / "figures" / "cells.png").stat().st_size > 10_000


def test_any_two_images_by_every_tool_go_on_where_they_stopped(
    reproduce: ModuleType, hippocampi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool here leaves the moving image where it is, and is 1 mm off; the third call is stopped."""
    from experiments import fcn_multires_any, pairs

    done: list[tuple[str, str]] = []

    def by_tool(case: pairs.Case, tool: str) -> dict[str, object]:
        if len(done) == 2:
            done.append(("", ""))
            raise KeyboardInterrupt
        done.append((case.kind, tool))
        dice = pairs.dice(case.fixed_labels, case.moving_labels)
        return {"kind": case.kind, "pair": case.name, "tool": tool, "dice": dice} | {
            "error_mm": 1.0,
            "folds": 0.0,
            "seconds": 2.0,
            "memory_gb": 0.5,
        }

    def cases(_: object) -> list[pairs.Case]:
        files = sorted((hippocampi / "hippocampus" / "images").iterdir())[:2]
        return [pairs.subjects(*files), pairs.subjects(*files[::-1])]

    monkeypatch.setattr(fcn_multires_any, "by_tool", by_tool)
    monkeypatch.setattr(fcn_multires_any, "cases", cases)
    arguments = ["fcn_multires", "--only", "any", "--data", str(hippocampi), "--output", str(tmp_path / "out")]
    with pytest.raises(KeyboardInterrupt):
        reproduce.main(arguments)
    assert reproduce.main(arguments) == 0
    tools = fcn_multires_any.KINDS["hippocampus"]
    assert done == [
        *(("hippocampus", tool) for tool in tools[:2]),
        ("", ""),
        *(("hippocampus", tool) for tool in (tools * 2)[2:]),
    ]
    assert [*(tmp_path / "out").glob("any*")] == []
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["any"]["rows"]
    assert [row["tool"] for row in rows] == [*tools, *tools]
    text = (tmp_path / "out" / "results.md").read_text()
    assert (
        f"| hippocampus (2) | usual | 1.000 | {np.mean([row['dice'] for row in rows]):.3f} | 0 % | 2.0 s | 0.50 GB |"
        in text
    )
    other = dict(rows[0], dice=9.0)
    (tmp_path / "out" / "any.unfinished.json").write_text(json.dumps({"about": {"seed": 5}, "rows": [other]}))
    assert reproduce.main(arguments) == 0
    assert other not in json.loads((tmp_path / "out" / "results.json").read_text())["any"]["rows"]


def test_thick_slices_lie_where_what_they_are_the_mean_of_lies(reproduce: ModuleType) -> None:
    """Of images whose values are a coordinate of their voxels in the world, a slice has that of its own place."""
    from experiments import pairs

    affine = np.array([[0, 0, 1.5, -4.0], [0, 2.0, 0, 3.0], [-1.0, 0, 0, 8.0], [0, 0, 0, 1]])
    voxels = np.stack(np.indices((6, 5, 14)), -1)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    case = pairs.Case("inverted", "a", world[..., 0], world[..., 0], affine, affine, moving_labels=world[..., 2])
    made = pairs.thick(case, 4)
    assert made.kind == "inverted, slices of 6 mm"
    assert made.moving.shape == (6, 5, 3)
    places = np.stack(np.indices(made.moving.shape), -1) @ made.moving_affine[:3, :3].T + made.moving_affine[:3, 3]
    np.testing.assert_allclose(made.moving, places[..., 0])
    np.testing.assert_allclose(made.moving_labels, places[..., 2])


def test_any_two_images_in_2d(reproduce: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that knows the truth has no error, and none that of the deformation."""
    from experiments import fcn_multires_any_2d, pairs

    image = gaussian_filter(np.random.default_rng(0).random((60, 64)), 3).astype(np.float32)
    case = pairs.deformed(image - image.min(), np.eye(3), None, "a", 3)
    known = np.moveaxis(case.truth, -1, 0) - np.indices(case.fixed.shape)
    monkeypatch.setattr(fcn_multires_any_2d, "cases", lambda _: [case])
    monkeypatch.setattr(fcn_multires_any_2d, "OURS", ("fast",))
    monkeypatch.setattr(fcn_multires_any_2d, "CHAINS", {})
    monkeypatch.setattr(fcn_multires_any_2d, "PEERS", {"truth": lambda *_: torch.from_numpy(known)[None]})
    arguments = ["any", "--only", "any_2d", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert reproduce.main(arguments) == 0
    rows = {row["tool"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["any_2d"]["rows"]}
    shown = case.fixed > 0.2 * np.percentile(case.fixed, 99)
    assert rows["none"]["error"] == pytest.approx(np.linalg.norm(known, axis=0)[shown].mean(), rel=1e-5)
    assert rows["truth"]["error"] < 1e-4
    for tool in ("fast", "usual, kind left out"):
        assert rows[tool]["error"] < 0.5 * rows["none"]["error"]
    assert "| known deformation (1) | truth | 0.000 |" in (tmp_path / "out" / "results.md").read_text()


def test_placements_in_2d(
    reproduce: ModuleType, bundle: Callable[[str], Path], data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where there is something to see, the optimiser finds it, also from where the network has looked."""
    from experiments import stn_affine_flat

    monkeypatch.setattr(stn_affine_flat, "PEERS", {})
    monkeypatch.setattr(stn_affine_flat, "COUNT", 1)
    noise = np.random.default_rng(0).normal(size=(96, 96))
    body = gaussian_filter(np.pad(np.ones((40, 56)), ((28, 28), (20, 20))), 3)
    image = (body * (1 + 4 * gaussian_filter(noise, 3))).clip(0).astype(np.float32)
    (data / "brain" / "oasis_2d").mkdir(parents=True)
    for number in range(10):
        sitk.WriteImage(sitk.GetImageFromArray(image), data / "brain" / "oasis_2d" / f"{number}.nrrd")
    arguments = ["stn_affine", "--only", "flat", "--data", str(data), "--output", str(tmp_path / "out")]
    assert reproduce.main(arguments) == 0
    sets = json.loads((tmp_path / "out" / "results.json").read_text())["flat"]["sets"]
    assert list(sets) == [
        f"{kind}, {placed}" for placed in ("up to 45°", "60 to 180°") for kind in ("hearts", "brains")
    ]
    errors = {row: numbers["error"][0] for row, numbers in sets["brains, up to 45°"].items()}
    assert errors["none"] > 5
    assert errors["affine"] < 0.3
    assert errors["ours + refine"] < 0.3
    assert "Slices of brains of OASIS, each and itself: 1." in (tmp_path / "out" / "results.md").read_text()


def test_a_large_pair_is_registered_from_files_to_files(reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import large_ct

    monkeypatch.setattr(large_ct, "SHIFT", 1.5)
    monkeypatch.setattr(large_ct, "STEP", 4)
    row = large_ct.measured(["--method", "affine,svf"], threads=1, seed=0, shape=(72, 72, 48))
    assert 1 < row["before_mm"] < 3
    assert row["error_mm"] < 0.5 * row["before_mm"]
    assert row["memory_gb"] > 0.1


def test_volumes_of_a_kind_that_was_left_out(
    reproduce: ModuleType, hippocampi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind is registered with the weights that have not seen it."""
    from experiments import fcn_multires_left_out, pairs

    used: dict[str, str] = {}

    def by_tool(case: pairs.Case, tool: str, tools: dict[str, Callable]) -> dict[str, object]:
        words = tools[tool]("register")[0]
        if tool == fcn_multires_left_out.UNSEEN:
            used[case.kind] = words[words.index("--weights") + 1]
            assert words[words.index("--quality") + 1] == "usual"
        measured = {"dice": 0.7, "folds": 0.0, "seconds": 2.0, "memory_gb": 0.5}
        return {"kind": case.kind, "pair": case.name, "tool": tool} | measured

    def cases(_: object) -> list[pairs.Case]:
        case = pairs.subjects(*sorted((hippocampi / "hippocampus" / "images").iterdir())[:2])
        return [replace(case, kind=kind) for kind in ("known deformation", "inverted", "hippocampus")]

    monkeypatch.setattr(fcn_multires_left_out, "by_tool", by_tool)
    monkeypatch.setattr(fcn_multires_left_out, "cases", cases)
    arguments = ["fcn_multires", "--only", "left_out", "--data", str(hippocampi), "--output", str(tmp_path / "out")]
    assert reproduce.main(arguments) == 0
    folder = fcn_multires_left_out.FOLDER
    assert used == {
        "known deformation": str(folder / "brains_3d.pt"),
        "hippocampus": str(folder / "hippocampi.pt"),
    }
    assert all(map(Path.exists, map(Path, used.values())))
    assert "| hippocampus (1) | usual, kind left out |  | 0.700 |" in (tmp_path / "out" / "results.md").read_text()
