from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import mutual_info_score

from warpzoo.metrics import histogram_mutual_information, psnr, scale_invariant_psnr, snr, ssim

SHAPES = [(2, 1, 17, 24), (3, 2, 13, 12, 15)]
PAIRWISE = [snr, psnr, scale_invariant_psnr, ssim, histogram_mutual_information]


def images(shape, offset=0.0, scale=1.0, noise=0.3, seed=0):
    """A smooth image and a noisy one."""
    rng = np.random.default_rng(seed)
    reference = gaussian_filter(rng.normal(size=shape), (0, 0, *[1.5] * (len(shape) - 2)))
    reference = reference / reference.std()
    prediction = reference + noise * rng.normal(size=shape)
    return torch.from_numpy(scale * prediction + offset), torch.from_numpy(scale * reference + offset)


def each(function, prediction, reference):
    return [function(p, r) for p, r in zip(prediction.numpy(), reference.numpy(), strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
def test_snr_is_power_over_squared_error(shape):
    prediction, reference = images(shape, offset=2.0)
    expected = each(lambda p, r: 20 * np.log10(np.linalg.norm(r) / np.linalg.norm(r - p)), prediction, reference)
    np.testing.assert_allclose(snr(prediction, reference), expected, rtol=1e-12)


def test_snr_of_a_known_noise_level():
    reference = torch.full((1, 1, 200, 300), 472.0)
    noise = 100 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    assert snr(reference + noise, reference).item() == pytest.approx(20 * np.log10(4.72), abs=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_is_that_of_scikit_image(shape):
    prediction, reference = images(shape, offset=100.0, scale=20.0)
    expected = each(lambda p, r: peak_signal_noise_ratio(r, p, data_range=np.ptp(r)), prediction, reference)
    np.testing.assert_allclose(psnr(prediction, reference), expected, rtol=1e-12)
    expected = each(lambda p, r: peak_signal_noise_ratio(r, p, data_range=255), prediction, reference)
    np.testing.assert_allclose(psnr(prediction, reference, data_range=255), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_scale_invariant_psnr_is_the_psnr_of_the_best_line(shape):
    prediction, reference = images(shape, offset=-3.0)
    prediction = 0.2 * prediction + 7

    def oracle(p, r):
        gain, offset = np.polyfit(p.ravel(), r.ravel(), 1)
        return peak_signal_noise_ratio(r, gain * p + offset, data_range=np.ptp(r))

    ours = scale_invariant_psnr(prediction, reference)
    np.testing.assert_allclose(ours, each(oracle, prediction, reference), rtol=1e-10)
    assert bool((ours >= psnr(prediction, reference)).all())


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.booleans())
def test_scale_invariant_psnr_ignores_gain_and_offset(gain, offset, negative):
    prediction, reference = images((1, 1, 12, 13))
    changed = (-gain if negative else gain) * prediction + offset
    torch.testing.assert_close(
        scale_invariant_psnr(changed, reference), scale_invariant_psnr(prediction, reference), rtol=1e-6, atol=0
    )


def test_constant_prediction_is_fitted_by_the_mean():
    _, reference = images((2, 1, 12, 13))
    mean = reference.mean((1, 2, 3), keepdim=True).expand_as(reference)
    constant = torch.full_like(reference, 17.0)
    torch.testing.assert_close(scale_invariant_psnr(constant, reference), psnr(mean, reference))


@pytest.mark.parametrize("metric", [snr, psnr])
def test_equal_images_are_infinitely_good(metric):
    _, reference = images((2, 1, 12, 13))
    assert metric(reference, reference).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("metric", [snr, psnr, scale_invariant_psnr])
def test_a_flat_reference_is_met_or_missed(metric):
    flat = torch.zeros(2, 1, 12, 13)
    assert metric(flat, flat).tolist() == [np.inf, np.inf]
    if metric is not scale_invariant_psnr:  # which fits any prediction to a flat reference
        assert metric(flat + 1, flat).tolist() == [-np.inf, -np.inf]
    assert psnr(flat + 1, flat, data_range=10).tolist() == pytest.approx([20, 20])


@pytest.mark.parametrize("shape", [(2, 1, 17, 24), (2, 2, 13, 12, 15)])
@pytest.mark.parametrize("offset", [0.0, 60_000.0])
@pytest.mark.parametrize("data_range", ["reference", 180.0])
def test_ssim_is_that_of_scikit_image_on_any_offset(shape, offset, data_range):
    prediction, reference = images(shape, offset=offset, scale=30.0)

    def oracle(p, r):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
        return structural_similarity(r, p, data_range=np.ptp(r) if data_range == "reference" else data_range, **options)

    np.testing.assert_allclose(ssim(prediction, reference, data_range), each(oracle, prediction, reference), atol=2e-6)


def test_ssim_is_safe_under_autocast_and_1_on_equal_images():
    prediction, reference = images((1, 1, 20, 21))
    expected = ssim(prediction, reference)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ssim(prediction, reference), expected)
    assert ssim(reference, reference).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bins", [2, 32, 50])
def test_mutual_information_is_that_of_histograms(shape, bins):
    prediction, reference = images(shape, offset=50.0)

    def oracle(p, r):
        joint, _, _ = np.histogram2d(p.ravel(), r.ravel(), bins=bins)
        return mutual_info_score(None, None, contingency=joint)

    np.testing.assert_allclose(
        histogram_mutual_information(prediction, reference, bins), each(oracle, prediction, reference), rtol=1e-10
    )


def test_mutual_information_of_counts_on_the_edges_of_bins():
    counts, others = np.random.default_rng(0).integers(0, 17, size=(2, 1, 1, 40, 50))
    others = (counts + others // 4) % 17
    joint, _, _ = np.histogram2d(counts.ravel(), others.ravel(), bins=8)
    ours = histogram_mutual_information(torch.from_numpy(counts), torch.from_numpy(others), bins=8)
    assert ours.item() == pytest.approx(mutual_info_score(None, None, contingency=joint), rel=1e-10)


def test_mutual_information_of_counts_of_two_values():
    # Two 2-valued images that agree on 3 of 4 voxels: by hand.
    a, b = torch.tensor([[[[0, 0], [1, 1]]]]), torch.tensor([[[[5, 5], [5, 9]]]])
    by_hand = 0.5 * np.log(0.5 / (0.5 * 0.75)) + 0.25 * np.log(0.25 / (0.5 * 0.75)) + 0.25 * np.log(0.25 / (0.5 * 0.25))
    assert histogram_mutual_information(a, b).item() == pytest.approx(by_hand)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_mutual_information_is_bounded_symmetric_and_blind_to_gain(seed, gain, offset):
    prediction, reference = images((1, 1, 12, 13), seed=seed)
    value = histogram_mutual_information(prediction, reference)
    assert 0 <= value.item() <= np.log(32)
    torch.testing.assert_close(value, histogram_mutual_information(reference, prediction))
    # Rounding may move a voxel across the edge of a bin, here one of 156.
    torch.testing.assert_close(
        value, histogram_mutual_information(gain * prediction + offset, reference), rtol=0, atol=0.05
    )


def test_mutual_information_of_a_constant_image_is_0():
    prediction, reference = images((2, 1, 12, 13))
    assert histogram_mutual_information(torch.full_like(prediction, 3.0), reference).tolist() == [0, 0]


@pytest.mark.parametrize("metric", PAIRWISE)
def test_counts_are_taken_as_numbers_not_modulo_256(metric):
    generator = torch.Generator().manual_seed(0)
    prediction, reference = torch.randint(0, 256, (2, 2, 1, 14, 15), generator=generator, dtype=torch.uint8)
    torch.testing.assert_close(metric(prediction, reference), metric(prediction.double(), reference.double()))


@pytest.mark.parametrize("metric", PAIRWISE)
@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (torch.ones(14, 14), torch.ones(14, 14), "prediction must be"),
        (torch.ones(1, 1, 14, 14), torch.ones(1, 1, 14, 15), "same shape"),
        (torch.ones(1, 1, 14, 14), torch.full((1, 1, 14, 14), torch.inf), "reference must be finite, got 196 values"),
    ],
)
def test_bad_images_are_named(metric, prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        metric(prediction, reference)


@pytest.mark.parametrize("metric", [psnr, scale_invariant_psnr, ssim])
@pytest.mark.parametrize("data_range", ["image", 0, -1.0, float("nan"), float("inf")])
def test_bad_range_is_named(metric, data_range):
    with pytest.raises(ValueError, match="data_range must be"):
        metric(*images((1, 1, 14, 14)), data_range)


def test_what_ssim_and_mutual_information_cannot_do_is_named():
    with pytest.raises(ValueError, match="prediction must have 11 voxels"):
        ssim(*images((1, 1, 14, 10)))
    with pytest.raises(ValueError, match="data_range must be a number"):
        ssim(torch.rand(1, 1, 14, 14), torch.ones(1, 1, 14, 14))
    with pytest.raises(ValueError, match="bins must be 2 or more, got 1"):
        histogram_mutual_information(*images((1, 1, 14, 14)), bins=1)
