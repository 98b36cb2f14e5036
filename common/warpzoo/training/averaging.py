"""The mean of a network's weights over the last steps, which is better than any of them."""

from __future__ import annotations

from copy import deepcopy

import torch
from ignite.engine import Engine, Events
from torch import nn

from warpzoo.checks import check_truth


class AverageWeights:
    """Keeps the running mean of a network's weights, which is better than any of them, as the network `averaged`.

    It looks back over about 1 / (1 − decay) steps, over fewer in the beginning. With `use` the network has it in the
    end; for validations on the way, and to go on from a checkpoint, give them `averaged`.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99, use: bool = False) -> None:
        self.network = network
        self.decay = decay
        self.use = check_truth("use", use)
        self.averaged = deepcopy(network).eval().requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self.averaged.load_state_dict(self.network.state_dict()))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        if self.use:
            engine.add_event_handler(Events.COMPLETED, self.hand_over)

    @torch.no_grad()
    def add(self, engine: Engine) -> None:
        step = engine.state.iteration
        means, values = [], []
        for mean, value in zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                means.append(mean)
                values.append(value)
            else:
                mean.copy_(value)
        torch._foreach_lerp_(means, values, 1 - min(self.decay, step / (10 + step)))

    def hand_over(self, _: Engine) -> None:
        self.network.load_state_dict(self.averaged.state_dict())  # parameters and buffers: norms have statistics
