"""Transforms and resampling through them, against SimpleITK.

SimpleITK's axes and world are taken as they are: array axis i here is its axis i, so arrays are transposed on the way.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from scipy.spatial.transform import Rotation
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from warpzoo.geometry.bspline import bspline_field, control_shape
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import (
    Affine,
    BSpline,
    Composition,
    DisplacementField,
    SearchedInverse,
    ThinPlateSpline,
    Transform,
    Velocity,
    resample,
)
from warpzoo.geometry.velocity import integrate_velocity

DOUBLE = {"dtype": torch.float64}
FIXED = {2: ((21, 17), (1.3, 0.8), (-14.0, 3.0)), 3: ((13, 16, 11), (1.3, 0.8, 2.1), (-14.0, 3.0, 40.0))}
MOVING = {2: ((25, 30), (0.9, 0.6), (-12.0, 4.0)), 3: ((20, 15, 18), (0.9, 1.1, 1.2), (-12.0, 0.0, 43.0))}


def make_grid(shape, spacing, origin, angle):
    dims = len(shape)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if dims == 3:
        turn = Rotation.from_rotvec(angle * np.array([0.5, 0.3, -0.8])).as_matrix()
    affine = np.eye(dims + 1)
    affine[:-1, :-1], affine[:-1, -1] = turn * spacing, origin
    return Grid(shape, affine)


def grids(dims):
    """Both oblique and anisotropic, different in everything."""
    return make_grid(*FIXED[dims], angle=0.25), make_grid(*MOVING[dims], angle=-0.15)


def to_simpleitk(array, grid, vector=False):
    axes = list(range(grid.dims))[::-1]
    image = sitk.GetImageFromArray(array.transpose(*axes, grid.dims) if vector else array.transpose(axes), vector)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin.tolist())
    image.SetDirection(grid.direction.flatten().tolist())
    return image


def from_simpleitk(image):
    array = sitk.GetArrayFromImage(image)
    dims = image.GetDimension()
    return array.transpose(*range(dims)[::-1], *range(dims, array.ndim))


def smooth_field(grid, size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spacing = [4] * grid.dims
    control_points = size * torch.randn(
        2, grid.dims, *control_shape(list(grid.shape), spacing), generator=generator, **DOUBLE
    )
    return bspline_field(control_points, list(grid.shape), spacing)


def random_affine(grid, seed=0):
    generator = torch.Generator().manual_seed(seed)
    turns = 1 if grid.dims == 2 else 3
    parts = {"shear": turns, "scale": grid.dims, "rotation": turns, "translation": grid.dims}
    return Affine.from_parts(
        grid, **{k: 0.15 * torch.randn(2, n, generator=generator, **DOUBLE) for k, n in parts.items()}
    )


def some_transforms(grid, size=1.0):
    """One of each kind."""
    generator = torch.Generator().manual_seed(1)
    spacing = [5, 4, 6][: grid.dims]
    control = control_shape(list(grid.shape), spacing)
    landmarks = torch.rand(2, 8, grid.dims, generator=generator, **DOUBLE) * (torch.tensor(grid.shape) - 1)
    displacement = size * 0.5 * torch.randn(2, 8, grid.dims, generator=generator, **DOUBLE)
    control_points = size * torch.randn(2, grid.dims, *control, generator=generator, **DOUBLE)
    return {
        "affine": random_affine(grid),
        "cubic": BSpline(control_points, grid, spacing),
        "quadratic": BSpline(control_points, grid, spacing, order=2),
        "thin_plate": ThinPlateSpline(landmarks, displacement, grid),
        "dense": DisplacementField(smooth_field(grid, size), grid),
        "velocity": Velocity(smooth_field(grid, size), grid),
        "composition": Composition(random_affine(grid), DisplacementField(smooth_field(grid, size), grid)),
    }


KINDS = list(some_transforms(Grid((8, 8))))


def simpleitk_affine(dims):
    """A matrix about a centre that is not the origin, and what it is as one matrix."""
    matrix = np.eye(dims) + 0.12 * np.random.default_rng(3).standard_normal((dims, dims))
    transform = sitk.AffineTransform(dims)
    transform.SetMatrix(matrix.flatten().tolist())
    centre, translation = np.array([-3.0, 9.0, 51.0])[:dims], np.array([1.5, -0.7, 0.9])[:dims]
    transform.SetCenter(centre.tolist())
    transform.SetTranslation(translation.tolist())
    world = np.concatenate([matrix, (translation + centre - matrix @ centre)[:, None]], 1)
    return transform, torch.tensor(world)[None]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("mode", "interpolator"),
    [("linear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor), ("label_linear", sitk.sitkLabelLinear)],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_resampling_between_oblique_grids_is_simpleitks(dims, mode, interpolator, dtype, tolerance):
    fixed_grid, moving_grid = grids(dims)
    theirs, world = simpleitk_affine(dims)
    rng = np.random.default_rng(0)
    if mode == "linear":
        moving = rng.random(moving_grid.shape)
        value = -3.0
    else:
        moving = rng.integers(1, 5, [-(-size // 3) for size in moving_grid.shape]).astype(np.int32)
        for axis in range(dims):
            moving = moving.repeat(3, axis).take(range(moving_grid.shape[axis]), axis)
        value = 9
    reference = to_simpleitk(np.zeros(fixed_grid.shape), fixed_grid)
    expected = from_simpleitk(sitk.Resample(to_simpleitk(moving, moving_grid), reference, theirs, interpolator, value))
    ours = torch.tensor(moving)[None, None]
    found = resample(
        ours.to(dtype) if mode == "linear" else ours,
        moving_grid,
        Affine.from_world(world.to(dtype), fixed_grid),
        fixed_grid,
        mode=mode,
        value=value,
    )
    assert found.shape == (1, 1, *fixed_grid.shape)
    inside = expected != value
    assert 0.3 < inside.mean() < 0.99
    if mode == "linear":
        np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=0, atol=tolerance)
    else:  # where two labels weigh the same, either is right
        assert found.dtype == torch.int32
        assert (found[0, 0].numpy() != expected).mean() < (0.002 if mode == "nearest" else 0.02)
        assert np.array_equal(found[0, 0].numpy() == value, ~inside)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("field_first", [False, True])
def test_a_composition_of_grids_is_simpleitks_composite(dims, field_first):
    """Affine on the fixed grid, and a displacement that lives on a third grid, in either order, interpolated once."""
    fixed_grid, moving_grid = grids(dims)
    third = make_grid([40] * dims, [1.0] * dims, (fixed_grid.centre - 19.5).tolist(), angle=0.0)
    displacement = smooth_field(third, size=1.5)[:1]
    theirs, world = simpleitk_affine(dims)
    millimetres = np.moveaxis(displacement[0].numpy(), 0, -1) @ third.affine[:-1, :-1].T
    field = sitk.DisplacementFieldTransform(to_simpleitk(millimetres, third, vector=True))
    moving = np.random.default_rng(0).random(moving_grid.shape)
    reference = to_simpleitk(np.zeros(fixed_grid.shape), fixed_grid)
    # SimpleITK applies the transform that was added last first
    composite = sitk.CompositeTransform([theirs, field] if field_first else [field, theirs])
    expected = from_simpleitk(
        sitk.Resample(to_simpleitk(moving, moving_grid), reference, composite, sitk.sitkLinear, -3.0)
    )
    parts = [Affine.from_world(world, fixed_grid), DisplacementField(displacement, third)]
    ours = Composition(*(reversed(parts) if field_first else parts))
    found = resample(torch.tensor(moving)[None, None], moving_grid, ours, fixed_grid, value=-3.0)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=0, atol=1e-6)
    points = torch.rand(20, dims, **DOUBLE) * 8 + torch.tensor(fixed_grid.centre) - 4
    through = [composite.TransformPoint(point.tolist()) for point in points]
    np.testing.assert_allclose(ours.world(points)[0].numpy(), through, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_thin_plate_spline_is_scipys(dims):
    grid, _ = grids(dims)
    spline = some_transforms(grid)["thin_plate"]
    points = torch.rand(2, 30, dims, **DOUBLE) * 20
    for item in range(2):
        rbf = RBFInterpolator(
            spline.landmarks[item].numpy(), spline.displacement[item].numpy(), kernel="thin_plate_spline", degree=1
        )
        expected = points[item].numpy() + rbf(points[item].numpy())
        np.testing.assert_allclose(spline(points)[item].numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_one_transform_says_the_same_of_points_of_the_world_and_as_a_field(dims, kind):
    fixed_grid, other_grid = grids(dims)
    transform = some_transforms(fixed_grid)[kind]
    voxels = fixed_grid.coordinates(torch.float64)
    by_points = transform(voxels)
    assert by_points.shape == (2, len(voxels), dims)
    by_field = voxels + transform.field().flatten(2).transpose(1, 2)
    torch.testing.assert_close(by_field, by_points, rtol=0, atol=1e-9)
    by_world = fixed_grid.to_voxels(transform.world(fixed_grid.to_world(voxels)))
    torch.testing.assert_close(by_world, by_points, rtol=0, atol=1e-9)
    # on another grid, the field takes the same points of the world to the same points of the world
    others = other_grid.coordinates(torch.float64)
    elsewhere = others + transform.field(other_grid).flatten(2).transpose(1, 2)
    expected = transform.world(other_grid.to_world(others))
    torch.testing.assert_close(other_grid.to_world(elsewhere), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("order", [2, 3])
def test_a_spline_on_a_parallel_grid_takes_the_short_way_to_the_same_field(dims, order):
    grid, _ = grids(dims)
    spline = some_transforms(grid)["cubic" if order == 3 else "quadratic"]
    finer = grid.resized([2 * size for size in grid.shape])  # its outer voxels lie outside: the border's displacement
    torch.testing.assert_close(spline.field(finer), Transform._field_on(spline, finer), rtol=0, atol=1e-9)
    assert spline.field(finer).shape == (2, dims, *finer.shape)


@pytest.mark.parametrize("kind", ["cubic", "quadratic", "dense", "velocity"])
def test_a_point_outside_takes_the_displacement_of_the_border(kind):
    grid = Grid((20, 16))
    transform = some_transforms(grid)[kind]
    inside, outside = torch.tensor([[0.0, 7.0], [12.0, 15.0]], **DOUBLE), torch.tensor([[-9.0, 7], [12, 40]], **DOUBLE)
    torch.testing.assert_close(transform(outside) - outside, transform(inside) - inside, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_takes_points_back(dims, kind):
    grid, _ = grids(dims)
    transform = some_transforms(grid, size=0.3)[kind]
    inverse = transform.inverse(tolerance=1e-6)
    points = 4 + torch.rand(2, 40, dims, **DOUBLE) * (torch.tensor(grid.shape) - 9)
    there = transform(points)
    assert (there - points).abs().max() > 0.1
    # of a velocity's inverse, which is no search, linear interpolation is what is left
    tolerance = {"affine": 1e-9, "velocity": 0.05}.get(kind, 1e-5)
    torch.testing.assert_close(inverse(there), points, rtol=0, atol=tolerance)
    torch.testing.assert_close(inverse.inverse()(points), there, rtol=0, atol=1e-5)
    voxels = grid.coordinates(torch.float64)
    if kind in ("cubic", "quadratic", "dense", "thin_plate"):
        assert inverse.residual.shape == (2, 1, *grid.shape)
        assert inverse.residual.max() < 1e-5
        assert isinstance(inverse, SearchedInverse)
        missed = torch.linalg.vector_norm(transform(inverse(voxels)) - voxels, dim=-1).reshape(2, 1, *grid.shape)
        torch.testing.assert_close(inverse.residual, missed, rtol=0, atol=1e-9)
    if kind == "composition":
        assert inverse.grid == transform.grid
        assert [type(part) for part in inverse.parts] == [SearchedInverse, Affine]


@pytest.mark.parametrize("dims", [2, 3])
def test_strong_expansion_beside_strong_contraction_is_inverted(dims):
    """Ten times as long along one axis, a fifth along the others; a fixed-point iteration does not converge there."""
    grid = Grid([41, 31, 21][:dims])
    centre = 0.5 * (torch.tensor(grid.shape, **DOUBLE) - 1)
    strain = torch.tensor([9.0, -0.8, -0.8][:dims], **DOUBLE)
    field = (grid.coordinates(torch.float64) - centre) * strain
    transform = DisplacementField(field.T.unflatten(1, grid.shape)[None], grid)
    points = centre + (torch.rand(50, dims, **DOUBLE) - 0.5) * torch.tensor([30.0, 5.0, 3.0][:dims], **DOUBLE)
    expected = centre + (points - centre) / (1 + strain)
    torch.testing.assert_close(transform.inverse()(points)[0], expected, rtol=0, atol=1e-4)


class Tear(DisplacementField):
    """Everything from row 8 on moves by 3 rows, which leaves three rows that nothing is mapped to."""

    def displace(self, points):
        return torch.where(points[..., :1] < 8, 0.0, torch.tensor([3.0, 0.0]))


def test_the_residual_shows_where_no_inverse_exists():
    inverse = Tear(torch.zeros(1, 2, 16, 16), Grid((16, 16))).inverse()
    found = (inverse.residual < 1e-4)[0, 0].all(1)
    assert found.tolist() == [True] * 8 + [False] * 3 + [True] * 5


@settings(max_examples=15, deadline=None)
@given(dims=st.sampled_from([2, 3]), seed=st.integers(0, 1000))
def test_composition_is_associative_and_nothing_is_neutral(dims, seed):
    fixed_grid, moving_grid = grids(dims)
    a = random_affine(fixed_grid, seed)
    b = DisplacementField(smooth_field(moving_grid, seed=seed), moving_grid)
    c = random_affine(moving_grid, seed + 1)
    points = torch.rand(10, dims, **DOUBLE) * 12
    expected = c.world(b.world(a.world(fixed_grid.to_world(points))))
    for composed in (Composition(a, b, c), Composition(Composition(a, b), c), Composition(a, Composition(b, c))):
        torch.testing.assert_close(composed.world(fixed_grid.to_world(points)), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(composed(points), fixed_grid.to_voxels(expected), rtol=0, atol=1e-9)
    nothing = Affine(torch.eye(dims, dims + 1, **DOUBLE)[None], moving_grid)
    torch.testing.assert_close(Composition(a, nothing)(points), a(points), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_is_exactly_the_identity(dims):
    grid = Grid([16, 32, 8][:dims])
    shape, spacing = grid.shape, [4] * dims
    control_points = torch.zeros(1, dims, *control_shape(list(shape), spacing))
    moving = torch.rand(1, 1, *shape)
    for transform in (
        Affine(torch.eye(dims, dims + 1)[None], grid),
        BSpline(control_points, grid, spacing),
        DisplacementField(torch.zeros(1, dims, *shape), grid),
        Velocity(torch.zeros(1, dims, *shape), grid),
        ThinPlateSpline(torch.rand(1, 6, dims) * 8, torch.zeros(1, 6, dims), grid),
    ):
        assert torch.equal(resample(moving, grid, transform, grid), moving)
        assert torch.equal(transform(grid.coordinates())[0], grid.coordinates())


@pytest.mark.parametrize("dims", [2, 3])
def test_world_matrix_and_its_way_back(dims):
    grid, _ = grids(dims)
    _, world = simpleitk_affine(dims)
    transform = Affine.from_world(world, grid)
    torch.testing.assert_close(transform.world_matrix(), world, rtol=0, atol=1e-10)
    points = torch.rand(5, dims, **DOUBLE) * 30
    expected = points @ world[0, :, :dims].T + world[0, :, dims]
    torch.testing.assert_close(transform.world(points)[0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_jacobian_determinant_is_simpleitks_on_an_oblique_grid(dims):
    grid, _ = grids(dims)
    transform = some_transforms(grid)["cubic"]
    # the filter takes components along the image's axes for components along the world's: give it a straight image
    straight = Grid(grid.shape, np.diag([*grid.spacing, 1.0]))
    millimetres = np.moveaxis(transform.field()[0].numpy(), 0, -1) * grid.spacing
    image = to_simpleitk(millimetres, straight, vector=True)
    expected = from_simpleitk(sitk.DisplacementFieldJacobianDeterminant(image, useImageSpacing=True))
    inner = (slice(1, -1),) * dims
    found = transform.jacobian_determinant()[0, 0].numpy()
    np.testing.assert_allclose(found[inner], expected[inner], rtol=0, atol=1e-5)
    assert transform.jacobian_determinant(grids(dims)[1]).shape == (2, 1, *grids(dims)[1].shape)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_parameters_points_and_image(kind):
    grid = Grid((6, 5), np.array([[1.1, 0.2, 3], [-0.1, 0.8, 2], [0, 0, 1]]))
    other = Grid((4, 6))
    tensors = dict(some_transforms(grid)[kind].named_buffers())
    leaves = [tensor.clone().requires_grad_() for tensor in tensors.values()]
    moving, points = torch.rand(2, 1, 4, 6, **DOUBLE), 1 + torch.rand(2, 3, 2, **DOUBLE) * 3

    def by_points(points, *leaves):
        transform = some_transforms(grid)[kind]
        put_in(transform, dict(zip(tensors, leaves, strict=True)))
        return transform(points)

    def by_image(moving, *leaves):
        transform = some_transforms(grid)[kind]
        put_in(transform, dict(zip(tensors, leaves, strict=True)))
        return resample(moving, other, transform, grid)

    assert torch.autograd.gradcheck(by_points, (points.requires_grad_(), *leaves), fast_mode=True)
    assert torch.autograd.gradcheck(by_image, (moving.requires_grad_(), *leaves), fast_mode=True)


def put_in(transform, tensors):
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        transform.get_submodule(owner).register_buffer(attribute, tensor)


def test_a_parameter_is_optimised_and_a_prediction_passes_its_gradient_on():
    grid = Grid((16, 16))
    target = BSpline(torch.randn(1, 2, 4, 4), grid, 4).field()
    learned = BSpline(nn.Parameter(torch.zeros(1, 2, 4, 4)), grid, 4)
    assert [name for name, _ in learned.named_parameters()] == ["control_points"]
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        loss = (learned.field() - target).square().mean()
        loss.backward()
        optimiser.step()
    assert loss < 0.05 * target.square().mean()
    predicted = torch.zeros(1, 2, 16, 16, requires_grad=True)
    field = DisplacementField(predicted * 2, grid)
    assert not list(field.parameters())
    resample(torch.rand(1, 1, 16, 16), grid, field, grid).sum().backward()
    assert predicted.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_touch_positions(kind):
    grid, other = grids(2)
    transform = some_transforms(grid)[kind].float()
    moving, points = torch.rand(2, 1, *other.shape), grid.coordinates()
    expected = transform(points), transform.field(other), resample(moving, other, transform, grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = transform(points), transform.field(other), resample(moving, other, transform, grid)
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


def test_a_velocity_is_integrated_in_as_many_steps_as_it_was_given():
    grid, other = grids(2)
    velocity = smooth_field(grid, size=2.0)
    coarse, fine = Velocity(velocity, grid, squarings=1), Velocity(velocity, grid)
    assert torch.equal(coarse.field(), integrate_velocity(velocity, 1))
    assert torch.equal(fine.field(), integrate_velocity(velocity))
    assert (coarse.field(other) - fine.field(other)).abs().max() > 0.01
    assert torch.equal(coarse.inverse().field(), integrate_velocity(-velocity, 1))
    voxels = grid.coordinates(torch.float64)
    torch.testing.assert_close(coarse(voxels), voxels + coarse.field().flatten(2).mT, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="squarings must be a whole number, 0 or more, got '5'"):
        Velocity(velocity, grid, squarings="5")


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation has made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [one for one in pytree.tree_leaves(result) if isinstance(one, torch.Tensor)]
        self.size = max([self.size, *(one.untyped_storage().nbytes() for one in made)])
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_resampling_makes_nothing_larger_than_the_field(kind, monkeypatch):
    """Slab by slab: nothing of dims values or more per voxel is made beside the field, which large volumes could not
    afford; and the slabs are, to the bit, what the whole is that a gradient needs."""
    grid = make_grid((40, 32, 30), (1.0, 1.2, 0.9), (0.0, 3.0, -5.0), angle=0.1)
    other = make_grid((36, 40, 25), (0.9, 1.1, 1.3), (0.0, 3.0, -5.0), angle=0.0)
    transform = some_transforms(grid)[kind].float()
    for buffers in (module._buffers for module in transform.modules()):
        buffers.update({name: buffer[:1].clone() for name, buffer in buffers.items()})
    moving, labels = torch.rand(1, 1, *other.shape), torch.randint(0, 4, (1, 1, *other.shape))
    whole = resample(moving.clone().requires_grad_(), other, transform, other).detach()
    monkeypatch.setattr("warpzoo.geometry.transforms.VOXELS_AT_ONCE", 2**12)
    monkeypatch.setattr("warpzoo.geometry.transforms.POINTS_AT_ONCE", 2**9)
    field = 3 * 4 * math.prod(other.shape)
    with LargestTensor() as largest:
        assert torch.equal(resample(moving, other, transform, other), whole)
        resample(labels, other, transform, other, mode="nearest")
        resample(labels, other, transform, other, mode="label_linear")
    assert largest.size <= 1.1 * field


def test_batches_of_one_go_with_any():
    grid = Grid((12, 10))
    transform = DisplacementField(smooth_field(grid), grid)
    single = DisplacementField(smooth_field(grid)[:1], grid)
    points = torch.rand(2, 7, 2, **DOUBLE) * 9
    assert torch.equal(single(points)[0], transform(points)[0])
    moving = torch.rand(1, 3, 12, 10, **DOUBLE)
    assert resample(moving, grid, transform, grid).shape == (2, 3, 12, 10)
    assert torch.equal(resample(moving, grid, transform, grid)[:1], resample(moving, grid, single, grid))


def test_what_is_refused():
    grid = Grid((8, 8))
    identity = Affine(torch.eye(2, 3)[None], grid)
    for message, make in [
        ("matrix must be", lambda: Affine(torch.eye(3)[None], grid)),
        ("matrix must be invertible", lambda: Affine(torch.zeros(1, 2, 3), grid).inverse()),
        (r"control_points must be \(2, 2\) points", lambda: BSpline(torch.zeros(1, 2, 3, 2), grid, 4)),
        ("order must be .* got 5", lambda: BSpline(torch.zeros(1, 2, 2, 2), grid, 4, order=5)),
        ("displacement must be .* on Grid.* got", lambda: DisplacementField(torch.zeros(1, 2, 8, 9), grid)),
        ("velocity must have one component per spatial axis, got 3", lambda: Velocity(torch.zeros(1, 3, 8, 8), grid)),
        ("velocity must be finite, got 128 values", lambda: Velocity(torch.full((1, 2, 8, 8), torch.nan), grid)),
        ("one displacement for each", lambda: ThinPlateSpline(torch.rand(1, 5, 2), torch.zeros(1, 4, 2), grid)),
        ("landmarks must be", lambda: ThinPlateSpline(torch.rand(1, 5, 3), torch.zeros(1, 5, 2), grid)),
        ("parts must be one transform or more", lambda: Composition()),
        ("the same number of axes", lambda: Composition(identity, Affine(torch.eye(3, 4)[None], Grid((8, 8, 8))))),
        ("points must be", lambda: identity(torch.zeros(4, 3))),
        ("points must be finite, got 1 values", lambda: identity(torch.tensor([[0.0, torch.nan]]))),
        ("moving must have the shape of", lambda: resample(torch.rand(1, 1, 8, 9), grid, identity, grid)),
        (
            "mode must be one of .* got 'sinc'",
            lambda: resample(torch.rand(1, 1, 8, 8), grid, identity, grid, mode="sinc"),
        ),
        (
            "labels must hold whole numbers",
            lambda: resample(torch.rand(1, 1, 8, 8), grid, identity, grid, mode="label_linear"),
        ),
        ("the same number of axes", lambda: identity.field(Grid((8, 8, 8)))),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
