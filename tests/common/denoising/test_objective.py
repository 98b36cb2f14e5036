from __future__ import annotations

import pytest
import torch
from torch import nn

from warpzoo.denoising.hot_pixels import HotPixels
from warpzoo.denoising.masking import BlindSpotMask
from warpzoo.denoising.objective import BlindSpotObjective


class Constant(nn.Module):
    """Says the same everywhere; normalises by halving."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.register_buffer("background", torch.tensor(4.0))
        self.hot = HotPixels()
        self.psf = nn.Identity()
        self.seen: torch.Tensor | None = None

    def normalise(self, image):
        return image / 2

    def phantom(self, image):
        self.seen = image
        return self.value.expand_as(image)


def test_the_error_is_that_of_normalised_images_where_they_are_hidden():
    image = torch.rand(2, 1, 24, 24) * 10 + 10
    network = Constant(3.0)
    torch.manual_seed(5)
    terms = BlindSpotObjective(network, BlindSpotMask(0.1))(image)
    torch.manual_seed(5)
    masked, mask = BlindSpotMask(0.1)(image)
    assert torch.equal(network.seen, masked / 2)
    torch.testing.assert_close(terms["error"], (3 - image / 2)[mask].square().mean())
    assert float(terms["negative"]) == 0
    torch.testing.assert_close(terms["loss"], terms["error"])


def test_light_below_the_background_costs():
    terms = BlindSpotObjective(Constant(1.5), positivity=2.0)(torch.full((1, 1, 12, 12), 3.0))
    assert float(terms["negative"]) == pytest.approx(4 / 2 - 1.5)
    assert float(terms["loss"]) == pytest.approx(2 * 0.5)


def test_few_photons_bias_nothing():
    """At 0.3 photons a pixel, what is learnt is 0.3, although most replacements equal what they replace."""
    torch.manual_seed(0)
    network = Constant(0.0)
    objective = BlindSpotObjective(network, positivity=0.0)
    image = torch.poisson(torch.full((64, 1, 64, 64), 0.3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    for _ in range(30):
        optimizer.zero_grad()
        objective(image)["loss"].backward()
        optimizer.step()
    assert 2 * float(network.value) == pytest.approx(0.3, rel=0.04)  # 7,744 hidden pixels a step: ± 0.006
