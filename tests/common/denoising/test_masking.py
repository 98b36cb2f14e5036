from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from warpzoo.denoising.masking import BlindSpotMask

SHAPES = [(37, 50), (13, 22, 17)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def index_image(shape, batch=1):
    """Every voxel holds its own number, so a replacement tells where it was read."""
    return torch.arange(prod(shape)).view(1, 1, *shape).expand(batch, -1, *[-1] * len(shape)).clone()


def moves(mask_layer, shape, batch, seed=0):
    """For every hidden voxel: (item, coordinates), and the step to where its replacement was read."""
    image = index_image(shape, batch)
    masked, mask = mask_layer(image, seeded(seed))
    hidden = np.stack(np.unravel_index(image[mask].numpy(), shape), axis=1)
    source = np.stack(np.unravel_index(masked[mask].numpy(), shape), axis=1)
    return hidden, source - hidden


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1, 2, 5])
def test_replacements_are_untouched_neighbours_and_never_the_voxel_itself(shape, radius):
    # With a quarter (an eighth) hidden, a second-hand replacement would soon come from beyond the radius.
    _, steps = moves(BlindSpotMask(0.5 ** len(shape), radius), shape, batch=4)
    reach = np.abs(steps).max(axis=1)
    assert reach.min() == 1
    assert reach.max() == radius


@pytest.mark.parametrize(("shape", "radius"), [((41, 35), 2), ((21, 17, 19), 1)])
def test_inner_voxels_draw_uniformly_from_all_their_neighbours(shape, radius):
    hidden, steps = moves(BlindSpotMask(1 / 16, radius), shape, batch=60)
    inner = ((hidden >= radius) & (hidden < np.array(shape) - radius)).all(axis=1)
    neighbours, counts = np.unique(steps[inner], axis=0, return_counts=True)
    assert len(neighbours) == (2 * radius + 1) ** len(shape) - 1
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4)])
def test_border_voxels_draw_uniformly_from_the_neighbours_there_are(shape):
    # One cell, so every voxel of the image (all are at a border or near one) is hidden in some items.
    hidden, steps = moves(BlindSpotMask(1 / prod(shape)), shape, batch=20_000)
    for voxel in product(*map(range, shape)):
        there = (hidden == voxel).all(axis=1)
        reachable = prod(min(x + 2, size - 1) - max(x - 2, 0) + 1 for x, size in zip(voxel, shape, strict=True)) - 1
        sources, counts = np.unique(steps[there] + voxel, axis=0, return_counts=True)
        assert len(sources) == reachable
        assert bool(((sources >= 0) & (sources < shape)).all())
        assert chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(("shape", "edge"), [((12, 18), 6), ((9, 6, 12), 3)])
def test_every_cell_hides_one_voxel_and_each_of_its_voxels_is_as_likely(shape, edge):
    dims = len(shape)
    _, mask = BlindSpotMask(edge**-dims)(torch.zeros(3000, 1, *shape), seeded())
    cells = mask.reshape(3000, *[n for size in shape for n in (size // edge, edge)])
    axes = tuple(range(2, 2 + 2 * dims, 2))
    assert bool((cells.sum(axes) == 1).all())
    assert chisquare(mask.sum((0, 1)).flatten().numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("shape", "fraction", "count"),
    [((37, 50), 1 / 36, 6 * 8), ((3, 4), 1 / 36, 1), ((1, 50), 1 / 25, 10), ((13, 22, 17), 1 / 27, 4 * 7 * 6)],
)
def test_any_size_has_about_the_wanted_fraction_and_at_least_one(shape, fraction, count):
    masked, mask = BlindSpotMask(fraction)(torch.rand(3, 2, *shape), seeded())
    assert masked.shape == (3, 2, *shape)
    assert mask.shape == (3, 1, *shape)
    assert mask.dtype == torch.bool
    assert mask.flatten(1).sum(1).tolist() == [count] * 3


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_not_hidden_and_the_input_stay_as_they_were(shape):
    image = torch.randn(2, 3, *shape, generator=seeded())
    before = image.clone()
    masked, mask = BlindSpotMask()(image, seeded())
    assert torch.equal(image, before)
    assert torch.equal(masked.where(~mask, 0), image.where(~mask, 0))
    assert bool((masked != image)[mask.expand_as(image)].all())  # a continuous image has no equal neighbours


def test_channels_get_the_same_neighbour():
    image = index_image((20, 21)).repeat(2, 3, 1, 1) + torch.tensor([0, 1000, 2000]).view(1, 3, 1, 1)
    masked, mask = BlindSpotMask()(image, seeded())
    sources = masked - torch.tensor([0, 1000, 2000]).view(1, 3, 1, 1)
    assert torch.equal(sources[:, :1].expand_as(sources), sources)
    assert bool((masked != image)[mask.expand_as(image)].all())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.float64])
def test_data_type_is_kept(dtype):
    masked, _ = BlindSpotMask()(torch.ones(1, 1, 12, 12, dtype=dtype), seeded())
    assert masked.dtype == dtype


@pytest.mark.parametrize("shape", SHAPES)
def test_the_seed_decides_and_items_of_a_batch_differ(shape):
    image = index_image(shape, batch=4)
    layer = BlindSpotMask()
    first, again, other = layer(image, seeded(1)), layer(image, seeded(1)), layer(image, seeded(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    for item, neighbour in zip(first[1], first[1].roll(1, 0), strict=True):
        assert not torch.equal(item, neighbour)
    generator = seeded(1)
    layer(image, generator)
    assert not torch.equal(layer(image, generator)[1], first[1])
    torch.manual_seed(1)
    default = layer(image)
    torch.manual_seed(1)
    assert torch.equal(default[0], layer(image)[0])


@pytest.mark.parametrize("shape", [(256, 256), (40, 40, 40)])
def test_the_mask_does_not_look_at_values_so_photon_counts_stay_unbiased(shape):
    rate = 0.3
    counts = torch.poisson(torch.full((16, 1, *shape), rate), generator=seeded())
    masked, mask = BlindSpotMask()(counts, seeded(5))
    _, of_nothing = BlindSpotMask()(torch.zeros_like(counts), seeded(5))
    assert torch.equal(mask, of_nothing)
    deviation = (rate / mask.sum().item()) ** 0.5
    assert counts[mask].mean().item() == pytest.approx(rate, abs=4 * deviation)
    # The trap: a mask made of what has changed drops equal neighbours, and doubles what the network learns.
    assert counts[masked != counts].mean().item() > 1.9 * rate


def test_a_radius_of_0_keeps_replacements_in_their_slice():
    _, steps = moves(BlindSpotMask(1 / 27, radius=[0, 1, 3]), (9, 20, 21), batch=8)
    assert np.abs(steps).max(axis=0).tolist() == [0, 1, 3]
    assert np.abs(steps).max(axis=1).min() == 1


def test_gradient_reaches_the_neighbour_and_not_the_hidden_voxel():
    image = torch.rand(1, 1, 6, 6, generator=seeded(), requires_grad=True)
    masked, mask = BlindSpotMask()(image, seeded())
    masked.sum().backward()
    gradient = image.grad
    assert gradient[mask].tolist() == [0]
    assert sorted(gradient[~mask].tolist()) == [1] * 34 + [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0}, "fraction must be in .* got 0"),
        ({"fraction": 0.3}, "fraction must be in .* got 0.3"),
        ({"radius": 0}, "radius must be .* got 0"),
        ({"radius": -1}, "radius must be .* got -1"),
        ({"radius": [2, -1]}, "radius must be"),
        ({"radius": []}, "radius must be"),
        ({"radius": 1.5}, "radius must be .* got 1.5"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        BlindSpotMask(**options)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (5, 5), "image must be"),
        ({}, (1, 1, 1, 1), "image must have neighbours"),
        ({"radius": [0, 2]}, (1, 1, 8, 1), "image must have neighbours"),
        ({"radius": [2, 2, 2]}, (1, 1, 8, 8), "radius must be"),
        ({"fraction": 0.2}, (1, 1, 8, 8, 8), r"fraction must be in \(0, 0.125\] in 3-D, got 0.2"),
    ],
)
def test_bad_images_are_named(options, shape, message):
    with pytest.raises(ValueError, match=message):
        BlindSpotMask(**options)(torch.ones(shape))
    with pytest.raises(ValueError, match="NaN"):
        BlindSpotMask()(torch.full((1, 1, 8, 8), torch.nan))
