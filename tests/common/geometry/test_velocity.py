"""Velocity fields against the matrix exponential, and displacements as maps: composition and inversion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.inversion import ITERATIONS, TOLERANCE, search_inverse
from warpzoo.geometry.sampling import voxel_coordinates
from warpzoo.geometry.transforms import DisplacementField
from warpzoo.geometry.velocity import VelocityField, compose, integrate_velocity

SHAPES = [(16, 21), (10, 13, 9)]
DOUBLE = {"dtype": torch.float64}


def centred(shape):
    coordinates = voxel_coordinates(list(shape), torch.float64, torch.device("cpu")).flatten(1)
    return coordinates - coordinates.mean(1, keepdim=True)


def invert(displacement, iterations=ITERATIONS, tolerance=TOLERANCE):
    """The inverse displacement at every voxel, and its residual."""
    grid = Grid(displacement.shape[2:])
    voxels = grid.coordinates(displacement.dtype).expand(len(displacement), -1, -1)
    found = search_inverse(DisplacementField(displacement, grid).displace, voxels, tolerance, iterations)
    return [values.mT.unflatten(2, grid.shape) for values in found]


def inward(shape, seed=0):
    """Linear velocities that turn and draw towards the centre, so that no point leaves the grid: (batch, d, d)."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.rand(2, len(shape), len(shape), generator=generator, **DOUBLE) * 0.2
    return turn - turn.mT - torch.diag(torch.linspace(0.4, 0.6, len(shape), **DOUBLE))


def smooth(shape, size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, len(shape), *[4] * len(shape), generator=generator, **DOUBLE)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return size * torch.nn.functional.interpolate(coarse, size=shape, mode=mode, align_corners=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_velocity_gives_the_matrix_exponential_and_each_squaring_halves_the_error(shape):
    rates, positions = inward(shape), centred(shape)
    velocity = (rates @ positions).reshape(2, len(shape), *shape)
    expected = torch.tensor(np.stack([expm(rate) for rate in rates.numpy()])) @ positions - positions
    errors = [
        float((integrate_velocity(velocity, squarings).flatten(2) - expected).abs().max()) for squarings in range(2, 11)
    ]
    assert errors[-1] < 1e-3 * float(expected.abs().max())
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 0.45 < fine / coarse < 0.55


@pytest.mark.parametrize("shape", SHAPES)
def test_backwards_in_time_is_the_inverse(shape):
    shape = tuple(2 * size for size in shape)
    waves = torch.ones(shape, **DOUBLE)
    for axis, size in enumerate(shape):
        wave = torch.sin(torch.linspace(0, torch.pi, size, **DOUBLE))
        waves = waves * wave.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    velocity = waves * torch.linspace(2, -3, len(shape), **DOUBLE).reshape(1, -1, *[1] * len(shape))
    there, back = integrate_velocity(velocity), integrate_velocity(-velocity)
    assert there.abs().max() > 2
    assert compose(there, back).abs().max() < 0.05  # linear interpolation between voxels is what is left
    assert compose(there, there).abs().max() > 4


@pytest.mark.parametrize("shape", SHAPES)
def test_composition_goes_through_the_first_and_then_the_second(shape):
    """First a shift by one, then a ramp: the ramp is read where the shift leads."""
    first = torch.ones(1, len(shape), *shape, **DOUBLE)
    second = torch.zeros_like(first)
    second[0] = 0.1 * voxel_coordinates(list(shape), torch.float64, torch.device("cpu"))
    inner = (0, 0, *[4] * len(shape))
    assert compose(first, second)[inner].item() == pytest.approx(1 + 0.1 * 5)
    assert compose(second, first)[inner].item() == pytest.approx(1 + 0.1 * 4)


@settings(max_examples=15, deadline=None)
@given(shape=st.sampled_from([(12, 15), (8, 9, 10)]), seed=st.integers(0, 1000))
def test_composition_of_linear_fields_is_associative_and_nothing_is_neutral(shape, seed):
    """Linear interpolation is exact for linear fields; inward ones never leave the grid."""
    fields = []
    for offset in range(3):
        matrix = torch.tensor(np.stack([expm(rate) for rate in inward(shape, seed + offset).numpy()]))
        fields.append((matrix @ centred(shape) - centred(shape)).reshape(2, len(shape), *shape))
    a, b, c = fields
    torch.testing.assert_close(compose(compose(a, b), c), compose(a, compose(b, c)), rtol=0, atol=1e-9)
    nothing = torch.zeros_like(a)
    torch.testing.assert_close(compose(a, nothing), a, rtol=0, atol=0)
    torch.testing.assert_close(compose(nothing, a), a, rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(shape=st.sampled_from([(16, 20), (9, 12, 10)]), seed=st.integers(0, 1000))
def test_the_inverse_takes_back_what_does_not_fold(shape, seed):
    displacement = smooth(shape, size=0.4, seed=seed)
    inverse, residual = invert(displacement, tolerance=1e-6)
    assert residual.shape == (2, 1, *shape)
    assert residual.max() < 1e-5
    torch.testing.assert_close(compose(inverse, displacement), torch.zeros_like(inverse), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(17, 20), (13, 16, 11)])
@pytest.mark.parametrize("strain", [-0.8, 0.9, 1.5, 4.0])
def test_expansion_is_inverted_in_the_interior(shape, strain):
    """x ↦ x + strain (x − c) is undone by −strain / (1 + strain) (x − c), wherever x came from within the grid."""
    centre = 0.5 * (torch.tensor(shape, dtype=torch.float64) - 1).reshape(1, -1, *[1] * len(shape))
    offset = voxel_coordinates(list(shape), torch.float64, torch.device("cpu")) - centre
    inverse, residual = invert(strain * offset, tolerance=1e-6)
    reached = ((offset / (1 + strain)).abs() <= centre).all(1, keepdim=True)
    assert reached.any()
    assert residual[reached].max() < 1e-6
    wrong = (inverse + strain / (1 + strain) * offset).masked_fill(~reached, 0)
    assert wrong.abs().max() < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("iterations", [1, 50])
def test_the_residual_is_what_is_missed_where_a_field_folds(dims, iterations):
    displacement = torch.zeros(1, dims, *[16] * dims)
    displacement[(0, 0, slice(6, 8))] = 4.0
    displacement[(0, 0, slice(8, 10))] = -4.0
    inverse, residual = invert(displacement, iterations)
    missed = torch.linalg.vector_norm(compose(inverse, displacement), dim=1, keepdim=True)
    torch.testing.assert_close(residual, missed, rtol=0, atol=1e-5)
    assert residual[(0, 0, slice(0, 2))].max() < 1e-3
    # the map is continuous and leads everywhere, to some places thrice: the search finds one of them, if it is let
    assert residual.max() > 1 if iterations == 1 else residual.max() < 1e-3


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4)])
def test_gradients(shape):
    fields = [smooth(shape, size=1.3, seed=seed).requires_grad_() for seed in range(2)]
    layer = VelocityField(squarings=2)
    assert torch.autograd.gradcheck(layer, (fields[0],))
    assert torch.autograd.gradcheck(compose, fields)
    assert torch.autograd.gradcheck(lambda u: invert(0.2 * u, iterations=3, tolerance=0.0)[0], (fields[0],))


@pytest.mark.parametrize("shape", SHAPES)
def test_autocast_does_not_touch_the_digits(shape):
    velocity = smooth(shape).float()
    expected = VelocityField()(velocity)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(VelocityField()(velocity), expected)
        assert torch.equal(compose(velocity, velocity), compose(velocity, velocity.clone()))
        assert VelocityField()(velocity.bfloat16()).dtype == torch.float32


def test_what_is_refused():
    with pytest.raises(ValueError, match="velocity must have one component per spatial axis, got 3"):
        integrate_velocity(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="squarings must be a whole number, 0 or more, got -1"):
        integrate_velocity(torch.zeros(1, 2, 8, 8), squarings=-1)
    with pytest.raises(ValueError, match="first and second must have the same shape"):
        compose(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 9))
    with pytest.raises(ValueError, match="displacement must be finite, got 128 values"):
        invert(torch.full((1, 2, 8, 8), torch.nan))
