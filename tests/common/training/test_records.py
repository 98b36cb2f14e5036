from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from warpzoo.record import write_json
from warpzoo.training.records import MetricsFile, Picture


def evaluation(handlers, pairs=5):
    random = np.random.default_rng(0)
    engine = Engine(
        lambda engine, batch: [{**pair, "metrics": {"ncc": pair["value"], "dice": pair["dice"]}} for pair in batch]
    )
    for handler in handlers:
        handler.attach(engine)
    data = [
        {
            "id": f"pair {index}",
            "value": float(random.normal()),
            "dice": float("nan") if index == 0 else index / 10,
            "image": torch.rand(2, 12, 14),
            "pred": torch.rand(3, 12, 14),
        }
        for index in range(pairs)
    ]
    engine.run([data[:2], data[2:]])
    engine.run([data[:2], data[2:]])
    return data


def test_metrics_file_has_mean_and_deviation_and_every_pair(tmp_path):
    data = evaluation([MetricsFile(tmp_path / "new" / "metrics.json")])
    written = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert written["pairs"] == len(written["each"]) == 5  # of the second run alone
    values = [pair["value"] for pair in data]
    assert written["summary"]["ncc"] == {"mean": pytest.approx(np.mean(values)), "std": pytest.approx(np.std(values))}
    assert written["summary"]["dice"]["mean"] == pytest.approx(0.25)  # a pair without a number does not count
    assert [pair["id"] for pair in written["each"]] == [f"pair {index}" for index in range(5)]
    assert written["each"][3]["ncc"] == pytest.approx(values[3])


def test_metrics_file_takes_pairs_of_which_some_lack_a_number(tmp_path):
    engine = Engine(lambda _, batch: batch)
    MetricsFile(tmp_path / "metrics.json").attach(engine)
    engine.run(
        [[{"id": "a", "metrics": {"ncc": 0.5, "dice": 0.6}}, {"id": "b", "metrics": {"ncc": 0.7, "points": -2.0}}]]
    )
    summary = json.loads((tmp_path / "metrics.json").read_text())["summary"]
    assert {name: values["mean"] for name, values in summary.items()} == pytest.approx(
        {"ncc": 0.6, "dice": 0.6, "points": -2.0}
    )


def test_picture_is_a_picture(tmp_path):
    evaluation([Picture(tmp_path / "pictures")])
    (path,) = (tmp_path / "pictures").iterdir()
    assert path.name == "epoch_0001.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "run.json"
    write_json(path, {"value": 1, "path": path})
    assert json.loads(path.read_text()) == {"value": 1, "path": str(path)}
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        write_json(path, circle)
    assert json.loads(path.read_text())["value"] == 1
    assert [child.name for child in path.parent.iterdir()] == ["run.json"]
