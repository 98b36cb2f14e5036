"""The bundle from noisy file to denoised file: through `warpzoo denoise`, and through MONAI's own commands."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Events
from PIL import Image as Picture
from scipy import ndimage

import warpzoo
from warpzoo.commands.denoise import denoise
from warpzoo.errors import plain_reason

SIDE = 128
STEPS = 120


@pytest.fixture(scope="module")
def clean():
    """Blobs of light seen through a PSF of 1 pixel, 20 to 200 photons."""
    points = np.random.default_rng(0).random((SIDE, SIDE)) > 0.99
    light = ndimage.gaussian_filter(points.astype(float), 2) + 0.5 * ndimage.gaussian_filter(points[::-1] * 1.0, 5)
    return 20 + 180 * ndimage.gaussian_filter(light / light.max(), 1.0)


@pytest.fixture(scope="module")
def trained(clean, tmp_path_factory):
    """A folder with noisy.tif, what was learnt from it, model.pt, and what came of it, out.tif."""
    folder = tmp_path_factory.mktemp("trained")
    noisy = np.random.default_rng(1).poisson(clean).astype(np.uint16) + 100
    tifffile.imwrite(folder / "noisy.tif", noisy, resolution=(4, 4), metadata={"axes": "YX"})
    denoise(
        str(folder / "noisy.tif"),
        output=str(folder / "out.tif"),
        budget=f"{STEPS}steps",
        save_weights=str(folder / "model.pt"),
        dtype="float32",
        device="cpu",
    )
    return folder


def error(image, clean):
    return float(((image.astype(float) - 100 - clean) ** 2).mean())


def test_the_noise_goes_and_the_light_stays(trained, clean):
    noisy, out = (tifffile.imread(trained / name) for name in ("noisy.tif", "out.tif"))
    filtered = [error(ndimage.gaussian_filter(noisy.astype(float), side), clean) for side in np.arange(0.5, 4, 0.25)]
    assert out.dtype == np.float32
    assert error(out, clean) < min(filtered)  # the best Gaussian filter there is for this image
    assert out.mean() == pytest.approx(noisy.mean(), rel=0.002)


def test_weights_are_a_start_if_there_is_a_budget(trained, clean, tmp_path):
    """Another exposure of other light: after few steps it is better to have learnt elsewhere before."""
    bright = 3 * np.random.default_rng(2).poisson(clean[::-1]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "bright.tif", bright)
    errors = {}
    for name, options in {"start": {"weights": str(trained / "model.pt")}, "nothing": {}}.items():
        out = str(tmp_path / f"{name}.tif")
        kept = str(tmp_path / f"{name}.pt")
        denoise(
            str(tmp_path / "bright.tif"), output=out, budget="30steps", save_weights=kept, dtype="float32", **options
        )
        errors[name] = error(tifffile.imread(out) / 3 + 100, clean[::-1])
    assert errors["start"] < 0.95 * errors["nothing"]
    steps = json.loads((tmp_path / "start.training.json").read_text(encoding="utf-8"))
    assert steps["steps"] == 30
    tifffile.imwrite(tmp_path / "volume.tif", np.stack([bright] * 3), metadata={"axes": "ZYX"})
    with pytest.raises(ValueError, match="spatial_dims must be 2 for the weights"):
        denoise(
            str(tmp_path / "volume.tif"),
            output=out,
            spatial_dims=3,
            budget="2steps",
            weights=str(trained / "model.pt"),
        )


def test_no_checkerboard(trained):
    """Upsampling leaves its traces at periods of 2 and 4 pixels: no peak there in what is left of flat light."""
    out = tifffile.imread(trained / "out.tif").astype(float)
    spectrum = np.abs(np.fft.fft2((out - out.mean()) * np.outer(np.hanning(SIDE), np.hanning(SIDE)))) ** 2
    for period in (2, 4):
        at = SIDE // period
        for along in (spectrum[:, :3].sum(1), spectrum[:3].sum(0), np.diagonal(spectrum)):
            around = np.r_[along[at - 8 : at - 2], along[at + 3 : at + 9] if period > 2 else []]
            assert along[at] < 6 * np.median(around)


def test_the_record_says_what_was_learnt_from(trained):
    run = json.loads((trained / "model.training.json").read_text(encoding="utf-8"))
    assert list(run["data"]["train"]) == ["noisy.tif"]
    assert run["steps"] == STEPS
    assert [row["step"] for row in run["epochs"]] == [100, STEPS]
    assert run["epochs"][-1]["error"] < 1.5
    assert run["interrupted"] is False


def test_weights_that_are_given_are_applied(trained, tmp_path, capsys):
    options = {"weights": str(trained / "model.pt"), "device": "cpu"}
    denoise(str(trained / "noisy.tif"), output=str(tmp_path / "again.tif"), dtype="float32", tile=48, **options)
    whole, tiles = (tifffile.imread(path) for path in (trained / "out.tif", tmp_path / "again.tif"))
    np.testing.assert_allclose(tiles, whole, rtol=1e-5)
    assert "weights given" in capsys.readouterr().out

    denoise(str(trained / "noisy.tif"), output=str(tmp_path / "own.tif"), **options)
    with tifffile.TiffFile(tmp_path / "own.tif") as file:
        np.testing.assert_array_equal(file.asarray(), np.rint(whole))
        assert file.series[0].dtype == np.uint16
        assert file.pages[0].get_resolution()[0] == 4

    weights = torch.load(trained / "model.pt", weights_only=True)
    torch.save({**weights, "wiener.share": torch.tensor(0.0)}, tmp_path / "s.pt")  # s itself is the result
    options["weights"] = str(tmp_path / "s.pt")
    denoise(str(trained / "noisy.tif"), output=str(tmp_path / "s.tif"), dtype="float32", **options)
    denoise(str(trained / "noisy.tif"), output=str(tmp_path / "z.tif"), phantom=True, dtype="float32", **options)
    light, seen = (tifffile.imread(tmp_path / name) for name in ("z.tif", "s.tif"))
    np.testing.assert_allclose(ndimage.gaussian_filter(light, 1, mode="nearest", truncate=5), seen, rtol=1e-3)
    assert np.abs(seen - whole).max() > 1


def test_a_picture_by_a_filter(trained, clean, tmp_path, capsys):
    noisy = np.clip(tifffile.imread(trained / "noisy.tif") - 100, 0, 255).astype(np.uint8)
    Picture.fromarray(noisy).save(tmp_path / "in.png")
    denoise(str(tmp_path / "in.png"), output=str(tmp_path / "out.png"), method="gaussian")
    out = np.asarray(Picture.open(tmp_path / "out.png"))
    assert out.dtype == np.uint8
    assert error(out + 100.0, clean) < 0.3 * error(noisy + 100.0, clean)
    assert "gaussian of size" in capsys.readouterr().out


def test_what_cannot_be_denoised_is_said(trained, tmp_path):
    noisy = str(trained / "noisy.tif")
    with pytest.raises(ValueError, match="got 'sharpen'"):
        denoise(noisy, output=str(tmp_path / "out.tif"), method="sharpen")
    with pytest.raises(ValueError, match="got the noisy image itself"):
        denoise(noisy, output=noisy)
    with pytest.raises(ValueError, match=r"published.*got 'none_such'"):
        denoise(noisy, output=str(tmp_path / "out.tif"), variant="none_such", budget="1steps")
    with pytest.raises(ValueError, match="another network"):
        denoise(noisy, output=str(tmp_path / "out.tif"), weights=str(trained / "model.pt"), variant="unet")
    tifffile.imwrite(tmp_path / "empty.tif", np.zeros((64, 64), np.uint8))
    with pytest.raises(ValueError, match=r"empty\.tif.*nothing to denoise"):
        denoise(str(tmp_path / "empty.tif"), output=str(tmp_path / "out.tif"))
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile must be .*got 0"),
        ({"seed": -1}, "seed must be .*got -1"),
        ({"size": 3}, "size must only be given with a filter"),
        ({"method": "median", "budget": "5s"}, "the filter median"),
        ({"weights": "model.pt", "save_weights": "other.pt"}, "nothing is learnt"),
        ({"variant": "none", "psf_sigma": "2"}, "a variant that sets it to 'none'"),
        ({"method": "median", "psf_sigma": "2"}, "the filter median"),
        ({"budget": "."}, "budget .*'.'"),
        ({"dtype": "bool"}, "dtype must be .*got 'bool'"),
    ],
)
def test_options_that_do_not_fit(trained, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        denoise(str(trained / "noisy.tif"), output=str(tmp_path / "out.tif"), **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="got the folder"):
        denoise(str(tmp_path), output=str(tmp_path / "out.tif"))


class Hostile:
    """A pickle that creates a file when it is read as one."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_weights_run_no_code(trained, tmp_path):
    torch.save(Hostile(tmp_path / "created"), tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt cannot be read as weights"):
        denoise(str(trained / "noisy.tif"), output=str(tmp_path / "out.tif"), weights=str(tmp_path / "evil.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


# From Python


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"psf_sigma": -1}, "psf_sigma must be .* got -1"),
        ({"psf_sigma": "x"}, "psf_sigma must be .* got 'x'"),
        ({"psf_sigma": (1, 2, 3)}, r"psf_sigma must be .* got .1, 2, 3."),
        ({"psf_sigma": -1, "weights": True}, "psf_sigma must be .* got -1"),
        ({"psf": "none.tif"}, r"psf must be .*none\.tif"),
        ({"weights": "none.pt"}, r"none\.pt does not exist: .*`weights`"),
        ({"dtype": "foo"}, "dtype must be .* got 'foo'"),
        ({"dtype": "bool", "method": "median"}, "dtype must be .* got 'bool'"),
        ({"channel": 5}, "channel must only be given with a file, got 5"),
        ({"budget": "60 secs"}, "budget must be a time .* got '60 secs'"),
        ({"budget": 0}, "budget must be a time .* got 0"),
        ({"variant": "nope"}, "variant must be .* got 'nope'"),
    ],
)
def test_python_says_what_is_wrong_before_anything_runs(trained, monkeypatch, options, message):
    monkeypatch.setattr("ignite.engine.Engine.run", lambda *_, **__: pytest.fail("something runs"))
    if options.get("weights") is True:
        options = {**options, "weights": trained / "model.pt"}
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        warpzoo.denoise(tifffile.imread(trained / "noisy.tif"), **options)


def test_python_takes_tensors_without_gradients(trained):
    image = torch.from_numpy(tifffile.imread(trained / "noisy.tif").astype(np.float32)).requires_grad_()
    with pytest.raises(ValueError, match="image must not require a gradient"):
        warpzoo.denoise(image, "median")
    assert warpzoo.denoise(image.detach(), "median", size=3).shape == image.shape


def test_python_prints_nothing_and_the_command_one_line(trained, tmp_path, capfd):
    options = {"weights": str(trained / "model.pt"), "device": "cpu"}
    warpzoo.denoise(tifffile.imread(trained / "noisy.tif"), **options)
    warpzoo.denoise(tifffile.imread(trained / "noisy.tif"), budget="1steps", device="cpu")
    assert capfd.readouterr().out == ""
    denoise(str(trained / "noisy.tif"), output=str(tmp_path / "out.tif"), **options)
    assert capfd.readouterr().out.count("mean intensity ×") == 1


# Through MONAI


def test_evaluation_measures_noisy_and_denoised(trained, clean, bundle, start, tmp_path):
    tifffile.imwrite(tmp_path / "clean.tif", (clean + 100).astype(np.float32))
    start(
        bundle("psf_blindspot"),
        "inference",
        "evaluate",
        image=str(trained / "noisy.tif"),
        output=str(tmp_path / "out.tif"),
        reference=str(tmp_path / "clean.tif"),
        weights=str(trained / "model.pt"),
        output_dir=str(tmp_path),
        device="$torch.device('cpu')",
        dtype="float32",
    ).run()
    (frame,) = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["frames"]
    expected = 10 * np.log10(np.ptp(clean) ** 2 / error(tifffile.imread(tmp_path / "out.tif"), clean))
    assert frame["denoised"]["psnr"] == pytest.approx(expected, abs=0.01)
    assert frame["denoised"]["ssim"] > frame["noisy"]["ssim"]
    assert frame["mean_ratio"] == pytest.approx(1, abs=0.002)


@pytest.mark.parametrize(
    "variants", [[], ["published"], ["unet", "none"], ["learnable"], ["psf_0.5"], ["3d"], ["psf_1.5", "3d"]]
)
def test_every_variant_trains_and_infers(bundle, start, tmp_path, variants, capsys):
    dims = 3 if "3d" in variants else 2
    shape = (8, 40, 36)[-dims:]
    values = np.random.default_rng(0).poisson(20, shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", values, metadata={"axes": "ZYX"[-dims:]})
    root = bundle("psf_blindspot")
    names = [f"variants/{name}" for name in variants]
    small = {"network_def#channels": 4, "weights": str(tmp_path / "model.pt"), "device": "$torch.device('cpu')"}
    patch = {"patch": [8, 16, 16][-dims:], "batch_size": 2, "budget": "3steps", "images": str(tmp_path / "in.tif")}
    start(root, "train", *names, **small, **patch, output_dir=str(tmp_path)).run()
    printed = capsys.readouterr().out
    assert re.search(rf"^{tmp_path / 'model.pt'}: best validation error \d\.\d+ at epoch 1 of 1; ", printed, re.M)
    files = {"image": str(tmp_path / "in.tif"), "output": str(tmp_path / "out.tif")}
    start(root, "inference", *names, **small, **files).run()
    assert f"{tmp_path / 'out.tif'}: mean intensity × " in capsys.readouterr().out
    out = tifffile.imread(tmp_path / "out.tif")
    assert (out.shape, out.dtype) == (shape, np.uint8)
    assert out.std() < values.std()
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert float(state["mean"]) == pytest.approx(20, abs=1)


def test_training_goes_on_from_weights(trained, bundle, start, tmp_path):
    options = {"images": str(trained / "noisy.tif"), "budget": "1steps", "device": "$torch.device('cpu')"}
    options["output_dir"] = str(tmp_path)
    first = {"initial_weights": str(trained / "model.pt"), "learning_rate": 0.0}
    start(bundle("psf_blindspot"), "train", weights=str(tmp_path / "model.pt"), **options, **first).run()
    before, after = (torch.load(path, weights_only=True) for path in (trained / "model.pt", tmp_path / "model.pt"))
    assert all(torch.equal(before[name], after[name]) for name in before if name != "shift")


@pytest.fixture
def training(trained, bundle, start):
    """`training(folder, …)`: four epochs of two steps of a small network, validated after each."""

    def make(folder, **override):
        options = {"images": str(trained / "noisy.tif"), "budget": "8steps", "steps_per_epoch": 2, "val_interval": 1}
        options |= {"network_def#channels": 4, "patch": 24, "batch_size": 2, "device": "$torch.device('cpu')"}
        return start(bundle("psf_blindspot"), "train", output_dir=str(folder), **{**options, **override})

    return make


def test_a_training_that_is_killed_goes_on_as_if_nothing_had_happened(training, tmp_path):
    training(tmp_path / "whole").run()
    for step in (1, 5, 8):  # before the first checkpoint, within an epoch, after the last step
        folder = tmp_path / str(step)
        killed = training(folder)
        trainer = killed.parser.get_parsed_content("train#trainer")

        def kill(_):
            raise KeyboardInterrupt

        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=step), kill)
        with pytest.raises(KeyboardInterrupt):
            killed.run()
        training(folder, resume=True).run()
        for name in ("model.pt", "last.pt"):
            whole, parts = (torch.load(path / name, weights_only=False) for path in (tmp_path / "whole", folder))
            whole, parts = (state.get("network", state) for state in (whole, parts))
            assert all(torch.equal(parts[key], whole[key]) for key in whole), (step, name)
        rows = [json.loads((path / "run.json").read_text())["epochs"] for path in (tmp_path / "whole", folder)]
        assert rows[0] == rows[1]
    with pytest.raises((RuntimeError, ValueError)) as error:
        training(tmp_path / "whole").run()
    assert "is there from an earlier run" in plain_reason(error.value)


def test_a_training_that_has_used_up_its_budget_is_left_as_it_is(training, tmp_path, capsys):
    training(tmp_path, budget="3steps").run()
    assert "at epoch 2 of 2;" in capsys.readouterr().out  # whose epochs are of two steps
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    training(tmp_path, budget="3steps", resume=True).run()
    assert "has used up its budget, in epoch 2: nothing is left to resume" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_best_weights_are_kept_and_a_training_that_no_longer_gains_ends(training, tmp_path):
    training(tmp_path, budget="200steps", learning_rate=1e-9, patience=3, val_interval=2).run()
    run = json.loads((tmp_path / "run.json").read_text())
    errors = {row["epoch"]: row["validation_error"] for row in run["epochs"] if "validation_error" in row}
    best = min(errors, key=errors.__getitem__)
    assert run["steps"] < 200
    assert max(errors) == best + 6
    written = {"model.pt", "last.pt", "run.json", "report.html", "pictures", "tensorboard"}
    assert written == {one.name for one in tmp_path.iterdir()}


def test_the_state_of_a_training_is_no_denoiser(training, trained, tmp_path):
    training(tmp_path / "run").run()
    with pytest.raises(ValueError, match=r"last\.pt is the state of a training .*give the model\.pt of that run"):
        denoise(str(trained / "noisy.tif"), output=str(tmp_path / "out.tif"), weights=str(tmp_path / "run" / "last.pt"))
    assert not (tmp_path / "out.tif").exists()


def test_images_of_one_name_are_told_apart(training, trained, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        shutil.copy(trained / "noisy.tif", tmp_path / "images" / folder / "noisy.tif")
    training(tmp_path / "run", images=str(tmp_path / "images"), budget="2steps").run()
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert sorted(data["train"]) == ["a/noisy.tif", "b/noisy.tif"]


def test_images_may_be_held_out(training, clean, tmp_path):
    noisy = [np.random.default_rng(seed).poisson(clean).astype(np.uint16) for seed in range(4)]
    (tmp_path / "images").mkdir()
    for number, image in enumerate(noisy):
        tifffile.imwrite(tmp_path / "images" / f"{number}.tif", image)
    training(tmp_path / "run", images=str(tmp_path / "images"), hold_out=0.2).run()
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert [len(data[part]) for part in ("train", "validation")] == [3, 1]
    checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "images").iterdir()}
    assert data["train"] | data["validation"] == checksums
