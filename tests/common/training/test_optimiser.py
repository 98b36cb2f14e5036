from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from warpzoo.networks import channels_last_weights
from warpzoo.training.optimiser import Muon


def gradients(shape, steps=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def after(optimiser, parameter, steps):
    for gradient in steps:
        parameter.grad = gradient.clone()
        optimiser.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 6)])
def test_matrices_move_as_with_torchs_muon(shape):
    ours, theirs = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
    ours = after(Muon([ours], lr=0.1), ours, gradients(shape))
    theirs = after(torch.optim.Muon([theirs], lr=0.1, weight_decay=0), theirs, gradients(shape))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01)  # theirs is computed in bfloat16
    assert theirs.abs().mean() > 0.03


@pytest.mark.parametrize("shape", [(16, 4, 3, 3), (4, 16, 1, 1), (8, 2, 3, 3, 3)])
def test_a_kernel_is_the_matrix_of_its_outputs(shape):
    kernel, matrix = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape[0], int(np.prod(shape[1:]))))
    moved = after(Muon([kernel]), kernel, gradients(shape))
    expected = after(Muon([matrix]), matrix, [gradient.flatten(1) for gradient in gradients(shape)])
    torch.testing.assert_close(moved.flatten(1), expected)


def test_a_step_turns_nothing_and_makes_all_directions_equal():
    gradient = gradients((6, 10), 1)[0] * torch.logspace(0, 1.5, 6)[:, None]
    weight = nn.Parameter(torch.zeros(6, 10))
    step = -after(Muon([weight], lr=1.0), weight, [gradient]).numpy()
    left, values, right = np.linalg.svd(gradient.numpy(), full_matrices=False)
    assert values[0] / values[-1] > 20
    seen = left.T @ step @ right.T
    assert np.allclose(seen, np.diag(np.diag(seen)), atol=1e-4)
    assert 0.6 < np.diag(seen).min() <= np.diag(seen).max() < 1.3


@pytest.mark.parametrize("shape", [(5,), (), (3, 16, 1, 1), (2, 64)])
def test_heads_norms_and_biases_move_as_with_adam(shape):
    ours, theirs = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))
    ours = after(Muon([ours], lr=0.1), ours, gradients(shape))
    torch.testing.assert_close(ours, after(torch.optim.Adam([theirs], lr=0.01), theirs, gradients(shape)))
    assert (ours - 1).abs().mean() > 0.005


def small():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    channels_last_weights(network)
    return network


def train(network, optimiser, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimiser.zero_grad()
        network(torch.rand(2, 1, 9, 9, generator=generator)).square().mean().backward()
        optimiser.step()


def test_goes_on_from_its_state_as_if_it_had_never_stopped():
    network = small()
    optimiser = Muon(network.parameters())
    train(network, optimiser, 3, 1)
    resumed = small()
    resumed.load_state_dict(network.state_dict())
    successor = Muon(resumed.parameters())
    successor.load_state_dict(deepcopy(optimiser.state_dict()))
    train(network, optimiser, 3, 2)
    train(resumed, successor, 3, 2)
    for parameter, again in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(parameter, again)


def test_what_has_no_gradient_stays_and_gradients_are_kept():
    network = small()
    network[2].requires_grad_(False)
    before = [parameter.detach().clone() for parameter in network[2].parameters()]
    optimiser = Muon(network.parameters())
    train(network, optimiser, 1, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, network[2].parameters(), strict=True))
    assert network[0].weight.grad.abs().sum() > 0


def test_a_schedule_scales_both_rates():
    optimiser = Muon(small().parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, factor=0.5)
    assert [group["lr"] for group in optimiser.param_groups] == [0.05, 0.005]
    assert schedule.get_last_lr() == [0.05, 0.005]


def test_a_copy_and_a_checkpoint_have_its_momentum():
    network = small()
    optimiser = Muon(network.parameters(), momentum=0.5)
    resumed = Muon(small().parameters())
    resumed.load_state_dict(deepcopy(optimiser.state_dict()))
    for one in (deepcopy(optimiser), resumed):
        assert one.param_groups[0]["momentum"] == 0.5


def test_rates_out_of_range():
    for options in ({"lr": -1.0}, {"momentum": 1.0}):
        with pytest.raises(ValueError, match="lr must be .* and momentum"):
            Muon(small().parameters(), **options)
