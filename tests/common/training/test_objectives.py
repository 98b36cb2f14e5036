from __future__ import annotations

import pytest
import torch
from torch import nn

from warpzoo.geometry.sampling import warp
from warpzoo.losses import Agreement, Diffusion, MSELoss, MultiResolutionLoss, NCCLoss
from warpzoo.training import PairAugmentation
from warpzoo.training.objectives import MultiResolutionObjective, RegistrationObjective, total_loss

SHAPES = [(9, 12), (6, 8, 7)]


class Shift(nn.Module):
    """Displaces every voxel by a learnable vector plus a ramp along the first axis."""

    def __init__(self, dims):
        super().__init__()
        self.vector = nn.Parameter(torch.linspace(0.3, 0.7, dims))

    def forward(self, image):
        moving = image[:, :1]
        ramp = torch.linspace(0, 1, image.shape[2]).view(1, 1, -1, *[1] * (image.dim() - 3))
        field = (self.vector.view(1, -1, *[1] * (image.dim() - 2)) * (1 + ramp)).expand(
            image.shape[0], -1, *image.shape[2:]
        )
        return torch.cat([warp(moving, field), field], 1)


def pairs(shape, batch=2):
    return torch.rand(batch, 2, *shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_is_similarity_plus_weight_times_regularity(shape):
    network, image = Shift(len(shape)), pairs(shape)
    terms = RegistrationObjective(network, MSELoss(), Diffusion(), weight=0.25)(image)
    prediction = network(image)
    similarity = (image[:, 1] - prediction[:, 0]).square().mean()
    # The field's only slope is the ramp's, along axis 0.
    regularity = (network.vector / (shape[0] - 1)).square().mean()
    torch.testing.assert_close(terms["similarity"], similarity.detach())
    torch.testing.assert_close(terms["regularity"], regularity.detach())
    torch.testing.assert_close(terms["loss"], similarity + 0.25 * regularity)
    assert not terms["similarity"].requires_grad
    assert total_loss(terms) is terms["loss"]


@pytest.mark.parametrize("shape", SHAPES)
def test_symmetric_is_the_mean_of_both_directions(shape):
    network, image = Shift(len(shape)), pairs(shape, batch=3)
    swapped = torch.stack([image[:, 1], image[:, 0]], 1)
    one_way = RegistrationObjective(network, NCCLoss(), Diffusion(), weight=2.0)
    both = RegistrationObjective(network, NCCLoss(), Diffusion(), weight=2.0, symmetric=True)
    there, back = one_way(image), one_way(swapped)
    for name, value in both(image).items():
        torch.testing.assert_close(value, (there[name] + back[name]) / 2)
    assert not torch.isclose(there["loss"], back["loss"])
    torch.testing.assert_close(both(image)["loss"], both(swapped)["loss"])


@pytest.mark.parametrize("shape", SHAPES)
def test_agreement_is_of_both_ways_of_each_pair(shape):
    network, image = Shift(len(shape)), pairs(shape, batch=3)
    plain = RegistrationObjective(network, MSELoss(), symmetric=True)(image)
    terms = RegistrationObjective(network, MSELoss(), symmetric=True, agreement=0.5)(image)
    ways = [network(image), network(image.flip(1))]
    each = []  # pair by pair: another pair's way back would disagree as well
    for index in range(3):
        prediction = torch.stack([way[index] for way in ways])
        each.append(Agreement()(image[index].flip(0)[:, None], prediction[:, :1], prediction[:, 1:]))
    torch.testing.assert_close(terms["disagreement"], torch.stack(each).mean().detach())
    torch.testing.assert_close(terms["loss"], plain["loss"] + 0.5 * terms["disagreement"])
    assert 0.1 < terms["disagreement"].item() < 1
    assert not terms["disagreement"].requires_grad


def test_agreement_wants_both_ways():
    with pytest.raises(ValueError, match=r"agreement must be 0 unless each pair is registered both ways .*got 0\.5"):
        RegistrationObjective(Shift(2), MSELoss(), agreement=0.5)
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="must be a weight of 0 or more"):
            RegistrationObjective(Shift(2), MSELoss(), symmetric=True, agreement=weight)


def test_gradient_is_that_of_the_loss():
    network, image = Shift(2), pairs((9, 12))
    objective = RegistrationObjective(network, MSELoss(), Diffusion(), weight=0.5)
    objective(image)["loss"].backward()
    numeric = []
    for component in range(2):
        values = []
        for step in (-1e-2, 1e-2):
            with torch.no_grad():
                network.vector[component] += step
                values.append(float(objective(image)["loss"]))
                network.vector[component] -= step
        numeric.append((values[1] - values[0]) / 2e-2)
    torch.testing.assert_close(network.vector.grad, torch.tensor(numeric), rtol=0.05, atol=1e-3)


def test_the_moving_image_is_the_first_channel():
    image = torch.zeros(1, 2, 16, 16)
    image[0, 0, 5, 5] = image[0, 1, 4, 5] = 1.0
    network = Shift(2)
    network.forward = lambda image: torch.cat([warp(image[:, :1], down), down], 1)  # what is at 5 comes to 4
    down = torch.zeros(1, 2, 16, 16)
    down[:, 0] = 1
    assert float(RegistrationObjective(network, MSELoss())(image)["loss"]) == pytest.approx(0, abs=1e-10)


def test_augmentation_in_training_only():
    network, image = Shift(2), pairs((12, 12))
    objective = RegistrationObjective(network, MSELoss(), augmentation=PairAugmentation(rotation=40, gamma=0.5))
    plain = RegistrationObjective(network, MSELoss())(image)["loss"]
    assert not torch.isclose(objective(image)["loss"], plain)
    assert not torch.isclose(objective(image)["loss"], objective(image)["loss"])
    assert torch.equal(objective.eval()(image)["loss"], plain)


def test_network_alone_is_what_a_checkpoint_would_hold():
    network = Shift(2)
    objective = RegistrationObjective(network, MSELoss(), Diffusion(), 1.0, augmentation=PairAugmentation(shift=1))
    assert objective.network is network
    assert list(network.state_dict()) == ["vector"]
    assert [name for name, _ in objective.named_parameters()] == ["network.vector"]


@pytest.mark.parametrize(("regulariser", "weight"), [(None, 1.0), (Diffusion(), 0.0)])
def test_weight_and_regulariser_belong_together(regulariser, weight):
    with pytest.raises(ValueError, match="weight must be above 0 with a regulariser and 0 without"):
        RegistrationObjective(Shift(2), MSELoss(), regulariser, weight)


class Everywhere(nn.Module):
    """The same displacement everywhere, at three resolutions."""

    coarsest = 4

    def __init__(self, voxels: float) -> None:
        super().__init__()
        self.voxels = nn.Parameter(torch.tensor(voxels))

    def levels(self, image: torch.Tensor) -> list[torch.Tensor]:
        dims, shape = image.dim() - 2, list(image.shape[2:])
        fields = [
            self.voxels / 2**level * torch.ones(1, dims, *[size // 2**level for size in shape]) for level in (0, 1, 2)
        ]
        return [field.expand(len(image), *field.shape[1:]) for field in fields]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image[:, :1], self.levels(image)[0]], 1)


def level_loss() -> MultiResolutionLoss:
    return MultiResolutionLoss(MSELoss(), Diffusion(), weights=(1.0, 0.5, 0.25))


@pytest.mark.parametrize("shape", [(16, 24), (16, 12, 20)])
def test_distance_from_what_is_known_counts_at_every_level(shape):
    dims = len(shape)
    image = torch.rand(2, 4, *shape, generator=torch.Generator().manual_seed(3))
    truth = torch.full((2, dims, *shape), 1.0)
    truth[1] = torch.nan  # nothing is known of the second pair
    network = Everywhere(2.2)
    terms = MultiResolutionObjective(network, level_loss(), known=0.3)(torch.cat([image, truth], 1))
    assert list(terms) == ["loss", "similarity", "regularity", "distance"]
    apart = [1.2 * dims**0.5 / 2**level for level in (0, 1, 2)]
    expected = sum(w * ((a * a + 0.01) ** 0.5 - 0.1) for w, a in zip((1.0, 0.5, 0.25), apart, strict=True))
    assert float(terms["distance"]) == pytest.approx(expected, rel=1e-5)
    without = MultiResolutionObjective(network, level_loss())(image)["loss"]
    torch.testing.assert_close(terms["loss"], without + 0.3 * expected)
    terms["loss"].backward()
    assert network.voxels.grad is not None
    assert network.voxels.grad.isfinite()
    slope = float(network.voxels.grad)
    network.zero_grad()
    without_known = MultiResolutionObjective(network, level_loss())
    without_known(image)["loss"].backward()
    slopes = [dims**0.5 / 2**level * a / (a * a + 0.01) ** 0.5 for level, a in enumerate(apart)]
    expected = 0.3 * sum(w * one for w, one in zip((1.0, 0.5, 0.25), slopes, strict=True))
    assert slope - float(network.voxels.grad) == pytest.approx(expected, rel=1e-3)


def test_what_earlier_passes_found_counts_as_well():
    """Where one pass finds half of the way, a second one finds the rest."""
    image = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    truth = torch.full((1, 2, 16, 16), 3.0)
    objective = MultiResolutionObjective(Everywhere(1.5), level_loss(), passes=1, known=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        distances = {round(float(objective(torch.cat([image, truth], 1))["distance"]), 3) for _ in range(8)}
    one_short = sum(w * (((1.5 * 2**0.5 / 2**n) ** 2 + 0.01) ** 0.5 - 0.1) for n, w in enumerate((1.0, 0.5, 0.25)))
    assert distances == {0.0, round(one_short, 3)}
