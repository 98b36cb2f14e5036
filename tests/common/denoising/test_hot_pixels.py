"""Planted hot pixels are found, all of them and nothing else: neither noise of any kind nor points of light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter, median_filter

import warpzoo
from warpzoo.denoising.hot_pixels import AROUND, HotPixels

RING = np.array([[(row, column) in AROUND for column in range(3)] for row in range(3)])


def scene(photons: float) -> np.ndarray:
    """Blobs of up to so many photons above a twentieth of that, 256²."""
    blobs = gaussian_filter(np.random.default_rng(0).random((256, 256)) ** 40, 3)
    return photons * (blobs / blobs.max() + 0.05)


NOISY = {
    "photons": lambda random: random.poisson(scene(100)),
    "few photons": lambda random: random.poisson(scene(0.2)),
    "read-out": lambda random: scene(100) + random.normal(0, 5, (256, 256)),
    "a camera with an offset": lambda random: 400 + 2 * random.poisson(scene(30)) + random.normal(0, 3, (256, 256)),
}


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float32))[None, None]


@pytest.mark.parametrize("name", NOISY)
def test_planted_ones_are_replaced_by_the_median_of_their_neighbours_and_nothing_else_is(name: str) -> None:
    random = np.random.default_rng(1)
    clean = NOISY[name](random).astype(np.float32)
    hot = HotPixels()
    hot.fit(tensor(clean))
    assert not hot.found(tensor(clean)).any()
    spoilt, planted = clean.copy(), np.zeros(clean.shape, bool)
    planted[tuple(random.integers(0, 256, (2, 40)))] = True
    planted[100, 100:102] = True  # two side by side
    spoilt[planted] = clean.max() + 5 * np.ptp(clean)
    hot.fit(tensor(spoilt))
    assert np.array_equal(hot.found(tensor(spoilt))[0, 0], planted)
    mended = hot(tensor(spoilt))[0, 0].numpy()
    assert np.array_equal(mended[~planted], spoilt[~planted])
    ring = median_filter(spoilt.astype(np.float64), footprint=RING, mode="nearest")  # the upper of the middle two
    lower = -median_filter(-spoilt.astype(np.float64), footprint=RING, mode="nearest")
    assert np.allclose(mended[planted], ((ring + lower) / 2)[planted])


def test_a_network_trained_on_an_image_with_hot_pixels_is_as_good_as_without(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    clean = scene(60)[:128, :128]
    noisy = random.poisson(clean).astype(np.uint16)
    spoilt = noisy.copy()
    spoilt[tuple(random.integers(0, 128, (2, 8)))] = 50_000
    errors = []
    for name, image in (("noisy", noisy), ("spoilt", spoilt)):
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
        denoised = warpzoo.denoise(str(tmp_path / f"{name}.tif"), budget="60steps")
        errors.append(float(np.square(denoised.astype(float) - clean).mean()))
    assert errors[0] < 0.2 * float(np.square(noisy - clean).mean())
    assert errors[1] < 1.2 * errors[0]


def test_volumes_are_taken_slice_by_slice() -> None:
    volume = np.random.default_rng(2).poisson(20, (6, 64, 64)).astype(np.float32)
    volume[2:4, 30, 30] = 1000  # a hot pixel in all slices of a camera
    hot = HotPixels()
    hot.fit(tensor(volume))
    planes = torch.cat([hot(tensor(plane)) for plane in volume])[:, 0]
    assert torch.equal(hot(tensor(volume))[0, 0], planes)
    assert planes[2:4, 30, 30].max() < 40


@pytest.mark.parametrize("blur", [0.6, 1.0, 2.0])
def test_rare_points_of_light_stay(blur: float) -> None:
    random, points = np.random.default_rng(3), np.zeros((256, 256))
    points[tuple(random.integers(8, 248, (2, 30)))] = 1
    light = gaussian_filter(points, blur)
    image = random.poisson(10 + 1000 * light / light.max())
    hot = HotPixels()
    hot.fit(tensor(image))
    assert not hot.found(tensor(image)).any()


def test_nothing_is_hot_before_it_is_known_what_is_usual_nor_where_nothing_stands_out() -> None:
    image = torch.zeros(1, 1, 16, 16)
    image[..., 8, 8] = 1e6
    hot = HotPixels()
    assert torch.equal(hot(image), image)
    hot.fit(torch.zeros(1, 1, 64, 64))
    assert torch.equal(hot(image), image)
