"""B-spline fields, cubic against SimpleITK and quadratic against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.interpolate import BSpline as ScipyBSpline

from warpzoo.geometry.bspline import BSplineField, _cached_weights, bspline_at, bspline_field, control_shape
from warpzoo.geometry.sampling import voxel_coordinates

CASES = [((17, 22), (4, 5)), ((11, 9, 14), (4, 3, 2))]
DOUBLE = {"dtype": torch.float64}


def random_control_points(shape, spacing, batch=2):
    torch.manual_seed(0)
    return 3 * torch.randn(batch, len(shape), *control_shape(list(shape), list(spacing)), **DOUBLE)


def simpleitk_field(control_points, shape, spacing):
    """The field of one item by SimpleITK, whose axis i is our axis i.

    SimpleITK places control point k at origin + (k − 1) · spacing. Ours are at k · spacing + (spacing − 1) / 2, and two
    copies of the edge lie beyond on every side: our number −2 is its number 0.
    """
    dims = len(shape)
    padded = np.pad(control_points, [(0, 0)] + [(2, 2)] * dims, mode="edge")
    mesh = [size - 3 for size in padded.shape[1:]]
    transform = sitk.BSplineTransform(dims, 3)
    transform.SetTransformDomainOrigin([-step + (step - 1) / 2 for step in spacing])
    transform.SetTransformDomainPhysicalDimensions([float(m * step) for m, step in zip(mesh, spacing, strict=True)])
    transform.SetTransformDomainMeshSize(mesh)
    transform.SetParameters(np.concatenate([component.flatten(order="F") for component in padded]).tolist())
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, list(shape))
    return np.moveaxis(sitk.GetArrayFromImage(field), -1, 0).transpose(0, *range(dims, 0, -1))


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_cubic_is_simpleitks_inside_and_at_the_border(shape, spacing, dtype, tolerance):
    control_points = random_control_points(shape, spacing)
    field = bspline_field(control_points.to(dtype), list(shape), list(spacing))
    assert field.dtype == dtype
    for item, found in zip(control_points.numpy(), field.numpy(), strict=True):
        np.testing.assert_allclose(found, simpleitk_field(item, shape, spacing), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_quadratic_is_scipys(shape, spacing):
    control_points = random_control_points(shape, spacing)
    expected = np.pad(control_points.numpy(), [(0, 0)] * 2 + [(2, 2)] * len(shape), mode="edge")
    for axis, (size, step) in enumerate(zip(shape, spacing, strict=True)):
        positions = (np.arange(size) - (step - 1) / 2) / step
        values = np.moveaxis(expected, 2 + axis, 0)
        knots = np.arange(len(values) + 3) - 2 - 1.5  # coefficient j is centred at j − 2
        expected = np.moveaxis(ScipyBSpline(knots, values, 2)(positions), 0, 2 + axis)
    field = bspline_field(control_points, list(shape), list(spacing), order=2)
    np.testing.assert_allclose(field.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize("order", [2, 3])
def test_at_points_it_is_the_same_function(shape, spacing, order):
    control_points = random_control_points(shape, spacing)
    field = bspline_field(control_points, list(shape), list(spacing), order)
    voxels = voxel_coordinates(list(shape), torch.float64, torch.device("cpu")).flatten(1).t()[None]
    found = bspline_at(control_points, voxels, list(spacing), order)
    torch.testing.assert_close(found.transpose(1, 2).reshape(field.shape), field, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("order", "peak"), [(3, 4 / 9), (2, 9 / 16)])
def test_the_peak_of_one_control_point(order, peak):
    """Odd spacing: the control point lies on a voxel. Bicubic upsampling would give 1."""
    control_points = torch.zeros(1, 2, 5, 5)
    control_points[0, 1, 2, 2] = 1
    field = bspline_field(control_points, [25, 25], [5, 5], order)
    assert field[0, 1, 12, 12].item() == pytest.approx(peak, abs=1e-6)
    assert field[0, 1].max() == field[0, 1, 12, 12]
    assert field[0, 1].min() == 0
    assert not field[0, 0].any()


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize("order", [2, 3])
def test_equal_control_points_move_everything_alike(shape, spacing, order):
    control_points = torch.ones_like(random_control_points(shape, spacing))
    field = bspline_field(control_points, list(shape), list(spacing), order)
    torch.testing.assert_close(field, torch.ones_like(field), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize("order", [2, 3])
def test_gradients(shape, spacing, order):
    small = tuple(step + 2 for step in spacing)
    control_points = random_control_points(small, spacing).requires_grad_()
    points = (torch.rand(2, 3, len(shape), **DOUBLE) * 6).requires_grad_()
    layer = BSplineField(list(spacing), order)
    assert torch.autograd.gradcheck(lambda c: layer(c, torch.zeros(2, 1, *small)), (control_points,))
    assert torch.autograd.gradcheck(
        lambda c, p: bspline_at(c, p, list(spacing), order), (control_points, points), fast_mode=True
    )


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_autocast_does_not_touch_the_digits(shape, spacing):
    control_points, image = random_control_points(shape, spacing).float(), torch.zeros(2, 1, *shape)
    layer = BSplineField(list(spacing))
    scripted = torch.jit.script(layer)
    expected = layer(control_points, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(control_points, image), expected)
        torch.testing.assert_close(scripted(control_points, image), expected, rtol=0, atol=1e-5)
        assert layer(control_points.bfloat16(), image).dtype == torch.float32


def test_what_is_first_computed_under_autocast_is_as_exact_later():
    points, shape, spacing = torch.randn(1, 2, 4, 3), [27, 19], [7, 9]  # sizes that no other test has
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = bspline_field(points, shape, spacing)
    expected = bspline_field(points.double(), shape, spacing)
    for field in (found, bspline_field(points, shape, spacing)):
        torch.testing.assert_close(field.double(), expected, rtol=0, atol=1e-5)


def test_a_prediction_leaves_nothing_that_training_cannot_use():
    points, shape, spacing = torch.randn(1, 2, 3, 4), [23, 31], [8, 8]  # a size that no other test has
    with torch.inference_mode():
        predicted = bspline_field(points, shape, spacing)
    trained = bspline_field(points.requires_grad_(), shape, spacing)
    assert torch.equal(trained, predicted)
    trained.sum().backward()
    assert float(points.grad.sum()) == pytest.approx(2 * 23 * 31, rel=1e-5)  # the weights at a voxel sum to one


def test_what_is_refused():
    control_points = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"control_points must be \(5, 4\) points .* got \(4, 4\)"):
        bspline_field(control_points, [17, 16], [4, 4])
    with pytest.raises(ValueError, match="order must be 2 .* got 1"):
        bspline_field(control_points, [16, 16], [4, 4], order=1)
    with pytest.raises(ValueError, match="order must be .* got 4"):
        BSplineField(4, order=4)
    with pytest.raises(ValueError, match="must have 2 numbers each"):
        bspline_field(control_points, [16, 16, 16], [4, 4, 4])
    with pytest.raises(ValueError, match="must have 2 numbers each, 1 or more"):
        bspline_field(control_points, [16, 16], [4, 0])
    with pytest.raises(ValueError, match="control_points must have one component per spatial axis, got 3"):
        bspline_field(torch.zeros(1, 3, 4, 4), [16, 16], [4, 4])
    with pytest.raises(ValueError, match="control_points must be finite, got 1 values"):
        bspline_field(
            control_points.index_fill(2, torch.tensor([0]), 0).index_put(
                (torch.tensor(0),) * 4, torch.tensor(torch.nan)
            ),
            [16, 16],
            [4, 4],
        )


def test_large_weights_are_not_kept():
    before = _cached_weights.cache_info().currsize
    bspline_field(torch.zeros(1, 2, 2500, 1), [10000, 3], [4, 3])
    assert _cached_weights.cache_info().currsize <= before + 1  # those of the short axis
