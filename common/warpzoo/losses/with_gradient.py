"""For losses that compute their gradient along with their value, in fewer passes over memory than autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class WithGradient(torch.autograd.Function):
    """One value per batch item of some tensors whose gradients (zero for other items) were computed along with it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *tensors_and_gradients: Tensor | None) -> Tensor:
        ctx.save_for_backward(*tensors_and_gradients[len(tensors_and_gradients) // 2 :])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [
            None if gradient is None else gradient * upstream.view(-1, *[1] * (gradient.dim() - 1))
            for gradient in ctx.saved_tensors
        ]
        return None, *gradients, *[None] * len(gradients)
