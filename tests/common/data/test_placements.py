"""Pairs in known placements: the moving image is the fixed one where the truth says, labels follow, seeds repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from warpzoo.data.placements import KINDS, anywhere, copies, cracked_cubes, longitudinal, random_placement
from warpzoo.geometry.affine import rotation_about


def blobs(shape):
    torch.manual_seed(1)
    image = torch.from_numpy(ndimage.gaussian_filter(torch.rand(*shape).numpy(), 3)).float()
    return image - image.min(), (image > image.mean()).to(torch.uint8)


def test_a_rotation_about_an_axis_is_that_of_scipy():
    axis = np.array([2.0, -1.0, 0.5]) / np.linalg.norm([2.0, -1.0, 0.5])
    expected = Rotation.from_rotvec(0.7 * axis).as_matrix()
    np.testing.assert_allclose(rotation_about(torch.from_numpy(axis).float(), 0.7).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_placements_stay_within_what_is_asked(dims):
    torch.manual_seed(0)
    for _ in range(50):
        matrix = random_placement(dims, 60.0, 1.0, 0.0, 0.2, least=20.0)[0].double()
        trace = float(matrix[:, :dims].trace())
        angle = np.degrees(np.arccos(np.clip((trace - 1) / 2 if dims == 3 else trace / 2, -1, 1)))
        assert 20 - 1e-3 <= angle <= 60 + 1e-3
        assert float(matrix[:, dims].abs().max()) <= 0.4
    volumes = [float(torch.linalg.det(random_placement(dims, 60.0, 1.25)[0, :, :dims])) for _ in range(50)]
    assert 0.8**dims <= min(volumes) < 1 < max(volumes) <= 1.25**dims


@pytest.mark.parametrize("shape", [(40, 48), (24, 30, 28)])
def test_the_moving_image_shows_the_fixed_one_where_the_truth_says(shape):
    image, labels = blobs(shape)
    for pair in (anywhere(image, labels, shift=0.05, seed=3), *(copies(image, labels, kind, 3) for kind in KINDS)):
        half = (max(shape) - 1) / 2
        centre = (np.array(shape) - 1) / 2
        linear, shift = pair.truth[0, :, :-1].numpy(), pair.truth[0, :, -1].numpy()
        unit = (np.indices(shape).reshape(len(shape), -1).T - centre) / half
        there = ((unit @ linear.T + shift) * half + centre).T.reshape(len(shape), *shape)
        seen = ndimage.map_coordinates(pair.moving.numpy(), there, order=1, mode="nearest")
        inside = np.all([(at > 2) & (at < size - 3) for at, size in zip(there, shape, strict=True)], 0)
        assert inside.sum() > 100
        error = np.abs(seen - image.numpy())[inside]
        assert error.mean() < 0.02 * float(image.max())
        overlap = ndimage.map_coordinates(pair.moving_labels.numpy(), there, order=0)[inside] == labels.numpy()[inside]
        assert overlap.mean() > 0.9


def test_pairs_repeat_with_their_seed():
    image, labels = blobs((20, 24, 22))
    for make in (
        lambda seed: cracked_cubes((32, 32, 32), seed),
        lambda seed: longitudinal(image, labels, seed),
        lambda seed: anywhere(image, labels, seed=seed),
    ):
        first, again, other = make(5), make(5), make(6)
        assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
        assert not torch.equal(first.moving, other.moving)


def test_cubes_have_cracks_and_holes_and_later_subjects_are_the_same():
    pair = cracked_cubes((48, 48, 48), 0)
    inside = pair.fixed[pair.fixed_labels > 0]
    assert 0.05 < float((inside < 0.5).float().mean()) < 0.5
    image, labels = blobs((32, 36, 34))
    pair = longitudinal(image, labels, 0)
    assert torch.equal(pair.fixed, image)
    with pytest.raises(ValueError, match="kind must be one of rotated, translated, both, got 'turned'"):
        copies(image, labels, "turned")
