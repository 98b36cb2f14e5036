"""An optimiser for the kernels of convolutional networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Adam):
    """Muon (Jordan et al., 2024) for weights of four and more outputs, Adam for the rest: heads, norms and biases.

    A weight is taken as a matrix, outputs × everything else, and its momentum replaced by the nearest matrix whose
    singular values are all one, so that every direction moves at the same pace. Convolution kernels are what
    `torch.optim.Muon` refuses; it also works in bfloat16, which is slow on most CPUs.

    Args:
        params: of the network.
        lr: of the weights; the rest has a tenth of it.
        momentum: of the weights.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95) -> None:
        if lr < 0 or not 0 <= momentum < 1:
            raise ValueError(f"lr must be 0 or more and momentum in [0, 1), got {lr} and {momentum}.")
        matrices: dict[str, Any] = {"params": [], "momentum": momentum}
        others: dict[str, Any] = {"params": [], "lr": lr / 10}
        for parameter in params:
            group = matrices if parameter.dim() >= 2 and len(parameter) >= 4 else others
            group["params"].append(parameter)
        super().__init__([matrices, others], lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = self.param_groups[0]
        gradients = [weight.grad for weight in matrices["params"]]
        for weight, gradient in zip(matrices["params"], gradients, strict=True):
            if gradient is not None:
                self._move(weight, gradient, matrices["lr"], matrices["momentum"])
            weight.grad = None  # Adam leaves alone what has none
        super().step()
        for weight, gradient in zip(matrices["params"], gradients, strict=True):
            weight.grad = gradient
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, rate: float, momentum: float) -> None:
        state = self.state[weight]
        if not state:
            state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(gradient))  # as Adam names them
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(state["exp_avg"], momentum).flatten(1)
        taller = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
        weight.sub_(_orthogonal(ahead).reshape(weight.shape), alpha=rate * taller)


def _orthogonal(matrix: Tensor) -> Tensor:
    """The same singular vectors with all singular values near one, by five Newton-Schulz steps."""
    tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.T if tall else matrix
    result = result / result.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = result @ result.T
        result = 3.4445 * result + (-4.7750 * gram + 2.0315 * gram @ gram) @ result
    return result.T if tall else result
