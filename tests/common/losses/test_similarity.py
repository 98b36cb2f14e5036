"""Similarities against brute force in float64, numpy and SimpleITK, and the laws their users rely on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.metrics import mutual_info_score
from torch import Tensor

from warpzoo.geometry import chunks
from warpzoo.losses.similarity import (
    LNCCLoss,
    MSELoss,
    MutualInformationLoss,
    NCCLoss,
    local_normalised_cross_correlation,
    mattes_mutual_information,
    normalised_cross_correlation,
)

SHAPES = [(17, 14), (12, 10, 13)]
SIMILARITIES = {
    "ncc": normalised_cross_correlation,
    "lncc": lambda f, w, mask=None: local_normalised_cross_correlation(f, w, 5, mask),
    "mi": lambda f, w, mask=None: mattes_mutual_information(f, w, 16, mask),
}
LOSSES = [MSELoss(), NCCLoss(), LNCCLoss(5), MutualInformationLoss(16)]


def pair(shape: tuple[int, ...], batch: int = 2, channels: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two smooth images that are partly alike."""
    rng = np.random.default_rng(seed)
    full = (batch, channels, *shape)
    smooth = gaussian_filter(rng.normal(size=full), (0, 0, *[1.0] * len(shape)))
    other = np.tanh(smooth * 4) + 0.5 * gaussian_filter(rng.normal(size=full), (0, 0, *[1.0] * len(shape)))
    return torch.from_numpy(smooth), torch.from_numpy(other)


def some_mask(shape: tuple[int, ...], batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(3)) > 0.4


def brute_force_lncc(fixed: Tensor, warped: Tensor, window: int, mask: Tensor | None = None) -> np.ndarray:
    """Every window on its own, in float64, two passes."""
    dims = fixed.dim() - 2
    axes, inner = tuple(range(2, fixed.dim())), tuple(range(-dims, 0))
    windows = []
    for image in (fixed, warped):
        view = np.lib.stride_tricks.sliding_window_view(image.double().numpy(), (window,) * dims, axis=axes)
        windows.append(view - view.mean(axis=inner, keepdims=True))
    spread = [np.sqrt((w**2).mean(axis=inner)) for w in windows]
    flat = [
        s <= 1e-6 * np.ptp(image.double().numpy(), axis=axes, keepdims=True)
        for s, image in zip(spread, (fixed, warped), strict=True)
    ]
    covariance = (windows[0] * windows[1]).mean(axis=inner)
    with np.errstate(all="ignore"):
        squared = np.where(flat[0] | flat[1], 0.0, (covariance / spread[0] / spread[1]) ** 2)
    counts = ~(flat[0] & flat[1])
    if mask is not None:
        centre = tuple(slice(window // 2, window // 2 + n) for n in counts.shape[2:])
        counts &= np.broadcast_to((mask > 0).numpy()[(..., *centre)], counts.shape)
    one = tuple(range(1, fixed.dim()))
    return (squared * counts).sum(axis=one) / np.maximum(counts.sum(axis=one), 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [2, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("masked", [False, True])
def test_lncc_is_brute_force_over_whole_windows(shape: tuple[int, ...], window: int, masked: bool) -> None:
    fixed, warped = pair(shape, batch=3, channels=2)
    mask = some_mask(shape, batch=3) if masked else None
    expected = brute_force_lncc(fixed, warped, window, mask)
    value = local_normalised_cross_correlation(fixed, warped, window, mask).numpy()
    np.testing.assert_allclose(value, expected, atol=1e-12)
    single = local_normalised_cross_correlation(fixed.float(), warped.float(), window, mask).numpy()
    np.testing.assert_allclose(single, expected, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk", [1, 1500, 10**9])
def test_lncc_does_not_depend_on_the_chunks(
    shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def value_and_gradients() -> list[Tensor]:
        fixed, warped = (image.requires_grad_() for image in pair((40, *shape[1:]), batch=3, channels=2))
        value = local_normalised_cross_correlation(fixed, warped, 5)
        (value * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
        return [value.detach(), fixed.grad, warped.grad]

    whole = value_and_gradients()
    monkeypatch.setitem(chunks.CHUNK_VOXELS, "cpu", chunk)
    for ours, expected in zip(value_and_gradients(), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_lncc_keeps_its_digits_on_ct() -> None:
    """Air at exactly -1000, soft tissue with a noise of 10, bone, a metal clip of 3000: float32 against float64."""
    rng = np.random.default_rng(0)
    body = np.zeros((30, 34, 32))
    body[6:26, 5:30, 6:27] = 1
    clean = np.where(body > 0, 40.0, -1000.0)
    clean[10:13, 10:22, 10:14] = 1200
    clean[20, 20, 20] = 3000
    images = [clean + 10 * body * rng.normal(size=body.shape) + 5 * body * gaussian_filter(body, 2) for _ in range(2)]
    fixed, warped = (torch.from_numpy(image)[None, None].float() for image in images)
    expected = brute_force_lncc(fixed, warped, 9)
    assert local_normalised_cross_correlation(fixed, warped, 9).item() == pytest.approx(expected.item(), abs=1e-6)
    for offset in (1e4, -3e4):  # float32 keeps these noisy integers to 0.002
        fixed_offset, warped_offset = (fixed + offset).round(), (warped - offset).round()
        expected = brute_force_lncc(fixed_offset, warped_offset, 9)
        value = local_normalised_cross_correlation(fixed_offset, warped_offset, 9)
        assert value.item() == pytest.approx(expected.item(), abs=1e-6)


def test_lncc_gradient_keeps_its_digits_on_ct() -> None:
    rng = np.random.default_rng(1)
    clean = np.where(np.indices((24, 22, 20))[0] > 8, 1040.0, -1000.0)
    fixed, warped = (torch.from_numpy(clean + 10 * rng.normal(size=clean.shape))[None, None] for _ in range(2))
    gradients = []
    for dtype in (torch.float32, torch.float64):
        image = warped.float().to(dtype).requires_grad_()
        local_normalised_cross_correlation(fixed.float().to(dtype), image, 9).sum().backward()
        gradients.append(image.grad.double())
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert error < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["ncc", "lncc"])
@pytest.mark.parametrize("offset", [0.0, -1000.0, 0.1, 32767.3])
def test_identical_images_on_a_flat_background_score_one(shape: tuple[int, ...], name: str, offset: float) -> None:
    image = torch.full((2, 2, *shape), offset)
    image[:, 0, 4:7, 3:8] += torch.rand(2, *image[0, 0, 4:7, 3:8].shape) * 100  # the second channel stays flat
    image.requires_grad_()
    value = SIMILARITIES[name](image, image.detach().clone())
    torch.testing.assert_close(value, torch.ones(2), rtol=0, atol=1e-6)
    value.sum().backward()
    assert image.grad.abs().max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", list(SIMILARITIES))
@pytest.mark.parametrize("constant", [0.0, 0.1, -1000.0, 3e7])
@pytest.mark.parametrize("which", ["both", "fixed", "warped"])
def test_constant_images_score_zero_with_a_zero_gradient(
    shape: tuple[int, ...], name: str, constant: float, which: str
) -> None:
    round_off = 1 + 6e-8 * torch.randn(2, 1, *shape)  # as interpolation leaves behind
    flat = constant * round_off
    structure = torch.rand(2, 1, *shape)
    fixed = (structure if which == "warped" else flat).clone().requires_grad_()
    warped = (structure if which == "fixed" else flat.flip(2)).clone().requires_grad_()
    value = SIMILARITIES[name](fixed, warped)
    value.sum().backward()
    torch.testing.assert_close(value, torch.zeros(2), rtol=0, atol=1e-7)
    for image in (fixed, warped):
        assert image.grad is None or bool((image.grad == 0).all())


def test_window_flat_in_one_image_counts_as_zero() -> None:
    fixed = torch.rand(1, 1, 9, 18)
    warped = fixed.clone()
    warped[..., 9:] = 0.5  # windows that start at columns 0..8 have structure in both, the one at column 9 in one
    expected = brute_force_lncc(fixed, warped, 9)
    value = local_normalised_cross_correlation(fixed, warped, 9)
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    only = local_normalised_cross_correlation(fixed[..., 9:], warped[..., 9:], 9)
    assert only.item() == 0.0


@pytest.mark.parametrize("texture", [1e-5, 1e-7])
def test_windows_below_a_millionth_of_the_range_are_flat(texture: float) -> None:
    """Unlike texture around a like square: it counts at 1e-5 of the image's range and not at 1e-7."""
    rng = np.random.default_rng(0)
    fixed, warped = (torch.from_numpy(texture * rng.normal(size=(1, 1, 40, 20))) for _ in range(2))
    square = torch.rand(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fixed[0, 0, :10, :10] = warped[0, 0, :10, :10] = square
    expected = brute_force_lncc(fixed, warped, 5).item()
    assert (expected > 0.9) == (texture < 1e-6)
    assert local_normalised_cross_correlation(fixed, warped, 5).item() == pytest.approx(expected, abs=1e-6)


def test_ncc_keeps_its_digits_under_a_large_offset() -> None:
    fixed, warped = ((image / image.std() + 3e5).float() for image in pair((40, 30), batch=1))
    expected = np.corrcoef(fixed.double().numpy().ravel(), warped.double().numpy().ravel())[0, 1]
    assert normalised_cross_correlation(fixed, warped).item() == pytest.approx(expected, abs=2e-6)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(SIMILARITIES)),
    exponents=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    offsets=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    half_range=st.booleans(),
)
def test_gain_and_offset_change_nothing(
    name: str, exponents: tuple[float, float], offsets: tuple[float, float], half_range: bool
) -> None:
    """Gains 1e-3..1e3 and offsets of up to thirty times the image's own range, in float32."""
    fixed, warped = (image.float() for image in pair((14, 12)))
    if half_range:
        fixed[..., :6] = 0.0
    changed = [
        (image + offset) * 10.0**exponent
        for image, exponent, offset in zip((fixed, warped), exponents, offsets, strict=True)
    ]
    # mutual information moves by a voxel that round-off puts on the other side of a bin's edge
    tolerance = 0.02 if name == "mi" else 1e-4
    torch.testing.assert_close(SIMILARITIES[name](*changed), SIMILARITIES[name](fixed, warped), rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_ncc_is_pearsons_correlation(shape: tuple[int, ...], masked: bool) -> None:
    fixed, warped = pair(shape, batch=3, channels=2)
    mask = some_mask(shape, batch=1) if masked else torch.ones(1, 1, *shape)
    voxels = (mask[0, 0] > 0).numpy()
    expected = [
        np.mean([np.corrcoef(fixed[b, c].numpy()[voxels], warped[b, c].numpy()[voxels])[0, 1] for c in range(2)])
        for b in range(3)
    ]
    value = normalised_cross_correlation(fixed, warped, mask if masked else None)
    np.testing.assert_allclose(value.numpy(), expected, atol=1e-12)
    assert NCCLoss()(fixed, warped, mask if masked else None).item() == pytest.approx(-np.mean(expected), abs=1e-12)
    assert normalised_cross_correlation(fixed, -fixed).numpy() == pytest.approx(-1.0)


@pytest.mark.parametrize("name", ["ncc", "lncc"])
@pytest.mark.parametrize("unit", [1e-25, 1e20])
@pytest.mark.parametrize("masked", [False, True])
def test_correlations_do_not_depend_on_the_unit(name: str, unit: float, masked: bool) -> None:
    fixed, warped = (image.float() for image in pair(SHAPES[0]))
    mask = some_mask(SHAPES[0]) if masked else None
    in_unit = (unit * warped).requires_grad_()
    value = SIMILARITIES[name](unit * fixed, in_unit, mask)
    torch.testing.assert_close(value, SIMILARITIES[name](fixed, warped, mask), rtol=0, atol=1e-5)
    value.sum().backward()
    assert bool(in_unit.grad.isfinite().all())


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_is_numpys(shape: tuple[int, ...]) -> None:
    fixed, warped = pair(shape, batch=2, channels=2)
    assert MSELoss()(fixed, warped).item() == pytest.approx(((fixed - warped) ** 2).numpy().mean(), abs=1e-14)
    mask = some_mask(shape, batch=2)
    expected = np.mean([((fixed - warped) ** 2)[b][:, mask[b, 0]].numpy().mean() for b in range(2)])
    assert MSELoss()(fixed, warped, mask).item() == pytest.approx(expected, abs=1e-14)


def mattes(fixed: np.ndarray, warped: np.ndarray, bins: int, mask: np.ndarray | None = None) -> float:
    """SimpleITK's value for two images on one grid and the identity transform."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(bins)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(sitk.TranslationTransform(fixed.ndim))
    if mask is not None:
        method.SetMetricFixedMask(sitk.GetImageFromArray(mask.astype(np.uint8)))
        method.SetMetricMovingMask(sitk.GetImageFromArray(mask.astype(np.uint8)))
    return -method.MetricEvaluate(sitk.GetImageFromArray(fixed), sitk.GetImageFromArray(warped))


@pytest.mark.parametrize("shape", [(48, 40), (20, 24, 22)])
@pytest.mark.parametrize("bins", [6, 16, 23, 50])
def test_mutual_information_is_mattes(shape: tuple[int, ...], bins: int) -> None:
    fixed, warped = pair(shape, batch=2)
    expected = [mattes(fixed[b, 0].numpy(), warped[b, 0].numpy(), bins) for b in range(2)]
    np.testing.assert_allclose(mattes_mutual_information(fixed, warped, bins).numpy(), expected, atol=1e-9)
    single = mattes_mutual_information(fixed.float(), (1000 * warped - 300).float(), bins).numpy()
    np.testing.assert_allclose(single, expected, atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_mutual_information_with_a_mask_sees_only_its_voxels(shape: tuple[int, ...]) -> None:
    fixed, warped = pair(shape, batch=3)
    mask = some_mask(shape, batch=3)
    value = mattes_mutual_information(fixed, warped, 12, mask)
    expected = [
        mattes_mutual_information(
            fixed[b, 0][mask[b, 0]].view(1, 1, 1, -1), warped[b, 0][mask[b, 0]].view(1, 1, 1, -1), 12
        )
        for b in range(3)
    ]
    torch.testing.assert_close(value, torch.cat(expected), rtol=0, atol=1e-12)
    image = warped.clone().requires_grad_()
    mattes_mutual_information(fixed, image, 12, mask).sum().backward()
    assert bool((image.grad[~mask] == 0).all())
    assert bool((image.grad[mask] != 0).any())


def test_mutual_information_of_few_grey_levels_is_the_histograms() -> None:
    """Integers one bin apart: the fixed image's bins are sharp; warped ones are too, once the spline is narrower."""
    rng = np.random.default_rng(0)
    fixed = rng.integers(0, 4, size=(40, 30))
    warped = np.where(rng.random(fixed.shape) < 0.7, 3 - fixed, rng.integers(0, 4, size=fixed.shape))
    bins = 4 + 3 * 6  # six bins between neighbouring levels: no two splines overlap
    value = mattes_mutual_information(
        torch.from_numpy(fixed)[None, None].double(), torch.from_numpy(warped)[None, None].double(), bins
    )
    assert value.item() == pytest.approx(mutual_info_score(fixed.ravel(), warped.ravel()), abs=1e-9)


@pytest.mark.parametrize("bins", [6, 16, 64])
def test_mutual_information_is_bounded_and_falls_with_noise(bins: int) -> None:
    fixed, _ = pair((60, 50), batch=1)
    noise = torch.randn(fixed.shape, generator=torch.Generator().manual_seed(0), dtype=fixed.dtype)
    values = [mattes_mutual_information(fixed, fixed + level * noise, bins).item() for level in (0, 0.05, 0.2, 1, 20)]
    assert all(0 <= value <= math.log(bins) for value in values)
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(("shape", "channels", "window"), [((7, 6), 2, 3), ((5, 7), 1, 4), ((4, 5, 4), 1, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_correlations(shape: tuple[int, ...], channels: int, window: int, masked: bool) -> None:
    fixed, warped = (image.requires_grad_() for image in pair(shape, batch=2, channels=channels))
    mask = some_mask(shape, batch=2) if masked else None
    for loss in (MSELoss(), NCCLoss(), LNCCLoss(window)):
        torch.autograd.gradcheck(lambda f, w, loss=loss: loss(f, w, mask), (fixed, warped))


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_mutual_information(shape: tuple[int, ...], masked: bool) -> None:
    """The range carries no gradient, so the voxels that set it stay out of the check."""
    fixed, warped = pair(shape, batch=2, channels=2)
    mask = some_mask(shape, batch=2) if masked else torch.ones(2, 1, *shape, dtype=torch.bool)
    mask[..., :1] = True
    warped[..., 0] = warped.min() - 0.1
    warped[..., 0, 0] = warped.max() + 0.1
    inner = warped[..., 1:].clone().requires_grad_()
    torch.autograd.gradcheck(
        lambda w: mattes_mutual_information(
            fixed, torch.cat([warped[..., :1], w], dim=-1), 9, mask if masked else None
        ),
        (inner,),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_half_precision_is_finite_and_close(shape: tuple[int, ...], dtype: torch.dtype, loss: torch.nn.Module) -> None:
    fixed, warped = (100 * image.to(dtype) for image in pair(shape))
    reference = warped.float().requires_grad_()
    expected = loss(fixed.float(), reference)
    expected.backward()
    warped.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(fixed, warped)
    value.backward()
    assert value.dtype == torch.float32
    assert warped.grad.dtype == dtype
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(warped.grad.float(), reference.grad, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_bad_input_is_named(loss: torch.nn.Module) -> None:
    image = torch.rand(2, 1, 12, 12)
    with pytest.raises(ValueError, match="fixed must be"):
        loss(image[0], image)
    with pytest.raises(ValueError, match="same shape"):
        loss(image, image[..., :-1])
    with pytest.raises(ValueError, match="same shape"):
        loss(image, image[:1])
    with pytest.raises(ValueError, match="warped must be finite, got 1 values"):
        loss(
            image,
            image.clone()
            .index_fill_(2, torch.tensor([3]), 1.0)
            .masked_fill(torch.arange(288).view(2, 1, 12, 12) == 5, torch.nan),
        )
    with pytest.raises(ValueError, match="mask must have shape"):
        loss(image, image, torch.ones(2, 1, 5, 5))
    with pytest.raises(ValueError, match="mask must have a voxel above 0"):
        loss(image, image, torch.zeros(2, 1, 12, 12))


@pytest.mark.parametrize("shape", SHAPES)
def test_lncc_takes_the_windows_nearest_to_a_mask_without_a_centre(shape: tuple[int, ...]) -> None:
    """Only in the item whose mask lies within half a window of the edge, and there the windows next to it."""
    image, other = pair(shape)
    mask = torch.zeros(2, 1, *shape)
    mask[:, :, 2, ...] = mask[:, :, -3, ...] = 1  # the outermost centres of windows of five
    assert LNCCLoss(5)(image, image, mask).item() == pytest.approx(-1)
    mask[1, :, 2:-2] = 0
    mask[1, :, :2] = 1
    nearest = mask.clone()
    nearest[1, :, 2:4] = 1  # two voxels further in: the first windows
    expected = local_normalised_cross_correlation(image, other, 5, nearest)
    torch.testing.assert_close(local_normalised_cross_correlation(image, other, 5, mask), expected)


def test_bad_arguments_are_named() -> None:
    image = torch.rand(1, 1, 8, 20)
    with pytest.raises(ValueError, match="at least window = 9"):
        LNCCLoss(9)(image, image)
    for window in (1, 3.0, -9):
        with pytest.raises(ValueError, match="window must be"):
            LNCCLoss(window)  # type: ignore[arg-type]
    for bins in (5, 23.0):
        with pytest.raises(ValueError, match="bins must be"):
            MutualInformationLoss(bins)  # type: ignore[arg-type]
