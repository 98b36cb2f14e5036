from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch.autograd import gradcheck

from warpzoo.geometry.jacobian import cannot_fold, corner_determinants, jacobian_determinant

SHAPES = [(7, 9), (5, 8, 6)]


def random_field(shape, batch=2, scale=0.8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, len(shape), *shape, generator=generator, dtype=torch.float64)


def linear_field(matrix, shape):
    """u(x) = (M − 1) x, in voxels."""
    coordinates = torch.stack(torch.meshgrid(*[torch.arange(s, dtype=torch.float64) for s in shape], indexing="ij"))
    return ((matrix - torch.eye(len(shape))) @ coordinates.flatten(1)).view(1, len(shape), *shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_inner_determinants_are_those_of_simpleitk_in_millimetres(shape):
    field = random_field(shape)
    spacing = (0.5, 2.0, 1.25)[: len(shape)]  # exact in float32, which the filter keeps it in
    inner = (slice(1, -1),) * len(shape)
    for item, ours in zip(field, jacobian_determinant(field)[:, 0], strict=True):
        millimetres = (item * torch.tensor(spacing).view(-1, *[1] * len(shape))).flip(0).movedim(0, -1)
        image = sitk.GetImageFromArray(millimetres.contiguous().numpy(), isVector=True)
        image.SetSpacing(spacing[::-1])
        theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
        np.testing.assert_allclose(ours[inner].numpy(), theirs[inner], atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_map_is_that_of_numpy_gradient(shape):
    field = random_field(shape)
    dims = len(shape)
    for item, ours in zip(field.numpy(), jacobian_determinant(field)[:, 0].numpy(), strict=True):
        jacobian = np.stack([np.stack(np.gradient(component)) for component in item])
        theirs = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(dims))
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_corner_determinants_are_those_of_each_corner_s_edges(shape):
    dims = len(shape)
    field = random_field(shape)
    ours = corner_determinants(field)
    assert ours.shape == (2, 2**dims, *[size - 1 for size in shape])
    for batch, item in enumerate(field.movedim(1, -1).numpy()):
        positions = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) + item
        for cell in product(*[range(size - 1) for size in shape]):
            for number, corner in enumerate(product((0, 1), repeat=dims)):
                at = np.add(cell, corner)
                columns = []
                for axis in range(dims):
                    near, far = at.copy(), at.copy()
                    near[axis], far[axis] = cell[axis], cell[axis] + 1
                    columns.append(positions[tuple(far)] - positions[tuple(near)])
                expected = np.linalg.det(np.stack(columns, axis=-1))
                assert ours[(batch, number, *cell)].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_map_has_the_determinant_of_its_matrix_everywhere(shape):
    generator = torch.Generator().manual_seed(1)
    dims = len(shape)
    matrix = torch.eye(dims) + 0.4 * torch.randn(dims, dims, generator=generator, dtype=torch.float64)
    field = linear_field(matrix, shape)
    expected = torch.linalg.det(matrix)
    torch.testing.assert_close(jacobian_determinant(field), expected.expand(1, 1, *shape))
    corners = corner_determinants(field)
    torch.testing.assert_close(corners, expected.expand_as(corners))


@pytest.mark.parametrize("function", [jacobian_determinant, corner_determinants])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)])
def test_gradient(function, shape):
    assert gradcheck(function, random_field(shape).requires_grad_())


@pytest.mark.parametrize("function", [jacobian_determinant, corner_determinants])
def test_half_precision_field_is_judged_in_float32(function):
    field = random_field((6, 7, 5)).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = function(field)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, function(field.double()).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("function", [jacobian_determinant, corner_determinants])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 4, 4), "3 components"),
        ((2, 4, 4), "displacement must be"),
        ((1, 2, 1, 4), "two voxels or more"),
    ],
)
def test_wrong_shapes_are_named(function, shape, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_cannot_fold_does_not(shape):
    """It is said of fields that may fold never, and of gentle ones always."""
    said = []
    for seed in range(40):
        displacement = random_field(shape, 1, seed / 60, seed)
        folds = bool((corner_determinants(displacement) <= 0).any() or (jacobian_determinant(displacement) <= 0).any())
        said.append(cannot_fold(displacement))
        assert not (folds and said[-1])
    assert all(said[:4])
    assert not any(said[20:])
    matrix = torch.eye(len(shape)) + 0.2 * torch.rand(2 * [len(shape)], generator=torch.Generator().manual_seed(0))
    assert cannot_fold(linear_field(matrix.double(), shape))
