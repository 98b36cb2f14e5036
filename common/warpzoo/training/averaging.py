"""The mean of a network's weights over the last steps, which is better than any of them."""

from __future__ import annotations

from copy import deepcopy

import torch
from ignite.engine import Engine, Events
from torch import nn


class AverageWeights:
    """Keeps the running mean of a network's weights, which is better than any of them, as the network `averaged`.

    It looks back over about 1 / (1 − decay) steps, over fewer in the beginning. Validations, and a checkpoint to go on
    from, are to be given `averaged`.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        self.network = network
        self.decay = decay
        self.averaged = deepcopy(network).eval().requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self.averaged.load_state_dict(self.network.state_dict()))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)

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
