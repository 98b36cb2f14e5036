"""The sum over resolutions against the same sum written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from warpzoo.losses import MSELoss, MultiResolutionLoss, NCCLoss, TotalVariation


def levels(shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(
            torch.randn(2, channels, *(n // 2**k for n in shape), generator=generator, dtype=torch.float64)
            for channels in (1, 1, len(shape))
        )
        for k in range(3)
    ]


@pytest.mark.parametrize("shape", [(16, 12), (8, 12, 8)])
def test_sum_of_weighted_levels(shape: tuple[int, ...]) -> None:
    expected = {"similarity": 0.0, "regularity": 0.0}
    for weight, (fixed, warped, displacement) in zip((1.0, 0.6, 0.3), levels(shape), strict=True):
        pairs = zip(fixed.flatten(1).numpy(), warped.flatten(1).numpy(), strict=True)
        similarity = np.mean([np.corrcoef(f, w)[0, 1] for f, w in pairs])
        axes = range(2, displacement.dim())
        variation = sum(np.abs(np.diff(displacement.numpy(), axis=axis)).mean() for axis in axes)
        expected["similarity"] -= weight * similarity
        expected["regularity"] += weight * variation
    expected["loss"] = expected["similarity"] + 0.2 * expected["regularity"]
    loss = MultiResolutionLoss(NCCLoss(), TotalVariation(), [1.0, 0.6, 0.3], 0.2)
    assert loss(levels(shape)).item() == pytest.approx(expected["loss"], rel=1e-10)
    terms = loss.terms([[one.requires_grad_() for one in level] for level in levels(shape)])
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-10)
    assert [name for name, value in terms.items() if value.requires_grad] == ["loss"]


def test_gradient_reaches_every_level() -> None:
    loss = MultiResolutionLoss(MSELoss(), TotalVariation(), (1.0, 0.5), 0.1)
    tensors = [t.requires_grad_() for level in levels((8, 4))[:2] for t in level]
    torch.autograd.gradcheck(lambda *t: loss([t[:3], t[3:]]), tensors)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="weights must be"):
        MultiResolutionLoss(MSELoss(), TotalVariation(), [])
    with pytest.raises(ValueError, match="weights must be"):
        MultiResolutionLoss(MSELoss(), TotalVariation(), [1.0, -1.0])
    with pytest.raises(ValueError, match="regularisation_weight must be"):
        MultiResolutionLoss(MSELoss(), TotalVariation(), [1.0], -0.1)
    with pytest.raises(ValueError, match="levels must be 2 resolutions, .* got 3"):
        MultiResolutionLoss(MSELoss(), TotalVariation(), [1.0, 0.5])(levels((16, 12)))
