"""Thin-plate splines, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from warpzoo.geometry.bspline import control_shape
from warpzoo.geometry.thin_plate_spline import ThinPlateField, thin_plate_basis, thin_plate_coefficients

CASES = [((17, 22), (4, 5)), ((12, 10, 9), (4, 3, 4))]
DOUBLE = {"dtype": torch.float64}


def random_control_points(shape, spacing, batch=2):
    torch.manual_seed(0)
    return 3 * torch.randn(batch, len(shape), *control_shape(list(shape), list(spacing)), **DOUBLE)


def scipy_spline(landmarks, values):
    return RBFInterpolator(landmarks, values, kernel="thin_plate_spline", degree=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_scattered_landmarks_are_interpolated_as_by_scipy(dims):
    torch.manual_seed(0)
    landmarks = 30 + 100 * torch.rand(2, 9, dims, **DOUBLE)
    displacement, points = torch.randn(2, 9, dims, **DOUBLE), 160 * torch.rand(2, 50, dims, **DOUBLE)
    coefficients = thin_plate_coefficients(landmarks, displacement)
    found = thin_plate_basis(points, landmarks) @ coefficients
    for item in range(2):
        expected = scipy_spline(landmarks[item].numpy(), displacement[item].numpy())(points[item].numpy())
        np.testing.assert_allclose(found[item].numpy(), expected, rtol=0, atol=1e-9)
    at_landmarks = thin_plate_basis(landmarks, landmarks) @ coefficients
    torch.testing.assert_close(at_landmarks, displacement, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_the_layer_is_scipys_spline(shape, spacing, dtype, tolerance):
    control_points = random_control_points(shape, spacing)
    landmarks = np.stack(
        np.meshgrid(
            *[np.arange(n) * s + (s - 1) / 2 for n, s in zip(control_points.shape[2:], spacing, strict=True)],
            indexing="ij",
        ),
        -1,
    ).reshape(-1, len(shape))
    layer, image = ThinPlateField(list(spacing), len(shape)), torch.zeros(2, 1, *shape)
    field = layer(control_points.to(dtype), image)
    assert field.dtype == dtype
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1).reshape(-1, len(shape))
    for item, found in zip(control_points.flatten(2).numpy(), field.flatten(2).numpy(), strict=True):
        np.testing.assert_allclose(found.T, scipy_spline(landmarks, item.T)(voxels), rtol=0, atol=tolerance)


def test_the_layer_follows_its_image_from_size_to_size_and_type_to_type():
    layer = ThinPlateField(4)
    first, second = random_control_points((16, 12), (4, 4)), random_control_points((9, 21), (4, 4))
    with torch.inference_mode():
        layer(first, torch.zeros(2, 1, 16, 12))
    expected = layer(first.requires_grad_(), torch.zeros(2, 1, 16, 12))
    expected.sum().backward()  # what was kept under inference_mode does not stand in the way
    assert layer(second.float(), torch.zeros(2, 1, 9, 21)).shape == (2, 2, 9, 21)
    torch.testing.assert_close(layer(first, torch.zeros(2, 1, 16, 12)), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_an_affine_displacement_is_kept_everywhere(shape, spacing):
    """No bending: a translation moves all voxels alike, inside and beyond the outer control points."""
    control_points = torch.ones_like(random_control_points(shape, spacing))
    field = ThinPlateField(list(spacing))(control_points, torch.zeros(2, 1, *shape))
    torch.testing.assert_close(field, torch.ones_like(field), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_gradients(shape, spacing):
    small, dims = tuple(step + 2 for step in spacing), len(shape)
    layer = ThinPlateField(list(spacing), dims)
    control_points = random_control_points(small, spacing).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: layer(c, torch.zeros(2, 1, *small)), (control_points,))
    leaves = [torch.rand(2, 6, dims, **DOUBLE), torch.rand(2, 6, dims, **DOUBLE), torch.rand(2, 3, dims, **DOUBLE)]
    assert torch.autograd.gradcheck(
        lambda landmarks, displacement, points: (
            thin_plate_basis(points, landmarks) @ thin_plate_coefficients(landmarks, displacement)
        ),
        [leaf.requires_grad_() for leaf in leaves],
    )
    landmarks = leaves[0].detach().requires_grad_()
    thin_plate_basis(landmarks, landmarks).sum().backward()  # a point on a landmark: r² log r is flat there
    assert landmarks.grad is not None
    assert landmarks.grad.isfinite().all()


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_autocast_does_not_touch_the_digits(shape, spacing):
    control_points, image = random_control_points(shape, spacing).float(), torch.zeros(2, 1, *shape)
    layer = ThinPlateField(list(spacing))
    expected = layer(control_points, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(control_points, image), expected)
        assert torch.equal(ThinPlateField(list(spacing))(control_points, image), expected)
        torch.testing.assert_close(torch.jit.script(layer)(control_points, image), expected, rtol=0, atol=1e-5)


def test_what_is_refused():
    displacement = torch.zeros(1, 4, 2)
    for landmarks, message in [
        ([[0.0, 0], [1, 1], [2, 2], [3, 3]], "3 landmarks or more, not all on one line"),
        ([[0.0, 0], [0, 1], [0, 1], [3, 3]], "landmarks must differ .* got the same one twice"),
        ([[0.0, 0], [0, 1], [torch.nan, 1], [3, 3]], "landmarks must be finite, got 1 values"),
    ]:
        with pytest.raises(ValueError, match=message):
            thin_plate_coefficients(torch.tensor([landmarks]), displacement)
    flat = torch.rand(1, 8, 3) * torch.tensor([1.0, 1, 0])
    with pytest.raises(ValueError, match="4 landmarks or more, not all in one plane"):
        thin_plate_coefficients(flat, torch.zeros(1, 8, 3))
    with pytest.raises(ValueError, match=r"control_points must be .* got \(4, 4\)"):
        ThinPlateField(4)(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 20, 16))
