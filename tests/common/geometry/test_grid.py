"""Grids, against SimpleITK and nibabel."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from warpzoo.geometry.grid import Grid, voxels_between


def oblique(shape, spacing, origin, seed=0):
    """A rotated grid of given spacing; SimpleITK's image of it, whose axes and world are the same."""
    dims = len(shape)
    turn = Rotation.random(random_state=seed).as_matrix()
    if dims == 2:
        angle = 0.3 + seed
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.eye(dims + 1)
    affine[:-1, :-1], affine[:-1, -1] = turn * spacing, origin
    image = sitk.Image(list(shape), sitk.sitkFloat64)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(turn.flatten().tolist())
    return Grid(shape, affine), image


CASES = [((12, 9), (0.7, 2.5), (-30.0, 12.0)), ((12, 9, 5), (0.7, 2.5, 4.0), (-30.0, 12.0, 111.0))]


@pytest.mark.parametrize(("shape", "spacing", "origin"), CASES)
def test_voxels_lie_where_simpleitk_has_them(shape, spacing, origin):
    grid, image = oblique(shape, spacing, origin)
    points = torch.rand(7, len(shape), dtype=torch.float64) * 9
    expected = [image.TransformContinuousIndexToPhysicalPoint(point.tolist()) for point in points]
    np.testing.assert_allclose(grid.to_world(points).numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(grid.to_voxels(grid.to_world(points)).numpy(), points, atol=1e-10)
    np.testing.assert_allclose(grid.spacing, spacing, atol=1e-12)
    np.testing.assert_allclose(grid.origin, origin)
    np.testing.assert_allclose(grid.direction.flatten(), image.GetDirection(), atol=1e-12)
    middle = [(size - 1) / 2 for size in shape]
    np.testing.assert_allclose(grid.centre, image.TransformContinuousIndexToPhysicalPoint(middle))


@pytest.mark.parametrize(("shape", "spacing", "origin"), CASES)
def test_from_grid_to_grid_by_way_of_the_world(shape, spacing, origin):
    source, _ = oblique(shape, spacing, origin)
    target, _ = oblique(shape[::-1], spacing[::-1], origin, seed=1)
    matrix = voxels_between(source, target)
    points = torch.rand(7, len(shape), dtype=torch.float64) * 9
    expected = target.to_voxels(source.to_world(points)).numpy()
    np.testing.assert_allclose(points.numpy() @ matrix[:-1, :-1].T + matrix[:-1, -1], expected, atol=1e-10)


def test_what_nibabel_and_monai_give_is_taken():
    affine = np.diag([-2.0, 2, 3, 1])
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6)), affine)
    assert Grid(image.shape, image.affine) == Grid(torch.Size([4, 5, 6]), torch.tensor(affine))


def test_without_a_matrix_the_world_is_voxels():
    grid = Grid((4, 6))
    assert grid.spacing == (1, 1)
    assert np.array_equal(grid.affine, np.eye(3))
    assert grid.coordinates().tolist()[:7] == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [1, 0]]
    assert grid.coordinates(torch.float64).dtype == torch.float64


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=2, max_size=3))
def test_another_shape_keeps_the_box(sizes):
    old, new = zip(*sizes, strict=True)
    dims = len(old)
    grid, _ = oblique(old, (0.7, 2.5, 4.0)[:dims], (-30.0, 12.0, 111.0)[:dims])
    resized = grid.resized(new)
    assert resized.shape == new
    for corner in (0.0, 1.0):
        edges = [torch.tensor([[corner * size - 0.5 for size in shape]], dtype=torch.float64) for shape in (old, new)]
        np.testing.assert_allclose(resized.to_world(edges[1]), grid.to_world(edges[0]), atol=1e-9)
    assert resized.resized(old) == grid


@pytest.mark.parametrize(("shape", "spacing", "origin"), CASES)
def test_another_spacing_keeps_the_centre_and_almost_the_box(shape, spacing, origin):
    grid, _ = oblique(shape, spacing, origin)
    other = grid.with_spacing(1.5)
    np.testing.assert_allclose(other.spacing, 1.5)
    np.testing.assert_allclose(other.centre, grid.centre, atol=1e-10)
    np.testing.assert_allclose(other.direction, grid.direction, atol=1e-10)
    extents = np.array(other.shape) * other.spacing - np.array(shape) * spacing
    assert np.abs(extents).max() <= 0.75 + 1e-9
    assert grid.with_spacing(spacing) == grid


def test_equality_overlooks_what_a_float32_header_rounds_and_nothing_more():
    grid, _ = oblique((200, 180, 90), (0.7, 0.7, 2.5), (-130.123, 77.7, 33.3))
    rounded = Grid(grid.shape, grid.affine.astype(np.float32))
    assert grid == rounded
    assert hash(grid) == hash(rounded)
    shifted = grid.affine.copy()
    shifted[0, 3] += 0.01
    assert grid != Grid(grid.shape, shifted)
    assert grid != Grid((200, 180, 91), grid.affine)
    assert grid != "a grid"


def test_it_cannot_be_changed():
    affine = np.eye(3)
    grid = Grid((4, 5), affine)
    affine[0, 0] = 7
    assert grid.spacing == (1, 1)
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 7
    with pytest.raises(AttributeError):
        grid.shape = (5, 5)


def test_its_text_says_where_it_lies():
    assert repr(Grid((4, 5, 6), np.diag([-2, 2, 3.5, 1]))) == (
        "Grid(4 × 5 × 6 voxels, spacing (2, 2, 3.5), origin (0, 0, 0), axes LAS)"
    )
    assert repr(Grid((64, 48))) == "Grid(64 × 48 voxels, spacing (1, 1), origin (0, 0))"
    assert "oblique: direction [[" in repr(oblique(*CASES[0])[0])


def test_half_precision_does_not_reach_the_world():
    grid, _ = oblique(*CASES[1])
    points = torch.rand(7, 3) * 9
    expected = grid.to_world(points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(grid.to_world(points), expected)
    assert grid.to_world(points.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((4,), None, r"shape must be 2 or 3 sides .* got \(4,\)"),
        ((4, 0), None, "of 1 voxel or more"),
        ((4, 5), np.eye(4), r"affine must be \(3, 3\) for shape \(4, 5\), got shape \(4, 4\)"),
        ((4, 5), np.diag([1.0, 0, 1]), "affine must be invertible"),
        ((4, 5), np.array([[1.0, 2, 0], [2, 4, 0], [0, 0, 1]]), "affine must be invertible"),
        ((4, 5), np.diag([1, np.nan, 1]), "affine must be finite"),
        ((4, 5), np.ones((3, 3)), "a last row of 0"),
    ],
)
def test_what_is_refused(shape, affine, message):
    with pytest.raises(ValueError, match=message):
        Grid(shape, affine)


def test_what_the_methods_refuse():
    grid = Grid((4, 5))
    with pytest.raises(ValueError, match=r"points must be a tensor of points .* got \(4, 3\)"):
        grid.to_world(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="shape must be 2 sides"):
        grid.resized((4, 5, 6))
    with pytest.raises(ValueError, match="spacing must be one positive length"):
        grid.with_spacing((1, 0))
    with pytest.raises(ValueError, match="same number of axes"):
        voxels_between(grid, Grid((4, 5, 6)))
