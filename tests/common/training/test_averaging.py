from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from warpzoo.training.averaging import AverageWeights


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
