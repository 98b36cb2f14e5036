from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from warpzoo.training.progress import Progress, SeedEpochs, TensorBoard


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


class Network(torch.nn.Linear):
    """A training of four steps in two epochs, whose validation after the second finds an ncc of 0.5."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.25)

    def train_into(self, folder, first=0):
        def step(engine, _):
            return {"pred": {"loss": torch.tensor(float(engine.state.iteration)), "similarity": torch.tensor(-1.0)}}

        engine = Engine(step)
        engine.optimizer = self.optimizer
        TensorBoard(folder / "tensorboard", lambda: (4, {"ncc": 0.5}), folder / "pictures").attach(engine)
        engine.load_state_dict({"epoch_length": 2, "max_epochs": 2, "epoch": first // 2})
        engine.run([0, 1], max_epochs=2)


def scalars(folder):
    read = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0}).Reload()
    return {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}, read


@pytest.mark.parametrize("rank", [0, 1])
def test_events_come_from_the_first_process_alone(tmp_path, monkeypatch, rank):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: rank)
    Network().train_into(tmp_path)
    assert (tmp_path / "tensorboard").exists() == (rank == 0)


def test_events_are_the_terms_of_the_loss_the_rate_and_the_validation(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "pictures" / "epoch_0002.png")
    Network().train_into(tmp_path)
    found, read = scalars(tmp_path)
    assert found == {
        "loss": [(1, 1), (2, 2), (3, 3), (4, 4)],
        "similarity": [(step, -1) for step in range(1, 5)],
        "rate": [(step, 0.25) for step in range(1, 5)],
        "validation/ncc": [(4, 0.5)],
    }
    (picture,) = read.Images("validation")
    assert (picture.step, picture.width, picture.height) == (4, 6, 4)


def test_a_resumed_run_goes_on_in_the_same_curve(tmp_path):
    Network().train_into(tmp_path)
    Network().train_into(tmp_path, first=2)  # as if the checkpoint were that of the first epoch
    assert scalars(tmp_path)[0]["loss"] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_the_bar_says_what_is_done_of_all_steps_from_the_first_on(capsys):
    engine = Engine(lambda *_: {"loss": torch.tensor(0.25)})
    shown = []
    progress = Progress()
    progress.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _: shown.append((progress.bar.n, str(progress.bar))))
    engine.run(range(10), max_epochs=4)
    assert [number for number, _ in shown] == list(range(1, 41))
    assert "Training  22%|" in shown[8][1]  # 9 of 40 steps, before the first epoch ends
    assert "epoch 1 of 4, loss=0.25" in shown[8][1]
    shown.clear()
    engine.load_state_dict({"epoch_length": 10, "max_epochs": 4, "epoch": 3})
    engine.run(range(10), max_epochs=4)
    assert shown[0][0] == 31  # a run that goes on is as far as it was


@pytest.mark.parametrize("event", [Events.STARTED, Events.ITERATION_STARTED])
def test_the_bar_leaves_room_for_what_has_failed(event, capsys):
    def fail(_):
        raise ValueError("no step")

    engine = Engine(lambda *_: None)
    engine.add_event_handler(event, fail)
    Progress().attach(engine)
    with pytest.raises(ValueError, match="no step"):
        engine.run(range(10), max_epochs=4)
    said = capsys.readouterr().err
    assert said.endswith("\n") or not said
