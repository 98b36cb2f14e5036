from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import fft
from torch.nn import functional as F

from warpzoo.denoising.psf import GaussianPSF
from warpzoo.denoising.wiener import WienerFilter


@pytest.fixture
def make():
    """A filter whose result is not mixed with the pilot."""

    def make(photons, window=8):
        wiener = WienerFilter(window)
        wiener.fit(*photons)
        wiener.share.fill_(1)
        return wiener

    return make


@pytest.fixture
def photons():
    """An image of known light, in photons seen by a camera with read-out noise, gain 3 and an offset."""
    rows, columns = np.indices((160, 150))
    clean = 400 + 300 * np.sin(rows / 9) * np.cos(columns / 7) + 200 * ((rows // 20 + columns // 30) % 2)
    random = np.random.default_rng(0)
    noisy = 3 * random.poisson(clean / 3) + random.normal(0, 12, clean.shape) + 100
    return [torch.from_numpy(image).float()[None, None] for image in (noisy, clean + 100)]


def test_the_noise_is_found(photons):
    wiener = WienerFilter()
    wiener.fit(*photons)
    level = torch.tensor([200.0, 800.0])
    variance = wiener.slope * level + wiener.offset
    np.testing.assert_allclose(variance, 3 * (level - 100) + 144, rtol=0.05)
    assert 0 < float(wiener.least) < 144 + 3 * 400


def test_every_window_is_filtered_as_wiener_says(make, photons):
    noisy, pilot = (image[..., :13, :11] for image in photons)
    wiener = make(photons, 4)
    edged = [np.pad(image[0, 0].double().numpy(), 3, mode="edge") for image in (noisy, pilot)]
    total, weights = (np.zeros_like(edged[0]) for _ in range(2))
    for row in range(edged[0].shape[0] - 3):
        for column in range(edged[0].shape[1] - 3):
            window = slice(row, row + 4), slice(column, column + 4)
            kept, signal = (fft.dctn(image[window], norm="ortho") for image in edged)
            variance = float(wiener.slope) * edged[1][window] + float(wiener.offset)
            noise = np.maximum(variance, float(wiener.least)).mean()
            share = signal**2 / (signal**2 + noise)
            share[0, 0] = 1
            weight = 1 / (noise * (share**2).sum())
            total[window] += weight * fft.idctn(share * kept, norm="ortho")
            weights[window] += weight
    expected = (total / weights)[3:-3, 3:-3]
    np.testing.assert_allclose(wiener(noisy, pilot)[0, 0], expected, rtol=1e-4)


def test_it_takes_the_noise_and_leaves_the_image(make, photons):
    noisy, clean = photons
    wiener = make((noisy, clean))
    before, after = ((image - clean).square().mean().sqrt() for image in (noisy, wiener(noisy, clean)))
    assert after < 0.25 * before


def test_what_the_pilot_lost_comes_back(make, photons):
    noisy, clean = photons
    blurred = F.avg_pool2d(clean, 5, 1, 2, count_include_pad=False)
    wiener = make((noisy, blurred))
    before, after = ((image - clean).square().mean().sqrt() for image in (blurred, wiener(noisy, blurred)))
    assert after < 0.8 * before


def test_before_the_noise_is_known_the_pilot_passes(photons):
    assert torch.equal(WienerFilter()(*photons), photons[1])


def test_volumes_are_filtered_slice_by_slice(make, photons):
    wiener = make(photons, 4)
    noisy, pilot = (image[..., :40, :30].reshape(2, 1, 5, 8, 15) for image in photons)
    filtered = wiener(noisy, pilot)
    for index in range(5):
        torch.testing.assert_close(filtered[:, :, index], wiener(noisy[:, :, index], pilot[:, :, index]))


@pytest.mark.parametrize("size", [(1, 1), (3, 40)])
def test_small_images(make, photons, size):
    noisy, pilot = (image[..., : size[0], : size[1]] for image in photons)
    assert make(photons)(noisy, pilot).shape == noisy.shape


def test_noise_without_an_image(make):
    """Where the pilot is the same everywhere there is no line to fit, and each window's mean is what remains."""
    noisy = torch.randn(1, 1, 64, 64)
    wiener = make((noisy, torch.zeros_like(noisy)))
    assert float(wiener.offset) == pytest.approx(1, abs=0.1)
    assert wiener(noisy, torch.zeros_like(noisy)).std() < 0.2


def test_a_border_without_noise_does_not_count(photons):
    """As a mosaic or a registered image has it."""
    inside, framed = WienerFilter(), WienerFilter()
    inside.fit(*photons)
    framed.fit(*(F.pad(image, [90, 90, 60, 60]) for image in photons))
    level = torch.tensor([300.0, 900.0])
    np.testing.assert_allclose(framed.variance(level), inside.variance(level), rtol=0.1)


@pytest.mark.parametrize(("contrast", "sigma", "least", "most"), [(1, 5, 0, 0.4), (100, 5, 0.7, 1)])
def test_the_share_is_near_the_best(contrast, sigma, least, most):
    """Pilots are Gaussian blurs: too much of one for fine detail, and the right thing for a faint blob."""
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    blob = contrast * torch.exp(-((rows - 60) ** 2 + (columns - 70) ** 2) / (2 * (20 if contrast == 1 else 5) ** 2))
    noisy = (blob + sigma * torch.randn(128, 128, generator=torch.Generator().manual_seed(0)))[None, None]
    blur = GaussianPSF(2, 4.0)
    wiener = WienerFilter()
    pilot = blur(noisy)
    wiener.fit(noisy, pilot)
    probe = torch.randint_like(noisy, 2) * 2 - 1
    follows = [
        probe * (wiener.filtered(noisy + probe, blur(noisy + probe)) - wiener.filtered(noisy, pilot)),
        probe * (blur(noisy + probe) - pilot),
    ]
    wiener.choose_share([(noisy, pilot, wiener.filtered(noisy, pilot), *follows)])
    assert least <= float(wiener.share) <= most
    errors = []
    for share in (0.0, 1.0, float(wiener.share)):
        wiener.share.fill_(share)
        errors.append(float((wiener(noisy, pilot) - blob).square().mean()))
    assert errors[2] <= 1.02 * min(errors[:2])


def test_a_window_of_one_pixel_is_refused():
    with pytest.raises(ValueError, match="window must be .* got 1"):
        WienerFilter(1)
