"""Blind-spot losses against numpy's sums over the masked coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from warpzoo.losses import BlindSpotLoss, Positivity

SHAPES = [(9, 8), (5, 6, 7)]


def case(shape: tuple[int, ...], masks: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 2, *shape, generator=generator, dtype=torch.float64)
    return prediction, target, torch.rand(masks, 1, *shape, generator=generator) < 0.1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masks", [1, 3])
@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_error_at_the_masked_voxels(shape: tuple[int, ...], masks: int, norm: str, power: int) -> None:
    prediction, target, mask = case(shape, masks)
    errors = []
    for b, c in np.ndindex(3, 2):
        where = np.nonzero(mask[b % masks, 0].numpy())
        errors.extend(np.abs(prediction[b, c].numpy()[where] - target[b, c].numpy()[where]) ** power)
    assert BlindSpotLoss(norm)(prediction, target, mask).item() == pytest.approx(np.mean(errors), rel=1e-12)
    per_voxel = BlindSpotLoss(norm, "voxel")(prediction, target, mask).item()
    assert per_voxel == pytest.approx(np.sum(errors) / prediction.numel(), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_not_masked_does_not_matter(shape: tuple[int, ...]) -> None:
    prediction, target, mask = case(shape)
    elsewhere = torch.where(mask, prediction, 1e9).requires_grad_()
    value = BlindSpotLoss()(elsewhere, target, mask)
    torch.testing.assert_close(value, BlindSpotLoss()(prediction, target, mask))
    value.backward()
    hidden = mask.expand_as(elsewhere)
    assert bool((elsewhere.grad[~hidden] == 0).all())
    assert bool((elsewhere.grad[hidden] != 0).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_positivity_is_the_mean_of_what_is_below_zero(shape: tuple[int, ...]) -> None:
    phantom, _, _ = case(shape)
    assert Positivity()(phantom).item() == pytest.approx(-np.minimum(phantom.numpy(), 0).mean(), rel=1e-12)
    assert Positivity()(phantom.abs()).item() == 0


@pytest.mark.parametrize("shape", [(4, 5), (3, 3, 4)])
def test_gradients(shape: tuple[int, ...]) -> None:
    prediction, target, mask = case(shape)
    mask[:, :, 0] = True
    prediction.requires_grad_()
    for norm in ("l1", "l2"):
        for per in ("masked", "voxel"):
            loss = BlindSpotLoss(norm, per)
            torch.autograd.gradcheck(lambda p, loss=loss: loss(p, target, mask), (prediction,))
    torch.autograd.gradcheck(Positivity(), (prediction,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reckoned_in_float32(dtype: torch.dtype) -> None:
    prediction, target, mask = (x.to(dtype) if x.is_floating_point() else x for x in case((64, 64)))
    prediction = (prediction * 1000).requires_grad_()  # squares are beyond float16
    value = BlindSpotLoss()(prediction, target, mask)
    torch.testing.assert_close(value, BlindSpotLoss()(prediction.float(), target.float(), mask))
    assert Positivity()(prediction).dtype == value.dtype == torch.float32
    value.backward()
    assert bool(prediction.grad.isfinite().all())


def test_bad_input_is_named() -> None:
    prediction, target, mask = case((9, 8))
    loss = BlindSpotLoss()
    with pytest.raises(ValueError, match="norm must be one of .* got 'l3'"):
        BlindSpotLoss("l3")
    with pytest.raises(ValueError, match="per must be one of .* got 'pixel'"):
        BlindSpotLoss("l1", "pixel")
    with pytest.raises(ValueError, match="same shape"):
        loss(prediction, target[:, :1], mask)
    with pytest.raises(ValueError, match="mask must have 1 channel, got 2"):
        loss(prediction, target, mask.expand(3, 2, 9, 8))
    with pytest.raises(ValueError, match="mask must have a voxel above 0"):
        loss(prediction, target, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="prediction must be finite"):
        loss(prediction * torch.nan, target, mask)
    with pytest.raises(ValueError, match="phantom must be"):
        Positivity()(torch.zeros(3, 3))
