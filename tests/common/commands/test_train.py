"""`warpzoo check` and `warpzoo train`, from a folder of files to a registration with what was learnt from them."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from warpzoo.__main__ import run as command
from warpzoo.bundles import open_bundle, overrides
from warpzoo.commands.check import check
from warpzoo.commands.register import register
from warpzoo.commands.train import train
from warpzoo.errors import plain_reason
from warpzoo.networks import read_about

AXES = ("RAS", "LPS", "PIR")
SMALL = {"network_def#channels": [4, 6, 8], "network_def#estimators": [4, 6, 6], "batch_size": 2, "device": "cpu"}
SHORT = {**SMALL, "epochs": 2, "steps_per_epoch": 2, "val_interval": 1}


def blob(seed, shape=(32, 36, 30)):
    """A bright ball somewhere near the middle, in noise."""
    random = np.random.default_rng(seed)
    grid, centre = np.indices(shape), np.array(shape) / 2 + random.uniform(-3, 3, 3)
    distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))
    return (100 / (1 + np.exp(distance - 7)) + random.normal(0, 2, shape)).astype(np.float32)


def stored(array, axes="RAS", spacing=1.0):
    """A NIfTI of the volume whose axes are stored in that order and direction."""
    image = nib.Nifti1Image(array, np.diag([spacing] * 3 + [1]))
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
    )
    return image.as_reoriented(change)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """12 volumes in three orientations and two spacings, and three files that cannot be trained on."""
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(12):
        coarse = number >= 9
        volume = blob(number, (16, 18, 15)) if coarse else blob(number)
        nib.save(stored(volume, AXES[number % 3], 2.0 if coarse else 1.0), folder / f"{number:02}.nii.gz")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / "colour.png")
    nib.save(nib.Nifti1Image(np.full((32, 36, 30), 7, np.float32), np.eye(4)), folder / "constant.nii.gz")
    whole = (folder / "00.nii.gz").read_bytes()
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def alike(mixed, tmp_path_factory):
    """The 12 volumes stored alike: in RAS, and at 1 mm by SimpleITK."""
    folder = tmp_path_factory.mktemp("alike")
    for path in sorted(mixed.glob("[01]*.nii.gz")):
        image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")  # of ITK's axes: those of RAS, both signs turned
        if image.GetSpacing()[0] > 1.5:
            resample = sitk.ResampleImageFilter()
            resample.SetSize([2 * side for side in image.GetSize()])
            resample.SetOutputSpacing([1.0] * 3)
            resample.SetOutputDirection(image.GetDirection())
            resample.SetOutputOrigin(image.TransformContinuousIndexToPhysicalPoint([-0.25] * 3))
            image = resample.Execute(image)
        array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)[::-1, ::-1]
        nib.save(nib.Nifti1Image(np.ascontiguousarray(array), np.eye(4)), folder / path.name)
    return folder


def weights(path):
    return torch.load(path, weights_only=True)


def test_check_says_everything_in_one_table(mixed, capsys):
    with pytest.raises(ValueError, match=r"^3 of 15 images cannot be trained on: colour\.png, constant\.nii\.gz, tr"):
        check(str(mixed), method="fcn_multires")
    printed = capsys.readouterr().out
    for number in range(12):
        line = next(line for line in printed.splitlines() if line.startswith(f"{number:02}.nii.gz"))
        size, spacing = ("16 × 18 × 15", "2 × 2 × 2") if number >= 9 else ("32 × 36 × 30", "1 × 1 × 1")
        assert re.search(rf"{size} +{spacing} +{AXES[number % 3]} +float32 +-?\d", line), line
    for name, why in {"colour.png": "is a colour image", "constant": "is constant (7)", "truncated": "damaged"}.items():
        place = next(n for n, line in enumerate(printed.splitlines()) if line.startswith(name))
        assert why in printed.splitlines()[place + 1]
    assert "working grid: 32 × 36 × 32 voxels of 1 × 1 × 1 mm, axes RAS" in printed
    assert "turned: 8 of 12 images, stored as 4 LPS, 4 PIR" in printed
    assert "resampled: 3 of 12 images (3 of 2 × 2 × 2 mm), linearly" in printed
    assert re.search(r"padded: 12 of 12 images; 6\.2 % of the grid repeats their edge", printed)


def test_check_says_what_is_lost_and_what_is_doubtful(alike, tmp_path, capsys):
    for number in range(3):
        (tmp_path / f"{number}.nii.gz").write_bytes((alike / f"0{min(number, 1)}.nii.gz").read_bytes())
    labels = (blob(1) > 50).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "labels.nii.gz")
    check(str(tmp_path), size="16,36,30")
    printed = capsys.readouterr().out
    assert re.search(r"cropped: 4 of 4 images; 50\.0 % of their voxels are cut off in the mean, 50\.0 % in", printed)
    assert "warning: the same image 2 times: 1.nii.gz, 2.nii.gz" in printed
    assert "warning: labels.nii.gz has 2 different whole numbers: is it a label map?" in printed


def test_volumes_train_alike_however_they_are_stored(mixed, alike, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"^3 of 15 images cannot be trained on.*leave it out \(--skip\)\.$"):
        train("fcn_multires", str(mixed), output=str(tmp_path / "mixed"), **SHORT)
    assert not (tmp_path / "mixed").exists()
    # Adam would make whole steps of interpolation's rounding errors where a gradient is zero
    descent = {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": "@learning_rate"}
    options = {**SHORT, "optimizer": descent, "learning_rate": 0.3}
    train("fcn_multires", str(mixed), output=str(tmp_path / "mixed"), skip=True, **options)
    train("fcn_multires", str(alike), output=str(tmp_path / "alike"), **options)
    ours, theirs = (weights(tmp_path / name / "last.pt")["network"] for name in ("mixed", "alike"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-4)
    train("fcn_multires", str(alike), output=str(tmp_path / "still"), **{**options, "learning_rate": 0.0})
    still = weights(tmp_path / "still" / "last.pt")["network"]
    assert max(float((still[name] - value).norm()) for name, value in theirs.items()) > 1e-2  # they have learnt
    assert "left out: 3 of 15 images: colour.png, constant.nii.gz, truncated.nii.gz" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(alike, tmp_path_factory):
    """A run of the command and what it printed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    script = [sys.executable, "-m", "warpzoo", "train", "voxelmorph_dense", str(alike), "--output", str(folder)]
    options = {**SHORT, "network_def#channels": [4, 6, 6, 6], "network_def#features": 4}
    del options["network_def#estimators"]
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run([*script, *words], capture_output=True, text=True, check=True, timeout=600)
    return folder, done.stdout


def test_a_run_ends_with_its_best_and_leaves_its_records(trained, alike):
    folder, printed = trained
    run = json.loads((folder / "run.json").read_text())
    best = max(row["ncc"] for row in run["epochs"])
    assert re.search(rf"{folder}/model\.pt: best ncc {best:.4f} at epoch [12] of 2; .*{folder}/report\.html", printed)
    assert {"model.pt", "last.pt", "run.json", "report.html", "pictures", "tensorboard"} <= {
        path.name for path in folder.iterdir()
    }
    assert run["config"]["epochs"] == 2
    assert run["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", run["commit"])
    assert run["versions"]["torch"] == torch.__version__
    assert {**run["data"]["train"], **run["data"]["validation"]}.keys() == {path.name for path in alike.iterdir()}
    page = (folder / "report.html").read_text()
    assert "has ended" in page
    assert all(name in page for name in ("loss", "similarity", "regularity", "ncc", "epoch_0002.png"))


def test_weights_know_their_network(trained, alike, tmp_path):
    folder, _ = trained
    images = [str(alike / f"{number:02}.nii.gz") for number in (0, 1)]
    register(*images, weights=str(folder / "model.pt"), output=str(tmp_path), report=False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["settings"]["method"] == "voxelmorph_dense"
    assert not [warning for warning in metrics["warnings"] if "trained" in warning]
    plain = tmp_path / "plain.pt"
    torch.save(dict(weights(folder / "model.pt")), plain)
    with pytest.raises(ValueError, match=r"method must be given: .*plain\.pt does not say which network it is of"):
        register(*images, weights=str(plain), output=str(tmp_path))
    with pytest.raises(ValueError, match=r"model\.pt holds the weights of voxelmorph_dense; method must be that"):
        register(*images, method="fcn_multires", weights=str(folder / "model.pt"), output=str(tmp_path))


def test_a_run_once_more_gives_the_same_bytes(trained, alike, tmp_path, capsys):
    folder, _ = trained
    train(again=str(folder / "run.json"), output=str(tmp_path / "again"))
    assert (tmp_path / "again" / "model.pt").read_bytes() == (folder / "model.pt").read_bytes()
    record = json.loads((folder / "run.json").read_text())
    record["data"]["train"] = dict.fromkeys(record["data"]["train"], "0" * 64)
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"nii\.gz must be as it was in the run .*: it is another image"):
        train(again=str(tmp_path / "run.json"), output=str(tmp_path / "other"))
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"list\.json must be the run\.json of a training"):
        train(again=str(tmp_path / "list.json"), output=str(tmp_path / "other"))


def test_monais_command_does_the_same(trained, tmp_path):
    folder, printed = trained
    words = shlex.split(next(line for line in printed.splitlines() if "monai.bundle" in line))
    assert words[0] == "python"
    words = [str(tmp_path) if word == str(folder) else word for word in words]
    subprocess.run([sys.executable, *words[1:]], capture_output=True, check=True, timeout=600, cwd=tmp_path)
    assert (tmp_path / "model.pt").read_bytes() == (folder / "model.pt").read_bytes()


def test_a_run_is_neither_overwritten_nor_lost(trained, alike, tmp_path, capsys):
    train("fcn_multires", str(alike), output=str(tmp_path), **SHORT)
    before = weights(tmp_path / "last.pt")["network"]
    with pytest.raises(ValueError, match=r"last\.pt is there from an earlier run: .*\(overwrite\)"):
        train("fcn_multires", str(alike), output=str(tmp_path), **SHORT)
    train(output=str(tmp_path), resume=True)  # nothing is left to do
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "last.pt")["network"].items())
    train("fcn_multires", str(alike), output=str(tmp_path), overwrite=True, **{**SHORT, "seed": 5})
    assert not all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "last.pt")["network"].items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rat": 1e-4}, r"learning_rat is no setting of this configuration \(did you mean learning_rate\?\)"),
        (
            {"network_def#velocty": False},
            r"network_def#velocty is no setting .*\(did you mean network_def#velocity\?\)",
        ),
        ({"val_interval": "two"}, "val_interval must be a whole number, got 'two'"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"steps_per_epoch": -3}, "steps_per_epoch must be 0 or more, got -3"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be a whole number of 1 or more, got 0"),
        ({"patience": "no"}, "patience must be a whole number of 1 or more, got 'no'"),
        ({"precision": "fp4"}, "precision must be one of float32, bf16, got 'fp4'"),
        ({"device": "cuda"}, "device must be cpu where PyTorch finds no GPU, got 'cuda'"),
        ({"device": "tpuu"}, "device must be such as cpu, cuda or cuda:1, got 'tpuu'"),
        ({"epochs": 0}, "epochs must be a whole number of 1 or more, got 0"),
        ({"epochs": 2, "budget": "1h"}, "epochs and budget must not be given together"),
        ({"budget": "soon"}, "budget must be a time such as 60s or 10min, .*got 'soon'"),
        ({"size": "large"}, "size must be numbers joined by commas, such as 96,96,64, got 'large'"),
        ({"validation_subjects": ["00.nii"]}, r"got '00\.nii' \(did you mean 00\.nii\.gz\?\)"),
        ({"variant": "plian"}, r"variant must be one of .*got 'plian' \(did you mean plain\?\)"),
        ({"tracking": "mlfow"}, "tracking must be mlflow, or a file of settings .*got 'mlfow'"),
    ],
)
def test_what_is_misspelt_or_wrong_is_one_sentence(alike, tmp_path, options, message):
    if "cuda" in options.values() and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(Exception) as error:
        train("fcn_multires", str(alike), output=str(tmp_path / "run"), **{**SMALL, **options})
    assert re.search(message, plain_reason(error.value)), plain_reason(error.value)
    assert "\n" not in plain_reason(error.value)
    assert not (tmp_path / "run").exists()


def test_a_misspelt_method_is_one_sentence(alike, tmp_path):
    with pytest.raises(ValueError, match=r"method must be one of .*got 'fcn_multire' \(did you mean fcn_multires\?\)"):
        train("fcn_multire", str(alike), output=str(tmp_path))


def test_monais_command_refuses_what_is_misspelt(monkeypatch):
    """As `python -m monai.bundle` does, which initializes the configuration first; test_errors.py sees how it ends."""
    bundle = open_bundle(Path(__file__).parents[3] / "bundles" / "fcn_multires")
    files = [str(bundle.root / "configs" / name) for name in ("train.json", "variants/folder.json")]
    words = ["run", "--config_file", str(files), "--bundle_root", str(bundle.root), "--dataset_dir", "x"]
    monkeypatch.setattr(overrides, "is_monai_command", lambda: True)
    for wrong, message in (
        (["--learning_rat", "5"], r"learning_rat is no setting .* \(did you mean learning_rate\?\)"),
        (["--batch_size", "two"], "batch_size must be a whole number, got 'two'"),
        ([], None),
    ):
        monkeypatch.setattr(sys, "argv", ["monai.bundle", *words, *wrong])
        config = bundle.config("train", ["folder"])
        if message is None:
            config.get_parsed_content("initialize")
            continue
        with pytest.raises(RuntimeError) as error:
            config.get_parsed_content("initialize")
        assert re.match(message, plain_reason(error.value))


def test_a_budget_of_time_ends_with_a_rate_near_0_and_the_best_kept(alike, tmp_path):
    options = {**SMALL, "steps_per_epoch": 3, "val_interval": 1}
    train("fcn_multires", str(alike), output=str(tmp_path), budget="6s", **options)
    run = json.loads((tmp_path / "run.json").read_text())
    rates = [row["rate"] for row in run["epochs"]]
    assert rates[-1] < 0.35 * max(rates) <= 0.35 * run["settings"]["learning_rate"]
    assert rates == sorted(rates, reverse=True)
    assert "ncc" in run["epochs"][-1]  # the last step is validated, wherever in an epoch it is
    assert (tmp_path / "model.pt").exists()


def test_labels_choose_the_best_weights_and_flat_images_their_variant(tmp_path, capsys):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(5):
        image = blob(number)[:, :, 15]
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "images" / f"{number}.nii.gz")
        nib.save(nib.Nifti1Image((image > 50).astype(np.uint8), np.eye(4)), tmp_path / "labels" / f"{number}.nii.gz")
    options = {"labels": str(tmp_path / "labels"), "output": str(tmp_path / "run")}
    train("fcn_multires", str(tmp_path / "images"), **options, **SHORT)
    assert re.search(r"model\.pt: best dice [01]\.\d{4} at epoch", capsys.readouterr().out)
    about = read_about(tmp_path / "run" / "model.pt")
    assert (about["spatial_dims"], about["network_def"]["spatial_dims"]) == (2, 2)
    images = [str(tmp_path / "images" / f"{number}.nii.gz") for number in (0, 1)]
    register(*images, weights=str(tmp_path / "run" / "model.pt"), output=str(tmp_path / "out"), report=False)


def test_too_few_images_are_refused(alike, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.nii.gz").write_bytes((alike / f"0{number}.nii.gz").read_bytes())
    with pytest.raises(ValueError, match=r"must have images of 4 subjects or more, .* got 3 images of 3 subjects\."):
        train("fcn_multires", str(tmp_path), output=str(tmp_path / "run"), **SHORT)


def test_the_command_takes_settings_of_any_name(alike, tmp_path, capsys):
    words = ["fcn_multires", str(alike), "--output", str(tmp_path), "--dry_run", "--network_def#velocity", "false"]
    command("train", [*words, "--device", "cpu", "--learning_rate=0.5"])
    printed = capsys.readouterr().out
    assert "'--network_def#velocity' false" in printed
    assert "--learning_rate 0.5" in printed
    assert not list(tmp_path.iterdir())


def test_a_search_finds_the_better_rate_and_goes_on(alike, tmp_path, capsys):
    pytest.importorskip("optuna")
    (tmp_path / "space.json").write_text('{"learning_rate": [0.0, 0.01, 1e30], "similarity#window": [3, 5]}')
    options = {**SHORT, "output": str(tmp_path / "out"), "search": str(tmp_path / "space.json")}
    train("fcn_multires", str(alike), trials=2, **options)
    first = (tmp_path / "out" / "search.csv").read_text()
    train("fcn_multires", str(alike), trials=6, **options)
    with open(tmp_path / "out" / "search.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert {row["folder"] for row in csv.DictReader(first.splitlines())} <= {row["folder"] for row in rows}
    values = [float(row["value"]) for row in rows if row["value"]]
    assert values == sorted(values, reverse=True)
    for row in rows:  # the table says what the runs say
        if row["value"]:
            run = json.loads((tmp_path / "out" / row["folder"] / "run.json").read_text())
            assert max(one["ncc"] for one in run["epochs"]) == pytest.approx(float(row["value"]), abs=1e-6)
        else:
            assert "must be a finite number" in row["failure"]
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert best["learning_rate"] == float(rows[0]["learning_rate"])
    train("fcn_multires", str(alike), output=str(tmp_path / "x"), variant=str(tmp_path / "out/best.json"), dry_run=True)
    assert "out/best.json" in capsys.readouterr().out
    (tmp_path / "space.json").write_text('{"learning_rate": ["a"]}')
    with pytest.raises(ValueError, match="learning_rate must be a number, got 'a'"):
        train("fcn_multires", str(alike), **{**options, "output": str(tmp_path / "y")})
