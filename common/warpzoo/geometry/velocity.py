"""Stationary velocity fields, and what is done to displacements as maps: composition and inversion.

Convention: a velocity is in voxels per unit time, (batch, dims, *spatial); its flow over unit time is the displacement
exp(velocity), and exp(−velocity) is the inverse. `compose(first, second)` is the displacement of x ↦ second(first(x)).
Beyond the grid a field keeps its value at the border.
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
        if squarings < 0:
            raise ValueError(f"squarings is {squarings}; it wants 0 or more.")
    displacement = precise(velocity) * 0.5**squarings
    for _ in range(squarings):
        displacement = displacement + warp(displacement, displacement)
    return displacement


def compose(first: Tensor, second: Tensor) -> Tensor:
    """One displacement for two: a point goes through `first`, then through `second`."""
    if not torch.jit.is_scripting():
        check_displacement("first", first)
        check_same_shape("first", first, "second", second)
    return first + warp(second, first)


def invert(displacement: Tensor, iterations: int = 50, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
    """The inverse displacement by fixed point, v ← −u(x + v), and its residual.

    Stops at `tolerance` voxels. The residual |v(x) + u(x + v(x))|, (batch, 1, *spatial) in voxels, is large where the
    field folds or leads out of the grid: there no inverse exists.
    """
    check_displacement("displacement", displacement)
    inverse = -displacement
    residual = inverse + warp(displacement, inverse)
    for _ in range(iterations):
        if float(residual.detach().abs().max()) < tolerance:
            break
        inverse = inverse - residual
        residual = inverse + warp(displacement, inverse)
    return inverse, torch.linalg.vector_norm(residual, dim=1, keepdim=True)


class VelocityField(nn.Module):
    """Velocity → displacement, for networks."""

    def __init__(self, squarings: int = SQUARINGS) -> None:
        super().__init__()
        self.squarings = squarings

    def forward(self, velocity: Tensor) -> Tensor:
        return integrate_velocity(velocity, self.squarings)
