"""docs/add_a_bundle.md makes a bundle: the files of that page, as they stand there, train, evaluate and register."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import verify_net_in_out
from PIL import Image as Picture

from warpzoo.commands.register import register
from warpzoo.commands.train import train

PAGE = Path(__file__).parents[2] / "docs" / "add_a_bundle.md"
FILES = dict(re.findall(r"^`(toy/\S+)`\n\n```\w+\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The bundle, on sys.path for the test."""
    root = tmp_path / "toy"
    for name, text in {**FILES, "toy/toy/__init__.py": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(root))
    yield root
    for name in ("toy", "toy.network"):
        sys.modules.pop(name, None)


@pytest.fixture
def images(tmp_path):
    """Six pictures of a disc, each somewhere else."""
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    rows, columns = np.mgrid[:48, :40]
    for number in range(6):
        distance = np.hypot(rows - random.uniform(20, 27), columns - random.uniform(17, 23))
        Picture.fromarray((40 + 180 / (1 + np.exp(distance - 10))).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def trained(toy, images, start):
    """Two steps; the folder with what they left."""
    short = {"train#trainer#max_epochs": 1, "train#trainer#steps_per_epoch": 2, "batch_size": 2}
    training = start(toy, "train", dataset_dir=str(images), **short)
    assert training.check_properties() == []
    training.run()
    return toy / "runs" / "train"


def test_it_takes_at_most_150_lines():
    assert set(FILES) == {"toy/toy/network.py"} | {
        f"toy/configs/{name}.json" for name in ("metadata", "train", "evaluate", "inference", "multi_gpu_train")
    }
    assert sum(text.count("\n") for text in FILES.values()) <= 150
    assert (
        max(len(line) for text in FILES.values() for line in text.splitlines()) <= 130
    )  # no lines hidden in long ones


def test_metadata_obey_the_schema_and_the_network_does_what_they_say(toy, example_data):
    jsonschema = pytest.importorskip("jsonschema")
    metadata = json.loads((toy / "configs" / "metadata.json").read_text(encoding="utf-8"))
    schema = json.loads((example_data / "schema" / metadata["schema"].rpartition("/")[2]).read_text())
    jsonschema.validate(metadata, schema)
    for side in (1, 21):
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(toy / "configs" / "metadata.json"),
            config_file=str(toy / "configs" / "train.json"),
            any=side,
            device="cpu",
        )


def test_it_trains_and_evaluates(trained, toy, images, start):
    record = json.loads((trained / "run.json").read_text())
    assert [row["epoch"] for row in record["epochs"]] == [1]
    assert len(record["data"]["train"]) == 4
    assert {"model.pt", "last.pt", "metrics.json", "pictures", "tensorboard"} <= {
        path.name for path in trained.iterdir()
    }
    options = {"dataset_dir": str(images), "validate#evaluator#weights": str(trained / "model.pt")}
    start(toy, "train", "evaluate", **options).run()
    measured, before = (
        json.loads((toy / "runs" / name / "metrics.json").read_text()) for name in ("evaluate", "train")
    )
    assert measured == before


def test_it_trains_by_the_command(toy, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(str(toy), str(images), output="run", epochs=1, batch_size=2, **{"train#trainer#steps_per_epoch": 2})
    fixed, moving = (str(images / f"{number}.png") for number in (0, 1))
    register(fixed, moving, method=str(toy), weights="run/model.pt", output="out", report=False)


def test_it_registers(trained, toy, images, tmp_path, monkeypatch):
    weights = str(trained / "model.pt")
    fixed, moving = (str(images / f"{number}.png") for number in (0, 1))
    monkeypatch.chdir(tmp_path)
    register(fixed, moving, method="./toy", weights=weights, output=str(tmp_path / "out"), report=False)
    field = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert field["ncc"] != field["ncc_before"]
    assert torch.load(weights, weights_only=True).keys() > {"layers.0.weight"}
