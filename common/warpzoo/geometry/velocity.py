"""Stationary velocity fields, and the composition of displacement fields as maps.

Convention: a velocity is in voxels per unit time, (batch, dims, *spatial); its flow over unit time is the displacement
exp(velocity), and exp(−velocity) is the inverse. `compose(first, second)` is the displacement of x ↦ second(first(x)).
Outside the grid a field has its value at the border.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, check_same_shape
from warpzoo.geometry.sampling import precise, warp

SQUARINGS = 7


def integrate_velocity(velocity: Tensor, squarings: int = SQUARINGS) -> Tensor:
    """The displacement after unit time, by scaling and squaring: 2**squarings steps, error halved by each squaring."""
    if not torch.jit.is_scripting():
        check_displacement("velocity", velocity)
        check_squarings(squarings)
    displacement = precise(velocity) * 0.5**squarings
    for _ in range(squarings):
        displacement = displacement + warp(displacement, displacement)
    return displacement


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The displacement of the composition: a point is mapped by `first`, then by `second`."""
    if not torch.jit.is_scripting():
        check_displacement("first", first)
        check_same_shape("first", first, "second", second)
    return first + warp(second, first)


def check_squarings(squarings: int) -> None:
    if not isinstance(squarings, int) or squarings < 0:
        raise ValueError(f"squarings must be a whole number, 0 or more, got {squarings!r}.")


class VelocityField(nn.Module):
    """Velocity → displacement, for networks."""

    def __init__(self, squarings: int = SQUARINGS) -> None:
        super().__init__()
        self.squarings = squarings

    def forward(self, velocity: Tensor) -> Tensor:
        return integrate_velocity(velocity, self.squarings)
