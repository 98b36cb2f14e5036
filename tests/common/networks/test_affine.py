"""What networks end in: key points move along with what they answer to, moments are those of scipy, matrices are
bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from warpzoo.networks.affine import KeyPoints, Moments, OneMatrix, SeparateMatrices, gated, matrix_head


@pytest.mark.parametrize("shape", [(12, 10), (8, 10, 9)])
def test_key_points_are_centres_of_mass_and_move_along(shape):
    dims, stride = len(shape), 4
    torch.manual_seed(0)
    layer = KeyPoints(3, 5, stride)
    features = torch.randn(1, 3, *shape)
    image = [stride * size for size in shape]
    points, trusted = layer(features, image)
    maps = torch.einsum("kc,bc...->bk...", layer.maps.weight, features) + layer.maps.bias.view(-1, *[1] * dims)
    for point, logits in zip(points[0], maps[0], strict=True):
        mass = torch.exp(logits - logits.max()).detach().numpy()
        voxel = stride * np.array(ndimage.center_of_mass(mass))
        unit = (voxel - (np.array(image) - 1) / 2) / ((max(image) - 1) / 2)
        np.testing.assert_allclose(point.detach().numpy(), unit, atol=1e-5)
    assert bool(((trusted > 0) & (trusted < 1)).all())
    # something bright in front of nothing, moved by two voxels of the maps
    spot = torch.zeros(1, 3, *shape)
    spot[(0, 0, *[3] * dims)] = 1000.0
    layer.maps.weight.data[:, 0] = 1.0
    moved = layer(spot.roll(2, dims=2), image)[0] - layer(spot, image)[0]
    expected = torch.tensor([2.0 * stride] + [0.0] * (dims - 1)) / ((max(image) - 1) / 2)
    torch.testing.assert_close(moved, expected.expand_as(moved), atol=1e-5, rtol=0)


def test_key_points_of_a_pooled_image_are_where_they_are_in_the_image():
    shape, factors, stride = [70, 96], [3, 2], 4
    rows, columns = np.mgrid[:72, :96]
    mass = np.exp(-((rows - 30) ** 2 + (columns - 61) ** 2) / 150) + 1e-9
    blocks = [factor * stride for factor in factors]
    pooled = mass.reshape(72 // blocks[0], blocks[0], 96 // blocks[1], blocks[1]).mean((1, 3))
    layer = KeyPoints(1, 1, [stride, stride], pooled=True)
    layer.maps.weight.data.fill_(1)
    layer.maps.bias.data.zero_()
    (point,), _ = layer(torch.from_numpy(np.log(pooled)).float()[None, None], shape, factors)
    expected = (np.array(ndimage.center_of_mass(mass)) - [34.5, 47.5]) / 47.5
    np.testing.assert_allclose(point[0].detach().numpy(), expected, atol=2e-3)


def test_a_gate_opens_from_the_identity_to_the_matrix():
    matrix = torch.randn(2, 3, 4)
    assert torch.equal(gated(matrix, torch.tensor(0.0)), torch.eye(3, 4).expand(2, 3, 4))
    torch.testing.assert_close(gated(matrix, torch.tensor(7.0)), matrix)
    torch.testing.assert_close(gated(matrix, torch.tensor(0.25)), 0.25 * matrix + 0.75 * torch.eye(3, 4))


def test_numbers_of_one_matrix_may_be_scaled():
    torch.manual_seed(0)
    heads = [OneMatrix(5, 2), OneMatrix(5, 2, scale=0.1)]
    torch.nn.init.normal_(heads[0].entries.weight)
    heads[1].load_state_dict(heads[0].state_dict())
    features = torch.randn(3, 5)
    whole, tenth = (head(features) - torch.eye(2, 3) for head in heads)
    torch.testing.assert_close(tenth, 0.1 * whole)


@pytest.mark.parametrize("shape", [(12, 10), (8, 10, 9)])
def test_moments_are_those_of_positions_from_minus_one_to_one(shape):
    features = torch.rand(2, 3, *shape)
    found = Moments(len(shape))(features)
    axes = np.meshgrid(*[(2 * np.arange(size) + 1) / size - 1 for size in shape], indexing="ij")
    expected = [features.numpy()]
    for first, axis in enumerate(axes):
        expected += [features.numpy() * axis] + [features.numpy() * axis * other for other in axes[first:]]
    wanted = np.concatenate([one.reshape(2, 3, -1).mean(2) for one in expected], 1)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    assert torch.equal(Moments(len(shape), gap=True)(features), found[:, :3])


@pytest.mark.parametrize("dims", [2, 3])
def test_separate_matrices_never_collapse(dims):
    torch.manual_seed(0)
    head = SeparateMatrices(8, dims)
    for layer in head.layers.values():
        torch.nn.init.normal_(layer.weight, std=30.0)
    volumes = torch.linalg.det(head(torch.randn(500, 8))[:, :, :dims])
    assert float(volumes.min()) >= 0.2 - 1e-6
    assert float(volumes.max()) <= 5 + 1e-4
    assert float(volumes.min()) < 0.3 < 3 < float(volumes.max())


def test_parts_can_be_left_out():
    head = SeparateMatrices(4, 3, ["rotation"])
    torch.nn.init.normal_(head.layers["rotation"].weight)
    matrix = head(torch.randn(5, 4))
    turn = matrix[:, :, :3]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5, rtol=0)
    assert not matrix[:, :, 3].any()
    with pytest.raises(ValueError, match="parts must be some of shear, scale, rotation, translation, each once"):
        SeparateMatrices(4, 3, ["twist"])
    with pytest.raises(ValueError, match="head must be 'one' or 'separate', got 'two'"):
        matrix_head("two", 4, 3)
