from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from warpzoo.denoising.filters import FILTERS, choose_size, filter_stack, noise_deviation
from warpzoo.images.stacks import open_stack


@pytest.fixture(scope="module")
def clean():
    """Smooth blobs, about 100 ± 50."""
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(96, 96)), 4, mode="wrap")
    return 100 + 50 * blobs / blobs.std()


@pytest.mark.parametrize("method", ["gaussian", "median", "box", "tv", "wavelet"])
def test_the_size_found_without_a_clean_image_is_nearly_the_best(clean, method):
    noisy = clean + np.random.default_rng(1).normal(0, 25, clean.shape)
    noise = noise_deviation(noisy)
    apply, sizes = FILTERS[method].apply, FILTERS[method].sizes
    errors = {size: float(((apply(noisy, size, noise) - clean) ** 2).mean()) for size in sizes}
    chosen = choose_size(noisy, method, noise)
    assert errors[chosen] <= 1.25 * min(errors.values())
    assert errors[chosen] < 0.4 * 25**2
    assert max(errors.values()) > 1.5 * min(errors.values())  # a wrong size would be seen


@pytest.mark.parametrize("deviation", [3, 25])
def test_the_noise_is_measured(clean, deviation):
    noisy = clean + np.random.default_rng(1).normal(0, deviation, clean.shape)
    assert noise_deviation(noisy) == pytest.approx(deviation, rel=0.05)


def test_box3d_is_of_volumes(tmp_path):
    volume = np.random.default_rng(0).normal(size=(9, 20, 24)).astype(np.float32)
    tifffile.imwrite(tmp_path / "in.tif", volume, metadata={"axes": "ZYX"})
    assert filter_stack(open_stack(tmp_path / "in.tif", 3), tmp_path / "out.tif", "box3d", 3, tile=8) == 3
    expected = ndimage.uniform_filter(volume, 3)
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif"), expected, atol=1e-5)
    with pytest.raises(ValueError, match="spatial_dims must be 3 for the filter box3d"):
        filter_stack(open_stack(tmp_path / "in.tif", 2), tmp_path / "out.tif", "box3d", 3)
    with pytest.raises(ValueError, match="size must be above 0, got -1"):
        filter_stack(open_stack(tmp_path / "in.tif", 2), tmp_path / "out.tif", "box", -1)


@pytest.mark.parametrize(("method", "size"), [("box", 4), ("median", 2), ("box", 3.5)])
def test_windows_have_a_middle(tmp_path, method, size):
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((20, 24), np.uint8))
    with pytest.raises(ValueError, match=f"an odd number of pixels for {method}"):
        filter_stack(open_stack(tmp_path / "in.tif"), tmp_path / "out.tif", method, size)
    assert not any(size % 2 == 0 for method in ("box", "box3d", "median") for size in FILTERS[method].sizes)
