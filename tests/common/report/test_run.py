"""The page of a training."""

from __future__ import annotations

import re
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from warpzoo.report.figure import GAP, save_denoising_figure
from warpzoo.report.run import HEIGHT, RUNS, WIDTH, curve_of, duration, write_run_page

ROWS = [
    {"epoch": 1, "step": 10, "rate": 0.1, "loss": 4.0},
    {"epoch": 2, "step": 20, "rate": 0.1, "loss": 2.0, "ncc": 0.5, "key_metric": 0.5},
    {"epoch": 3, "step": 30, "rate": 0.1, "loss": 3.0, "ncc": float("nan")},
]
RECORD = {"epochs": ROWS, "steps": 30, "seconds": 75.0, "settings": {"epochs": 5}, "command": "train <b>"}
RECORD |= {"data": {"train": {"a.png": "", "b.png": ""}}, "config": {"network_def": {"_target_": "shift.network.Net"}}}


def test_a_curve_goes_from_corner_to_corner():
    curve = curve_of("loss", ROWS)
    points = [tuple(map(float, point.split(","))) for point in curve.points.split()]
    assert points == [(0, 0), (WIDTH / 2, HEIGHT), (WIDTH, HEIGHT / 2)]
    assert (curve.low, curve.high, curve.last, curve.steps) == ("2", "4", "3", "steps 10 … 30")
    assert curve_of("ncc", ROWS).points == "0.0,150.0"  # one number, and none that is not one
    assert curve_of("dice", ROWS) is None


@pytest.mark.parametrize("running", [True, False])
def test_the_page_shows_curves_and_pictures_and_is_loaded_anew_while_it_runs(tmp_path, running):
    pictures = [tmp_path / "pictures" / f"epoch_000{number}.png" for number in (1, 2, 3)]
    page = write_run_page(
        tmp_path / "report.html", RECORD, pictures, "ncc 0.5 at epoch 2", RUNS if running else "has ended"
    )
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"<h3>(\w+): ", text) == ["rate", "loss", "ncc"]
    assert re.findall(r'src="([^"]*)"', text) == ["pictures/epoch_0003.png", "pictures/epoch_0002.png"]
    assert ('http-equiv="refresh"' in text) == running
    assert ("Best so far: ncc 0.5 at epoch 2" if running else "Best: ncc 0.5 at epoch 2") in text
    assert "train &lt;b&gt;" in text
    written = datetime.strptime(re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", text)[0], "%Y-%m-%d %H:%M")
    assert abs((datetime.now() - written).total_seconds()) < 120  # a run that was killed cannot say that it was
    assert ("As of" in text) == running
    assert re.search(r"3 <i>of 5</i>", text)
    assert f"<h1>{tmp_path.name}: shift</h1>" in text
    assert "2 images to train on. " in text


def test_a_denoised_image_stands_beside_the_noisy_one_and_what_was_taken_away(tmp_path):
    noisy, denoised = torch.rand(2, 39, 65, generator=torch.Generator().manual_seed(0))
    save_denoising_figure(tmp_path / "a.png", noisy, denoised)
    picture = np.asarray(Image.open(tmp_path / "a.png")).astype(float)
    tall, wide = 6 * 39, 6 * 65  # one and a half of PANEL
    panels = [picture[GAP : GAP + tall, GAP + n * (wide + GAP) :][:, :wide, 0] for n in range(3)]
    for panel, image in zip(panels, (noisy, denoised, noisy - denoised), strict=True):
        assert np.corrcoef(panel.ravel(), np.kron(image.numpy(), np.ones((6, 6))).ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("seconds", "words"), [(41.4, "41 s"), (600, "10 min"), (12_000, "3 h 20 min")])
def test_durations(seconds, words):
    assert duration(seconds) == words
