"""A network's training on the sequence at hand: pairs of its frames, by the bundle's own objective."""

from __future__ import annotations

import time
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from warpzoo.images.series import Series
from warpzoo.networks import load_weights, read_about, save_weights
from warpzoo.registration.budget import Budget
from warpzoo.registration.network import NetworkMethod
from warpzoo.registration.preflight import broken_values

RATE = 3e-4
BATCH = 4
"""Pairs in a step."""
KEPT = 64
"""Frames that pairs are drawn from: of more they are evenly chosen."""


def train_on_frames(method: NetworkMethod, series: Series, budget: Budget, seed: int, save: Path) -> None:
    """Trains the method's network from its weights, and writes what it has learnt into a file.

    Nothing is held back: a noisy frame is no copy of another, and what is learnt is for these frames alone.
    """
    step = -(-len(series) // KEPT)
    frames = [image.array for number in range(0, len(series), step) if not any(broken_values(image := series[number]))]
    if len(frames) < 2:
        raise ValueError(f"{series.path} must have two frames that show something to train on, got {len(frames)}.")
    network = deepcopy(method.network).to(method.device)
    load_weights(method.weights, network)
    network.train().requires_grad_(True)
    objective = method.objective(network).to(method.device).train()
    adam = torch.optim.Adam([one for one in objective.parameters() if one.requires_grad], lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    begun, steps = time.perf_counter(), 0
    with tqdm(desc="Training on the frames", unit="step", disable=None) as bar, torch.enable_grad():
        while (time.perf_counter() - begun if budget.seconds else steps) < budget.amount:
            loss: Tensor = objective(_pairs(frames, generator).to(method.device))["loss"]
            adam.zero_grad()
            loss.backward()
            adam.step()
            steps += 1
            bar.update()
    save_weights(save, network, read_about(method.weights))


def _pairs(frames: list[Tensor], generator: torch.Generator) -> Tensor:
    """(BATCH, 2, *spatial) of different frames."""
    chosen = [torch.randperm(len(frames), generator=generator)[:2].tolist() for _ in range(BATCH)]
    return torch.stack([torch.cat([frames[one][:1], frames[other][:1]]) for one, other in chosen])
