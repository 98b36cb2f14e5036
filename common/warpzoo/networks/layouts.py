"""The channels-last layout, in which convolutions and pooling run 1.5 times faster, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def channels_last(features: Tensor) -> Tensor:
    """The features in that layout."""
    if torch.jit.is_tracing():
        return features  # the tracing ONNX exporter does not support layouts
    if features.dim() == 4:
        return features.contiguous(memory_format=torch.channels_last)
    return features.contiguous(memory_format=torch.channels_last_3d)


def channels_last_weights(network: nn.Module) -> None:
    """Converts a network to that layout, which it then keeps, also after an input of a single channel, whose layout is
    ambiguous."""
    for parameter in network.parameters():
        if parameter.dim() in (4, 5):
            parameter.data = channels_last(parameter.data)
