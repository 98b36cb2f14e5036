from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from torch import nn

from warpzoo.denoising.psf import GaussianPSF, MeasuredPSF
from warpzoo.denoising.tiles import Tiles
from warpzoo.images.stacks import open_stack

SIZES = {2: (75, 101), 3: (23, 34, 29)}


@pytest.fixture
def make(bundle, arouse):
    """A network whose weights do something, in evaluation mode; `trained=False` as its constructor makes it."""
    bundle("psf_blindspot")
    from psf_blindspot.network import PSFBlindSpot

    def make(dims=2, trained=True, **options):
        torch.manual_seed(0)
        network = PSFBlindSpot(dims, **{"channels": 4, "psf": GaussianPSF(dims, 1.0), **options})
        network.mean.fill_(50.0)
        network.deviation.fill_(20.0)
        if trained and network.wiener is not None:
            network.wiener.fit(network.normalise(noisy(SIZES[dims])), torch.zeros(1, 1, *SIZES[dims]))
            network.wiener.share.fill_(0.7)
        return arouse(network, noisy(SIZES[dims])) if trained else network.eval()

    return make


def noisy(size, batch=1):
    return torch.poisson(torch.full((batch, 1, *size), 50.0))


@pytest.mark.parametrize(
    ("dims", "options"),
    [
        (2, {}),
        (2, {"levels": 2, "fold": 1, "blurs": []}),
        (2, {"window": 0}),
        (2, {"window": 5}),
        (2, {"psf": MeasuredPSF(torch.rand(5, 9))}),
        (2, {"psf": None, "levels": 2, "fold": 3}),
        (3, {"levels": 2, "blurs": [0, 1], "psf": GaussianPSF(3, [2.0, 1.0, 1.0])}),
    ],
)
def test_tiles_give_what_the_whole_image_gives(make, tmp_path, dims, options):
    network = make(dims, **options)
    image = noisy(SIZES[dims])
    tifffile.imwrite(tmp_path / "in.tif", image[0, 0].numpy(), metadata={"axes": "ZYX"[-dims:]})
    tiles = Tiles(open_stack(tmp_path / "in.tif", dims), network.halo, network.alignment, size=16)
    assert len(tiles) > 3
    whole, pieces = network(image)[0, 0].detach(), torch.full(SIZES[dims], torch.nan)
    with torch.no_grad():
        for index in range(len(tiles)):
            tile = tiles.tiles[index]
            pieces[tile.keep] = tile.core(network(tiles[index]["image"][None])[0, 0])
    assert whole.std() > 0.5
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("dims", [2, 3])
def test_an_untrained_network_blurs_and_its_psf_blurs_once_more(make, dims):
    sigmas = (0, 1, 2)
    network = make(dims, trained=False, blurs=sigmas, psf=GaussianPSF(dims, 1.5))
    image = noisy(SIZES[dims])
    array = image[0, 0].numpy().astype(np.float64)
    blurred = sum(ndimage.gaussian_filter(array, side, mode="nearest", truncate=6) for side in sigmas) / len(sigmas)
    expected = ndimage.gaussian_filter(blurred, 1.5, mode="nearest", truncate=6)
    np.testing.assert_allclose(network(image)[0, 0].detach(), expected, atol=0.02)


def test_intensities_are_the_images_whatever_their_unit(make):
    network = make()
    image = noisy((40, 44))
    plain = network(image)
    network.mean.mul_(100).add_(7)
    network.deviation.mul_(100)
    torch.testing.assert_close(network(100 * image + 7), 100 * plain + 7, rtol=1e-4, atol=1e-2)


def test_a_learnable_psf_is_part_of_the_weights(make):
    network = make(psf=GaussianPSF(2, 1.0, learnable=True))
    network(noisy((32, 32))).square().mean().backward()
    assert bool((network.psf.log_ratio.grad != 0).all())
    assert "psf.log_ratio" in network.state_dict()
    with pytest.raises(RuntimeError, match="psf"):
        make(psf=nn.Identity()).load_state_dict(network.state_dict())


def test_messages(make):
    with pytest.raises(ValueError, match=r"\(batch, 1, \*spatial\) with 2"):
        make()(torch.zeros(1, 2, 32, 32))
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 4"):
        make(4, trained=False, psf=None)
    with pytest.raises(ValueError, match="channels, levels and fold must be 1 or more"):
        make(levels=0)
    with pytest.raises(ValueError, match="psf must have the network's 2 axes, got 3"):
        make(psf=MeasuredPSF(torch.rand(3, 5, 9)))
