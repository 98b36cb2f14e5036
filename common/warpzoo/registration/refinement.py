"""Refinement on the pair at hand: the displacement a network predicted, optimised further for these two images."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from warpzoo.geometry.bspline import bspline_field, control_shape
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.velocity import compose, integrate_velocity
from warpzoo.losses import Diffusion, LNCCLoss


def refine(
    image: Tensor,
    displacement: Tensor,
    iterations: int,
    spacing: int = 4,
    weight: float = 0.1,
    learning_rate: float = 0.1,
) -> Tensor:
    """A better displacement (1, dims, *spatial) for moving and fixed (1, 2, *spatial), starting at the one given.

    A velocity field with B-spline control points every `spacing` voxels goes before the network's displacement. It
    starts at the identity and cannot fold; Adam optimises it for local correlation, `weight` keeps it smooth. The best
    that was met is returned, so more iterations never make it worse.
    """
    moving, fixed = image[:, :1].float(), image[:, 1:].float()
    shape = list(fixed.shape[2:])
    steps = [spacing] * len(shape)
    control_points = torch.zeros(1, len(shape), *control_shape(shape, steps), requires_grad=True)
    optimizer = torch.optim.Adam([control_points], lr=learning_rate)
    similarity, regulariser = LNCCLoss(min(9, *shape)), Diffusion()
    best, lowest = displacement, float("inf")
    # as many steps as iterations, and a last look at where they led
    for iteration in tqdm(range(iterations + 1), desc="Refining", leave=False, disable=None):
        with torch.set_grad_enabled(iteration < iterations):
            velocity = bspline_field(control_points, shape, steps)
            field = compose(integrate_velocity(velocity), displacement)
            loss = similarity(fixed, warp(moving, field)) + weight * regulariser(velocity)
        if float(loss.detach()) < lowest:
            best, lowest = field.detach(), float(loss.detach())
        if iteration < iterations:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return best
