from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.exposure import match_histograms

from warpzoo.networks.intensity import Standardise, match_histogram, mean_and_deviation

SHAPES = [(3, 2, 17, 22), (2, 1, 9, 11, 7)]


def image(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 300 - 40


@pytest.mark.parametrize("shape", SHAPES)
def test_every_channel_of_every_image_on_its_own(shape):
    given_image = image(shape)
    axes = tuple(range(2, len(shape)))
    values = given_image.double().numpy()
    expected = (values - values.mean(axes, keepdims=True)) / values.std(axes, keepdims=True)
    np.testing.assert_allclose(Standardise()(given_image).numpy(), expected, rtol=0, atol=1e-5)


@given(gain=st.floats(1e-3, 1e4), offset=st.floats(-1e3, 1e3))
def test_gain_and_offset_do_not_matter(gain, offset):
    given_image = image((2, 1, 12, 15)).double()
    layer = Standardise()
    torch.testing.assert_close(layer(given_image * gain + offset), layer(given_image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1000.0, -3.5])
def test_a_constant_channel_becomes_0_and_leaves_the_others_alone(value):
    given_image = image((2, 2, 8, 16))
    given_image[0, 1] = value
    layer = Standardise()
    standard = layer(given_image)
    assert bool((standard[0, 1] == 0).all())
    torch.testing.assert_close(standard[0, :1], layer(given_image[:1, :1])[0])


@pytest.mark.parametrize("way", ["script", "trace", "export"])
def test_graphs_give_the_same(way):
    layer, given_image = Standardise(), image((2, 2, 9, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way == "script":
            graph = torch.jit.script(layer)
        elif way == "trace":
            graph = torch.jit.trace(layer, image((2, 2, 9, 8), seed=1))
        else:
            graph = torch.export.export(layer, (image((2, 2, 9, 8), seed=1),)).module()
    torch.testing.assert_close(graph(given_image), layer(given_image))


def test_gradient():
    layer = Standardise().double()
    assert torch.autograd.gradcheck(layer, image((1, 2, 3, 4)).double().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16])
def test_other_types_are_computed_in_float32(dtype):
    whole = image((1, 1, 20, 20)).abs().round().clamp(max=255)
    standard = Standardise()(whole.to(dtype))
    assert standard.dtype == torch.float32
    torch.testing.assert_close(standard, Standardise()(whole))


@pytest.mark.parametrize("shape", [(2, 1, 60, 70), (1, 2, 20, 24, 22)])
def test_histograms_are_matched_as_scikit_image_does(shape):
    here, there = image(shape), image(shape, 1).square()
    found = match_histogram(here, there, knots=256)
    for item in range(shape[0]):
        for channel in range(shape[1]):
            expected = match_histograms(here[item, channel].numpy(), there[item, channel].numpy())
            scale = float(there[item, channel].std())
            np.testing.assert_allclose(found[item, channel].numpy(), expected, rtol=0, atol=0.02 * scale)
    torch.testing.assert_close(match_histogram(here, here), here, rtol=0, atol=1e-2)
    assert bool(match_histogram(here, torch.full_like(here, 3.0)).eq(3).all())


def test_mean_and_deviation_restore_what_was_standardised():
    given_image = image((2, 2, 17, 22))
    mean, deviation = mean_and_deviation(given_image)
    torch.testing.assert_close(Standardise()(given_image) * deviation + mean, given_image, rtol=0, atol=1e-3)
    assert bool((mean_and_deviation(torch.full((1, 1, 4, 4), 7.0))[1] == 1).all())
