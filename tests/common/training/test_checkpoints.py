from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from warpzoo.training.checkpoints import BestWeights, Checkpoint, LoadWeights
from warpzoo.training.progress import EarlyStop


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


def test_an_earlier_run_is_not_overwritten(tmp_path):
    first = network(3)
    run([Checkpoint(tmp_path / "last.pt", {"network": first})])
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=r"last\.pt is there from an earlier run: go on with it \(resume\), remove"):
        run([Checkpoint(tmp_path / "last.pt", {"network": network(3)})])
    assert (tmp_path / "last.pt").read_bytes() == before
    for name in ("metrics.json", "mine.txt"):
        (tmp_path / name).write_text("{}")
    run([Checkpoint(tmp_path / "last.pt", {"network": network(3)}, overwrite=True)])
    assert (tmp_path / "last.pt").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "mine.txt"]
    with pytest.raises(ValueError, match="resume and overwrite must not be given together"):
        Checkpoint(tmp_path / "last.pt", {}, resume=True, overwrite=True)


def test_a_run_that_ended_before_its_first_checkpoint_is_resumed_at_its_beginning(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    assert run([Checkpoint(tmp_path / "last.pt", {"network": network()}, resume=True)]).state.epoch == 3


def test_weights_are_loaded_when_the_engine_starts(tmp_path):
    source, target = network(), network()
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    handler = LoadWeights(tmp_path / "plain.pt", target)
    run([handler])
    assert torch.equal(target[0].weight, source[0].weight)
    nn.init.zeros_(target[0].weight)
    run([handler])  # once: what was done to them since stays
    assert not bool(target[0].weight.any())
