from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from scipy import ndimage
from torch import nn

from warpzoo.denoising.psf import GaussianPSF, MeasuredPSF, is_isotropic, make_psf


@pytest.mark.parametrize("sigma", [0.5, 1.0, [1.5, 0.7], 3])
def test_gaussian_is_scipys(sigma):
    image = np.random.default_rng(0).normal(size=(2, 3, 31, 24))
    blurred = GaussianPSF(2, sigma)(torch.from_numpy(image).float())
    sides = sigma if isinstance(sigma, list) else [sigma] * 2
    expected = ndimage.gaussian_filter(image, [0, 0, *sides], mode="nearest", truncate=6)
    np.testing.assert_allclose(blurred, expected, atol=4e-4)  # scipy's reaches further


def test_gaussian_in_3d_with_a_sigma_per_axis():
    volume = np.random.default_rng(0).normal(size=(9, 14, 12))
    blurred = GaussianPSF(3, [2.0, 0.8, 1.2])(torch.from_numpy(volume).float()[None, None])[0, 0]
    expected = ndimage.gaussian_filter(volume, [2.0, 0.8, 1.2], mode="nearest", truncate=6)
    np.testing.assert_allclose(blurred, expected, atol=4e-4)


def test_measured_psf_is_scipys_convolution_not_its_mirror_image():
    random = np.random.default_rng(0)
    kernel, image = random.uniform(size=(5, 7)), random.normal(size=(20, 30))
    blurred = MeasuredPSF(torch.from_numpy(kernel))(torch.from_numpy(image).float()[None, None])[0, 0]
    expected = ndimage.convolve(image, kernel / kernel.sum(), mode="nearest")
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_measured_psf_from_a_file(tmp_path):
    import tifffile

    kernel = np.arange(15, dtype=np.uint16).reshape(3, 5)
    tifffile.imwrite(tmp_path / "bead.tif", kernel)
    from_file = MeasuredPSF(tmp_path / "bead.tif")
    assert torch.equal(from_file.kernel, MeasuredPSF(torch.from_numpy(kernel.astype(np.float32))).kernel)
    tifffile.imwrite(tmp_path / "even.tif", kernel[:2])
    with pytest.raises(ValueError, match=r"even\.tif must have .* odd .* got 2 × 5 pixels"):
        MeasuredPSF(tmp_path / "even.tif")


@pytest.mark.parametrize("psf", [GaussianPSF(2, 2.0), MeasuredPSF(torch.rand(5, 3))])
def test_constant_images_and_what_lies_beyond_the_reach_stay(psf):
    constant = torch.full((1, 1, 8, 3), 7.0)
    torch.testing.assert_close(psf(constant), constant)
    spot = torch.zeros(1, 1, 41, 41)
    spot[..., 20, 20] = 1
    seen = psf(spot)[0, 0].nonzero()
    assert (seen - 20).abs().max() <= psf.reach


def test_learnable_sigma_finds_the_blur_of_an_image():
    torch.manual_seed(0)
    phantom = torch.rand(1, 1, 48, 48)
    image = torch.from_numpy(ndimage.gaussian_filter(phantom.numpy(), [0, 0, 1.6, 0.8], mode="nearest"))
    psf = GaussianPSF(2, 1.0, learnable=True)
    optimizer = torch.optim.Adam(psf.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.mse_loss(psf(phantom), image).backward()
        optimizer.step()
    np.testing.assert_allclose(psf.sigma().detach(), [1.6, 0.8], atol=0.02)
    assert GaussianPSF(2, 1.0).log_ratio.requires_grad is False


@pytest.mark.parametrize("sigma", [0, -1, [1, 2, 3]])
def test_impossible_sigmas(sigma):
    with pytest.raises(ValueError, match="sigma must be"):
        GaussianPSF(2, sigma)


def test_weights_of_another_psf_are_refused():
    with pytest.raises(ValueError, match="psf_sigma must be 3 × 3, .* got 1 × 1"):
        GaussianPSF(2, 1.0).load_state_dict(GaussianPSF(2, 3.0).state_dict())


def test_a_psf_in_words(tmp_path):
    assert isinstance(make_psf(2, "none"), nn.Identity)
    assert make_psf(2, "learn").log_ratio.requires_grad
    for sigma, sides in ((1.5, [1.5, 1.5]), ("1.5", [1.5, 1.5]), ("2,1", [2.0, 1.0]), ([2, 1], [2.0, 1.0])):
        psf = make_psf(2, sigma)
        assert psf.sigma().tolist() == sides
        assert is_isotropic(psf) == (sides[0] == sides[1])
    Picture.fromarray(np.eye(5, dtype=np.uint8)).save(tmp_path / "bead.png")
    assert not is_isotropic(make_psf(2, measured=str(tmp_path / "bead.png")))


@pytest.mark.parametrize("sigma", ["wide", "-1", "1,2,3", "", 0, [1.0, -2.0]])
def test_a_psf_that_is_none(sigma):
    with pytest.raises(ValueError, match="psf_sigma must be"):
        make_psf(2, sigma)
    with pytest.raises(ValueError, match="with a measured PSF"):
        make_psf(2, sigma, "bead.tif")
