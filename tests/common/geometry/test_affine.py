"""Affine maps, against numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from warpzoo.geometry.affine import (
    AffineField,
    affine_field,
    compose_affine,
    compose_matrices,
    fit_affine,
    invert_affine,
)
from warpzoo.geometry.sampling import warp

SHAPES = [(9, 14), (6, 9, 7)]
DOUBLE = {"dtype": torch.float64}


def random_parts(dims: int, batch: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    widths = {"shear": dims * (dims - 1) // 2, "scale": dims, "rotation": 1 if dims == 2 else 3, "translation": dims}
    return {name: 0.5 * torch.randn(batch, width, **DOUBLE) for name, width in widths.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_field_is_what_the_matrix_does_to_centred_and_divided_coordinates(shape):
    dims, half = len(shape), (max(shape) - 1) / 2
    matrix = torch.randn(2, dims, dims + 1, **DOUBLE)
    centre = (np.array(shape) - 1) / 2
    for item, field in zip(matrix.numpy(), affine_field(matrix, list(shape)).numpy(), strict=True):
        for voxel in np.ndindex(*shape):
            unit = (voxel - centre) / half
            expected = (item[:, :dims] @ unit + item[:, dims]) * half + centre - voxel
            np.testing.assert_allclose(field[(slice(None), *voxel)], expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_identity_matrix_displaces_nothing_at_all(shape):
    matrix = torch.eye(len(shape), len(shape) + 1)[None]
    assert torch.equal(affine_field(matrix, list(shape)), torch.zeros(1, len(shape), *shape))


def test_a_quarter_turn_goes_from_axis_0_towards_axis_1():
    """A point at the end of axis 0 is fetched from the end of axis 1, on a field that is not square."""
    field = affine_field(compose_affine(rotation=torch.full((1, 1), math.pi / 2)), [5, 9])
    torch.testing.assert_close(field[0, :, 4, 4], torch.tensor([-2.0, 2.0]))  # from (2, 0) to (0, 2) around the centre
    moving = torch.zeros(1, 1, 5, 9)
    moving[0, 0, 2, 6] = 1
    assert warp(moving, field)[0, 0, 4, 4] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_parts_are_applied_in_the_order_shear_scale_rotation_translation(dims):
    parts = random_parts(dims)
    rows, columns = np.triu_indices(dims, 1)
    for item, matrix in enumerate(compose_affine(**parts).numpy()):
        shear = np.eye(dims)
        shear[rows, columns] = parts["shear"][item]
        angles = parts["rotation"][item].numpy()
        if dims == 2:
            turn = np.array([[np.cos(angles[0]), -np.sin(angles[0])], [np.sin(angles[0]), np.cos(angles[0])]])
        else:
            turn = Rotation.from_euler("xyz", angles).as_matrix()
        expected = turn @ np.diag(parts["scale"][item].exp()) @ shear
        np.testing.assert_allclose(matrix[:, :dims], expected, atol=1e-12)
        np.testing.assert_allclose(matrix[:, dims], parts["translation"][item], atol=0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["shear", "scale", "rotation", "translation"])
def test_any_part_alone_and_zeros_are_the_identity(dims, name):
    part = random_parts(dims)[name].float()
    assert torch.equal(compose_affine(**{name: torch.zeros_like(part)}), torch.eye(dims, dims + 1).expand(2, -1, -1))
    assert not torch.equal(compose_affine(**{name: part}), torch.eye(dims, dims + 1).expand(2, -1, -1))


@pytest.mark.parametrize("dims", [2, 3])
def test_no_scale_reaches_zero(dims):
    for logarithm in (30.0, 150.0, 1e30):
        small, large = (compose_affine(scale=torch.full((1, dims), sign * logarithm)) for sign in (-1, 1))
        torch.testing.assert_close(small[0].diagonal(), torch.full((dims,), 0.01), rtol=1e-4, atol=0)
        torch.testing.assert_close(large[0].diagonal(), torch.full((dims,), 100.0), rtol=1e-4, atol=0)
        invert_affine(small)


def test_scales_are_exact_up_to_ten_and_bend_smoothly_beyond():
    logarithm = torch.linspace(-6, 6, 4001, **DOUBLE).requires_grad_()
    scale = compose_affine(scale=logarithm[:, None].expand(-1, 2))[:, 0, 0]
    moderate = logarithm.abs() <= math.log(10)
    torch.testing.assert_close(scale[moderate], logarithm[moderate].exp(), rtol=1e-12, atol=0)
    assert (scale.diff() > 0).all()
    (slope,) = torch.autograd.grad(scale.log().sum(), logarithm)
    assert slope.diff().abs().max() < 2e-3  # no kink
    assert ((slope > 0) & (slope <= 1 + 1e-12)).all()


@pytest.mark.parametrize("size", [1e-15, 1e-3, 1e15])
@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_singular_does_not_depend_on_the_unit(dims, size):
    matrix = size * compose_affine(**{name: part.float() for name, part in random_parts(dims).items()})
    linear = matrix[:, :, :dims]
    torch.testing.assert_close(invert_affine(matrix)[:, :, :dims] @ linear, torch.eye(dims).expand(2, -1, -1))
    matrix[:, :, 1] = 2 * matrix[:, :, 0]
    with pytest.raises(ValueError, match="matrix must be invertible, got a singular one"):
        invert_affine(matrix)


@settings(max_examples=25, deadline=None)
@given(dims=st.sampled_from([2, 3]), seed=st.integers(0, 1000))
def test_the_inverse_takes_points_back(dims, seed):
    torch.manual_seed(seed)
    matrix = torch.eye(dims, dims + 1, **DOUBLE) + 0.3 * torch.randn(2, dims, dims + 1, **DOUBLE)
    if matrix[:, :, :dims].det().abs().min() < 0.05:
        return
    inverse = invert_affine(matrix)
    points = torch.randn(2, dims, 5, **DOUBLE)
    there = matrix[:, :, :dims] @ points + matrix[:, :, dims:]
    torch.testing.assert_close(inverse[:, :, :dims] @ there + inverse[:, :, dims:], points, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape):
    dims = len(shape)
    small = [size // 3 for size in shape]
    parts = [part.requires_grad_() for part in random_parts(dims).values()]
    assert torch.autograd.gradcheck(compose_affine, parts)
    matrix = (torch.eye(dims, dims + 1, **DOUBLE) + torch.rand(2, dims, dims + 1, **DOUBLE)).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: AffineField()(m, torch.zeros(2, 1, *small)), (matrix,))
    assert torch.autograd.gradcheck(invert_affine, (matrix,))


@pytest.mark.parametrize("shape", [(300, 20), (300, 20, 8)])
def test_autocast_does_not_touch_positions(shape):
    parts = {name: part.float() for name, part in random_parts(len(shape)).items()}
    matrix = compose_affine(**parts)
    expected = affine_field(matrix, list(shape))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compose_affine(**parts), matrix)
        assert torch.equal(affine_field(matrix, list(shape)), expected)
        assert torch.equal(invert_affine(matrix), invert_affine(matrix.clone()))
        assert invert_affine(matrix).dtype == torch.float32
        assert affine_field(matrix.bfloat16(), list(shape)).dtype == torch.float32


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"matrix must be \(batch, dims, dims \+ 1\) .* got shape \(2, 2\)"):
        affine_field(torch.eye(2), [8, 8])
    with pytest.raises(ValueError, match="with dims 3"):
        affine_field(torch.zeros(1, 2, 3), [8, 8, 8])
    with pytest.raises(ValueError, match="matrix must be finite, got 6 values"):
        affine_field(torch.full((1, 2, 3), torch.nan), [8, 8])
    with pytest.raises(ValueError, match="matrix must be invertible, got a singular one"):
        invert_affine(torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match="matrix must be invertible, got a singular one"):
        invert_affine(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="at least one of shear"):
        compose_affine()
    with pytest.raises(ValueError, match=r"rotation must be \(batch, 1\) in 2-D .* got shape \(1, 2\)"):
        compose_affine(rotation=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="must have the same"):
        compose_affine(scale=torch.zeros(1, 2), translation=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="must have the same"):
        compose_affine(scale=torch.zeros(2, 2), translation=torch.zeros(1, 2))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_fit_to_points_is_the_weighted_least_squares_of_numpy(dims):
    random = np.random.default_rng(dims)
    fixed, moving = random.normal(size=(2, 3, 20, dims))
    weights = random.uniform(0.1, 2, (3, 20))
    found = fit_affine(*map(torch.from_numpy, (fixed, moving, weights)), ridge=0.0).numpy()
    for here, there, weight, matrix in zip(fixed, moving, weights, found, strict=True):
        root = np.sqrt(weight)[:, None]
        design = np.hstack([here, np.ones((20, 1))]) * root
        expected, *_ = np.linalg.lstsq(design, there * root, rcond=None)
        np.testing.assert_allclose(matrix, expected.T, atol=1e-10)


@pytest.mark.parametrize("dims", [2, 3])
def test_points_that_say_nothing_leave_the_identity(dims):
    here = torch.full((1, 5, dims), 0.3)
    there = here + torch.tensor([0.1, 0.0, -0.2][:dims])
    matrix = fit_affine(here, there, torch.ones(1, 5))
    torch.testing.assert_close(matrix[:, :, :dims], torch.eye(dims)[None])
    torch.testing.assert_close(matrix[0, :, dims], (there - here)[0, 0])
    # weights of nothing at all: no division by zero
    assert bool(fit_affine(here, there, torch.zeros(1, 5)).isfinite().all())


@pytest.mark.parametrize("dims", [2, 3])
def test_composed_matrices_are_the_product_of_homogeneous_ones(dims):
    first, second = torch.randn(2, 4, dims, dims + 1, **DOUBLE)
    last = torch.eye(dims + 1, **DOUBLE)[None, -1:].expand(4, 1, -1)
    expected = torch.cat([second, last], 1) @ torch.cat([first, last], 1)
    torch.testing.assert_close(compose_matrices(first, second), expected[:, :dims])
