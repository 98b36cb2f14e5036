from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from warpzoo.training.progress import SeedEpochs, TensorBoard


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


@pytest.mark.parametrize("rank", [0, 1])
def test_events_come_from_the_first_process_alone(tmp_path, monkeypatch, rank):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: rank)
    engine = Engine(lambda *_: {"loss": torch.tensor(1.0)})
    TensorBoard(tmp_path / "tensorboard").attach(engine)
    engine.run([0, 1])
    assert (tmp_path / "tensorboard").exists() == (rank == 0)
