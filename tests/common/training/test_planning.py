"""What the images ask a training for."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from warpzoo.bundles import open_bundle
from warpzoo.bundles.overrides import command_line
from warpzoo.commands.check import check
from warpzoo.commands.denoise import denoise
from warpzoo.commands.train import train
from warpzoo.training.planning import TEMPORARY, Plan, bytes_of_pair, parts_of_batch

ROOT = Path(__file__).parents[3] / "bundles"


class Layers(nn.Module):
    """Keeps for its gradients: both channels of the image, and four of features once, though they are used twice."""

    def forward(self, image):
        features = image[:, :1].expand(-1, 4, *image.shape[2:]) * self.scale
        return {"loss": (features.square() * features.detach()).mean()}

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))


def test_memory_grows_with_the_pair_and_counts_what_is_kept():
    small, large = (bytes_of_pair(Layers(), size) for size in ([100, 200], [300, 400]))
    assert large == pytest.approx(6 * small, rel=0.05)
    assert small == pytest.approx(TEMPORARY * (2 + 4) * 4 * 100 * 200, rel=0.01)  # bytes of float32


@pytest.mark.parametrize(
    ("batch", "each", "free", "parts"), [(8, 1, 8, 1), (8, 1, 7, 2), (8, 3, 8, 4), (8, 5, 8, 8), (3, 1, 2, 2)]
)
def test_a_batch_that_does_not_fit_is_taken_in_parts(batch, each, free, parts):
    found, taken = parts_of_batch(batch, each, free)
    assert found == parts
    assert taken <= free


def test_a_pair_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"size must be smaller, or spacing coarser: a pair takes about 9\.0 GB"):
        parts_of_batch(1, 9e9, 8e9)


def test_the_command_says_the_settings_whatever_is_in_them():
    settings = {
        "dataset_dir": "/my images/it's $here",
        "size": (3, 4),
        "records#without": ["a b.png", "c.png"],
        "patience": None,
        "learning_rate": 1e-05,
    }
    words = shlex.split(Plan(open_bundle(ROOT / "dirnet"), ["folder"], settings).command())
    found = command_line(words)
    assert [Path(file).name for file in found.pop("config_file")] == ["train.json", "folder.json"]
    assert found.pop("bundle_root") == str(ROOT / "dirnet")
    assert found.pop("m") == "monai.bundle"
    assert found == {**settings, "size": [3, 4]}


@pytest.fixture
def noisy(tmp_path):
    """Five noisy images, in a folder of their own."""
    folder = tmp_path / "noisy"
    folder.mkdir()
    for number in range(5):
        values = np.random.default_rng(number).poisson(30, (48, 40)).astype(np.uint16)
        tifffile.imwrite(folder / f"{number}.tif", values)
    return folder


def test_a_denoiser_learns_from_a_folder_and_its_weights_need_nothing_else(noisy, tmp_path, capsys):
    check(str(noisy), method="psf_blindspot")
    assert capsys.readouterr().out.count("1 × 48 × 40") == 5
    options = {"psf_sigma": 0.7, "network_def#channels": 4, "patch": 16, "device": "cpu"}
    train("psf_blindspot", str(noisy), output=str(tmp_path / "run"), epochs=1, steps_per_epoch=3, **options)
    printed = capsys.readouterr().out
    assert "validation: 1 of 5 images are held out" in printed
    assert "--budget 3steps" in printed
    picture = np.asarray(Image.open(tmp_path / "run" / "pictures" / "epoch_0001.png"))
    assert picture[60:-60, 60:-60].std() > 10  # grey values of noise
    assert 'src="pictures/epoch_0001.png"' in (tmp_path / "run" / "report.html").read_text()
    weights, image = str(tmp_path / "run" / "model.pt"), str(noisy / "0.tif")
    denoise(image, output=str(tmp_path / "out.tif"), weights=weights, device="cpu")
    assert tifffile.imread(tmp_path / "out.tif").shape == (48, 40)
    tifffile.imwrite(tmp_path / "volume.tif", np.stack([tifffile.imread(image)] * 8), metadata={"axes": "ZYX"})
    options = {"output": str(tmp_path / "out.tif"), "weights": weights, "device": "cpu"}
    with pytest.raises(ValueError, match="spatial_dims must be 2 for the weights .*got 3"):
        denoise(str(tmp_path / "volume.tif"), spatial_dims=3, **options)


def test_a_noisy_image_that_cannot_be_used_is_said(noisy, tmp_path, capsys):
    tifffile.imwrite(noisy / "empty.tif", np.zeros((48, 40), np.uint16))
    for call in (
        lambda: check(str(noisy), method="psf_blindspot"),
        lambda: train("psf_blindspot", str(noisy), output="x"),
    ):
        with pytest.raises(ValueError, match=r"empty\.tif is constant everywhere"):
            call()
