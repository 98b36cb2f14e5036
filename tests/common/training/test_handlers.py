from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from warpzoo.record import write_json
from warpzoo.training.handlers import (
    AverageWeights,
    BestWeights,
    Checkpoint,
    EarlyStop,
    LoadWeights,
    MetricsFile,
    Picture,
    SeedEpochs,
    load_weights,
)


def network(width=3):
    return nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width))


def run(handlers, epochs=3, values=None):
    """An engine over two batches an epoch; `values` are the key metrics, epoch by epoch."""
    engine = Engine(lambda _, batch: batch)

    @engine.on(Events.EPOCH_COMPLETED)
    def measure(engine):
        if values is not None:
            engine.state.metrics["key_metric"] = values[engine.state.epoch - 1]
            best(engine)

    best = next((handler for handler in handlers if isinstance(handler, BestWeights)), None)
    for handler in handlers:
        if handler is not best:
            handler.attach(engine)
    engine.state.device = torch.device("cpu")
    engine.run([0, 1], max_epochs=epochs)
    return engine


def test_seeds_of_epochs_do_not_depend_on_what_came_before():
    drawn = {}

    def draw(engine):
        if engine.state.iteration % 2:
            numbers = (random.random(), float(np.random.rand()), float(torch.rand(1)))  # noqa: NPY002
            drawn.setdefault((seed, engine.state.epoch), set()).add(numbers)

    for seed, before in ((0, 1), (0, 2), (1, 1)):
        engine = Engine(lambda engine, _: draw(engine))
        SeedEpochs(seed).attach(engine)
        torch.rand(before)
        engine.run([0, 1], max_epochs=3)
    assert all(len(numbers) == 1 for numbers in drawn.values())
    assert len({next(iter(numbers)) for numbers in drawn.values()}) == 6


def test_best_weights_are_those_of_the_highest_metric(tmp_path):
    layers, stored = network(), []
    best = BestWeights(tmp_path / "new" / "model.pt", layers)

    class Change:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_STARTED, self)

        def __call__(self, engine):
            nn.init.constant_(layers[0].weight, engine.state.epoch)

    class Look:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

        def __call__(self, engine):
            state = torch.load(tmp_path / "new" / "model.pt", weights_only=True)
            stored.append(state["0.weight"].mean().item())
            assert state.keys() == layers.state_dict().keys()

    run([best, Change(), Look()], epochs=5, values=[0.2, 0.5, 0.5, float("nan"), 0.6])
    assert stored == [1, 2, 2, 2, 5]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("values", "patience", "epochs"),
    [([0.1] * 9, 2, 3), ([0.1, 0.2, 0.1, 0.3, 0.2, 0.2, 0.9], 2, 6), ([0.1, 0.2, 0.3, 0.4], 1, 4), ([0.3, 0.2], 5, 2)],
)
def test_early_stop_after_so_many_validations_without_a_rise(tmp_path, values, patience, epochs):
    best = BestWeights(tmp_path / "model.pt", network())
    assert run([best, EarlyStop(best, patience)], epochs=len(values), values=values).state.epoch == epochs


def test_a_resumed_run_remembers_its_best_and_its_patience(tmp_path):
    layers = network()

    def handlers(resume):
        best = BestWeights(tmp_path / "model.pt", layers)
        checkpoint = Checkpoint(tmp_path / "last.pt", {"network": layers, "best": best}, resume=resume)
        return [best, EarlyStop(best, 3), checkpoint]

    values = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5]
    run(handlers(False), epochs=2, values=values)
    kept = (tmp_path / "model.pt").read_bytes()
    nn.init.zeros_(layers[0].weight)
    engine = run(handlers(True), epochs=6, values=values)
    assert engine.state.epoch == 4
    assert (tmp_path / "model.pt").read_bytes() == kept
    assert float(layers[0].weight.abs().max()) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "model.pt"]


def test_resuming_nothing_is_one_sentence(tmp_path):
    path = tmp_path / "last.pt"
    with pytest.raises(
        ValueError, match=rf"^{path} does not exist: there is nothing to resume\. .*without `resume`\.$"
    ):
        run([Checkpoint(path, {"network": network()}, resume=True)])


def test_resuming_another_network_is_one_sentence(tmp_path):
    run([Checkpoint(tmp_path / "last.pt", {"network": network(3)})])
    with pytest.raises(ValueError, match=r"last\.pt holds the weights of another network: 6 parameters .* such as 0\."):
        run([Checkpoint(tmp_path / "last.pt", {"network": network(4)}, resume=True)])


def test_load_weights_takes_plain_states_and_checkpoints(tmp_path):
    source = network()
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    torch.save({"network": source.state_dict(), "trainer": {}}, tmp_path / "last.pt")
    for name in ("plain.pt", "last.pt"):
        target = network()
        load_weights(tmp_path / name, target)
        assert all(torch.equal(source.state_dict()[key], value) for key, value in target.state_dict().items())
    target = network()
    run([LoadWeights(tmp_path / "plain.pt", target)])
    assert torch.equal(target[0].weight, source[0].weight)


def test_load_weights_folds_norms_once(tmp_path):
    def normed():
        return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, bias=False), torch.nn.BatchNorm2d(2), torch.nn.ReLU())

    source, target = normed(), normed()
    source(torch.rand(4, 1, 8, 8))  # its norm sees something
    source.eval()
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    handler = LoadWeights(tmp_path / "plain.pt", target, fold=True)
    for _ in range(2):
        run([handler])
    image = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(target(image), source(image))
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in target)


class Unsafe:
    """Not plain weights: reading it would run code."""


@pytest.mark.parametrize("kind", ["missing", "another width", "another depth", "damaged", "code", "no state"])
def test_weights_that_do_not_fit_are_one_sentence_that_names_the_file(tmp_path, kind):
    path = tmp_path / "model.pt"
    if kind == "another width":
        torch.save(network(5).state_dict(), path)
    elif kind == "another depth":
        torch.save(network()[:1].state_dict(), path)
    elif kind == "damaged":
        torch.save(network().state_dict(), path)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "code":
        torch.save(Unsafe(), path)
    elif kind == "no state":
        torch.save(torch.zeros(3), path)
    layers = network()
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    wanted = {"missing": "does not exist", "damaged": "cannot be read", "code": "cannot be read"}
    with pytest.raises(ValueError, match=wanted.get(kind, "another network")) as error:
        load_weights(path, layers)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in layers.state_dict().items())


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


def test_an_earlier_run_is_not_overwritten(tmp_path):
    first = network(3)
    run([Checkpoint(tmp_path / "last.pt", {"network": first})])
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=r"last\.pt is there from an earlier run: go on with it \(resume\), or choose"):
        run([Checkpoint(tmp_path / "last.pt", {"network": network(3)})])
    assert (tmp_path / "last.pt").read_bytes() == before


def test_the_averaged_network_is_the_mean_of_the_last_steps():
    layers = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = AverageWeights(layers, decay=0.9)
    nn.init.constant_(layers[0].weight, -1000.0)  # as weights of a file, which come when the engine starts

    def step(engine, _):
        with torch.no_grad():
            for value in (layers[0].weight, layers[1].running_mean):
                value.fill_(engine.state.iteration)
            layers[1].num_batches_tracked.fill_(engine.state.iteration)

    trainer = Engine(step)
    average.attach(trainer)
    trainer.run(range(400))
    for value in (average.averaged[0].weight, average.averaged[1].running_mean):
        assert float(value) == pytest.approx(400 - 9, abs=0.1)  # mean age of decay^n: 0.9 / 0.1
    assert int(average.averaged[1].num_batches_tracked) == 400
    assert float(layers[0].weight) == 400
    assert not average.averaged.training

    average = AverageWeights(layers, decay=0)
    average.attach(trainer)
    trainer.run(range(400), max_epochs=2)
    torch.testing.assert_close(average.averaged.state_dict(), layers.state_dict(), rtol=0, atol=0)
