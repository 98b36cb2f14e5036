from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage

from warpzoo.denoising.preflight import little_to_learn_from, noise_correlation, other_intensities, preflight
from warpzoo.images.stacks import open_stack

RANDOM = np.random.default_rng(0)
BLOBS = 100 + 300 * ndimage.gaussian_filter(RANDOM.normal(size=(200, 220)), 3)
NOISY = RANDOM.poisson(np.maximum(BLOBS, 1)).astype(np.uint16)


@pytest.fixture
def messages(tmp_path):
    """`messages(values)`: what is said about an image."""

    def look(values, **metadata):
        tifffile.imwrite(tmp_path / "in.tif", values, photometric="minisblack", metadata=metadata or None)
        return [str(finding) for finding in preflight(open_stack(tmp_path / "in.tif"))]

    return look


def test_nothing_is_said_about_a_plain_noisy_image(messages):
    assert messages(NOISY) == []


@pytest.mark.parametrize("axis", [0, 1])
def test_noise_that_is_alike_in_neighbours(messages, axis):
    smooth = ndimage.uniform_filter1d(NOISY.astype(np.float32), 2, axis=axis)
    (said,) = messages(smooth)
    assert f"in a {('column', 'row')[axis]}" in said
    assert "resized, compressed" in said


def test_a_resized_image(messages):
    said = messages(ndimage.zoom(NOISY.astype(np.float32), 1.5, order=1))
    assert len(said) == 1
    assert all(axis in said[0] for axis in ("in a row (correlation 0.", "in a column (correlation 0."))


@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.6])
def test_the_correlation_is_that_of_the_noise_not_of_the_structure(wanted):
    white = RANDOM.normal(0, 10, (16, 64, 65))
    share = (1 - np.sqrt(1 - 4 * min(wanted, 0.5) ** 2)) / (2 * wanted) if 0 < wanted <= 0.5 else 0.0
    if wanted > 0.5:
        white = ndimage.uniform_filter1d(white, 3, axis=2)  # 2/3
    noise = white[..., 1:] + share * white[..., :-1]
    structure = 0.2 * BLOBS[:64, :64]
    found = noise_correlation(noise + structure, -1)
    assert found == pytest.approx(2 / 3 if wanted > 0.5 else wanted, abs=0.07)
    assert abs(noise_correlation(np.swapaxes(noise, 1, 2) + structure, -1)) < 0.07


def test_cut_off_bright_parts(messages):
    (said,) = messages(np.where(NOISY > 140, 65_535, NOISY).astype(np.uint16))
    assert "at 65535" in said
    assert "too dark" in said


def test_stretched_contrast(messages):
    (said,) = messages(NOISY * np.uint16(3))
    assert "at least 3 apart" in said


def test_frames_of_one_value(messages):
    series = np.stack([NOISY, np.full_like(NOISY, 7), NOISY])
    (said,) = messages(series, axes="TYX")
    assert "1 frames, the first of them frame 1" in said
    (said,) = messages(np.zeros((50, 60), np.uint8))
    assert "nothing to denoise" in said


def test_not_a_number(messages):
    values = NOISY.astype(np.float32)
    values[100, 100] = np.inf
    (said,) = messages(values)
    assert "NaN or infinite" in said


def test_smaller_than_what_is_looked_at(messages, tmp_path):
    assert messages(NOISY[:50, :100]) == []
    stack = open_stack(tmp_path / "in.tif")
    (said,) = little_to_learn_from(stack, 64)
    assert "50 × 100 pixels, fewer than a training patch of 64 × 64" in str(said)
    assert [*little_to_learn_from(stack, [50, 80])] == []


def test_a_camera_of_fewer_bits_than_its_file(messages):
    (said,) = messages(np.minimum(NOISY, 130))
    assert "at 130" in said


def test_few_photons_are_not_cut_off(messages):
    assert messages(RANDOM.poisson(0.3, (200, 220)).astype(np.uint16)) == []
    assert messages(RANDOM.integers(0, 50, (200, 220)).astype(np.uint16)) == []


def test_no_pixel_may_be_nan(messages):
    values = NOISY.astype(np.float32)
    values[3, 217] = np.nan
    assert any("NaN" in said for said in messages(np.pad(values, ((0, 2000), (0, 2000)), mode="wrap")))


def test_weights_for_other_intensities(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", NOISY)
    for offset, warnings in ((0, 0), (1000, 1)):
        state = {"mean": torch.tensor(NOISY.mean() + offset), "deviation": torch.tensor(NOISY.std())}
        torch.save(state, tmp_path / "model.pt")
        found = [*other_intensities(open_stack(tmp_path / "in.tif"), tmp_path / "model.pt")]
        assert len(found) == warnings


@pytest.mark.parametrize("values", ["text", torch.zeros(2), torch.zeros(2, 3)])
def test_weights_of_another_kind_are_left_to_the_network_that_refuses_them(values, tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", NOISY)
    torch.save({"mean": values, "deviation": torch.tensor(1.0)}, tmp_path / "model.pt")
    assert [*other_intensities(open_stack(tmp_path / "in.tif"), tmp_path / "model.pt")] == []
