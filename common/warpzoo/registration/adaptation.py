"""A network trained a little further on the one pair it is about to register, without labels."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from warpzoo.losses import Diffusion
from warpzoo.registration.budget import Budget
from warpzoo.registration.descent import Descent
from warpzoo.registration.similarities import in_windows
from warpzoo.training.objectives import RegistrationObjective

LEARNING_RATE = 1e-4
WEIGHT = 0.2


def adapted(network: nn.Module, image: Tensor, budget: Budget) -> nn.Module:
    """A copy of the network that registers this image (1, 2, *spatial) of moving and fixed better; itself it stays.

    The weights with the lowest loss, local correlation and smoothness, are kept; layers stay as they are in evaluation.
    """
    network = deepcopy(network).eval().requires_grad_(True)
    objective = RegistrationObjective(network, _InWindows(), Diffusion(), WEIGHT)
    with Descent(budget, "adapt") as descent, torch.enable_grad():
        descent.minimise(lambda: objective(image)["loss"], list(network.parameters()), LEARNING_RATE)
    return network.requires_grad_(False)


class AdaptiveInferer(Inferer):
    """One pass of the network, before which, if `adapt` says how long, it is trained further on the pair at hand.

    Args:
        adapt: iterations, or seconds such as "10s"; every pair starts from the network's own weights.
    """

    def __init__(self, adapt: str | float = 0) -> None:
        super().__init__()
        self.budget = Budget.read("adapt", adapt)

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: object, **kwargs: object) -> Tensor:
        if self.budget and isinstance(network, nn.Module):
            network = adapted(network, inputs, self.budget)
        with torch.no_grad():
            return network(inputs, *args, **kwargs)


class _InWindows(nn.Module):
    def forward(self, fixed: Tensor, warped: Tensor) -> Tensor:
        return -in_windows(fixed, warped).mean()
