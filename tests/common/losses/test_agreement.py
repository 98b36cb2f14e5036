from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.transforms import DisplacementField
from warpzoo.losses import Agreement

SHAPES = [(40, 36), (20, 18, 16)]


def coordinates(shape):
    return np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2 for size in shape], indexing="ij"))


def ball(shape, radius):
    """A soft ball in the middle."""
    distance = np.sqrt((coordinates(shape) ** 2).sum(0))
    return 1 / (1 + np.exp(distance - radius))


def scaling(shape, factor):
    return (factor - 1) * coordinates(shape)


def agreement(moving, fixed, displacement, **options):
    """Of images and displacements (there, back)."""
    fixed, moving = (torch.from_numpy(np.stack(pair))[:, None] for pair in ((fixed, moving), (moving, fixed)))
    return Agreement(**options)(fixed, warp(moving, displacement), displacement)


def displacements(there, back):
    return torch.from_numpy(np.stack([there, back])).requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_where_one_way_undoes_the_other(shape):
    wave = np.stack([np.sin(coordinates(shape)[axis] / 4) for axis in range(len(shape))])  # still at the borders
    wave *= np.prod([np.cos(np.pi * part / size) for part, size in zip(coordinates(shape), shape, strict=True)], axis=0)
    there = torch.from_numpy(wave)
    back = DisplacementField(there[None], Grid(shape)).inverse().field()[0]
    images = ball(shape, 4), ball(shape, 6)
    assert agreement(*images, torch.stack([there, back])).item() < 1e-3
    assert agreement(*images, torch.stack([there, there])).item() > 0.1


@pytest.mark.parametrize("better", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_better_way_pulls_the_other_and_is_not_pulled(shape, better):
    right = [scaling(shape, 4 / 6), scaling(shape, 6 / 4)]
    wrong = np.full((len(shape), *shape), 0.7)
    field = displacements(*(right[way] if way == better else wrong for way in range(2)))
    loss = agreement(ball(shape, 4), ball(shape, 6), field)
    assert loss.item() > 0.1
    loss.backward()
    assert not field.grad[better].any()
    toward = torch.from_numpy(right[1 - better] - wrong)
    middle = (slice(None), *(slice(size // 2 - 3, size // 2 + 3) for size in shape))
    assert (-field.grad[1 - better] * toward)[middle].sum().item() > 0


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_counts_as_scipy_reads_the_better_way(shape, scale):
    rng = np.random.default_rng(0)
    there, back = rng.normal(size=(2, len(shape), *shape))
    images = rng.random((2, *shape))
    qualities, values, sparse = [], [], (..., *[slice(None, None, 2)] * len(shape))
    for moving, fixed, first, second in ((*images, there, back), (*images[::-1], back, there)):
        places = np.indices(shape) + first
        gradients = np.stack(np.gradient(first[sparse], 2, axis=range(1, first.ndim)), -1)
        determinant = np.linalg.det(np.eye(len(shape)) + np.moveaxis(gradients, 0, -1))
        warped = map_coordinates(moving, places, order=1, mode="nearest")
        weights = (1 + determinant.clip(0)).ravel()
        (a, c), (_, b) = np.cov(fixed[sparse].ravel(), warped[sparse].ravel(), aweights=weights)
        qualities.append(c / np.sqrt(a * b))
        distance = first + np.stack([map_coordinates(part, places, order=1, mode="nearest") for part in second])
        values.append((1 - np.exp(-(distance[sparse] ** 2).sum(0) / (2 * scale**2))).mean())
    loss = agreement(*images, displacements(there, back), scale=scale).item()
    assert abs(values[0] - values[1]) > 1e-4
    assert loss == pytest.approx(values[int(np.argmax(qualities))], rel=1e-6)


def test_which_way_is_better_does_not_hang_on_brightness_or_order():
    shape = SHAPES[0]
    images, field = (ball(shape, 4), ball(shape, 6)), displacements(scaling(shape, 0.8), scaling(shape, 1.3))
    loss = agreement(*images, field)
    torch.testing.assert_close(agreement(50 * images[0] + 7, images[1], field), loss)
    torch.testing.assert_close(agreement(*images[::-1], field.flip(0)), loss)


def test_every_pair_of_a_batch_has_its_own_better_way():
    images, wrong = (ball(SHAPES[0], 4), ball(SHAPES[0], 6)), np.full((2, *SHAPES[0]), 0.7)
    right = [scaling(SHAPES[0], 4 / 6), scaling(SHAPES[0], 6 / 4)]
    fixed = torch.from_numpy(np.stack([images[1]] * 2 + [images[0]] * 2))[:, None]
    moving = torch.from_numpy(np.stack([images[0]] * 2 + [images[1]] * 2))[:, None]
    field = torch.from_numpy(np.stack([right[0], wrong, wrong, right[1]])).requires_grad_()
    loss = Agreement()(fixed, warp(moving, field), field)
    loss.backward()
    assert [bool(part.any()) for part in field.grad] == [False, True, True, False]
    alone = [agreement(*images, field[index::2]) for index in range(2)]
    torch.testing.assert_close(loss, torch.stack(alone).mean())


@pytest.mark.parametrize("flat", [0.0, 1234.567])
def test_one_way_is_never_compared_with_itself(flat):
    shape = SHAPES[0]
    field = displacements(np.full((2, *shape), 2.0), np.full((2, *shape), -2.0))
    for images in ((np.full(shape, flat), ball(shape, 6)), (np.full(shape, flat), np.full(shape, flat))):
        assert agreement(*images, field).item() == pytest.approx(0, abs=1e-12)


def test_faint_and_bright_images_have_the_same_better_way():
    shape = SHAPES[0]
    field = displacements(np.full((2, *shape), 0.7), scaling(shape, 6 / 4)).float()
    loss = agreement(ball(shape, 4), ball(shape, 6), field)
    for factor, offset in ((1e-11, 0), (1e11, 0), (1, 1e3)):
        images = (np.float32(factor * ball(shape, radius) + offset) for radius in (4, 6))
        torch.testing.assert_close(agreement(*images, field), loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reckoned_in_float32(dtype):
    shape = SHAPES[0]
    field = displacements(np.full((2, *shape), 0.7), scaling(shape, 6 / 4)).detach().to(dtype).requires_grad_()
    images = torch.from_numpy(np.stack([ball(shape, 6), ball(shape, 4)]))[:, None].to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = Agreement()(images, images, field)
    torch.testing.assert_close(loss, Agreement()(images.float(), images.float(), field.float()))
    loss.backward()
    assert bool(field.grad.isfinite().all())


def test_autocast_does_not_change_which_way_is_better():
    for seed in range(10):  # close calls
        random = torch.Generator().manual_seed(seed)
        images, field = torch.rand(2, 1, 32, 32, generator=random), torch.randn(2, 2, 32, 32, generator=random)
        warped = images + 0.01 * torch.randn(2, 1, 32, 32, generator=random)
        loss = Agreement()(images, warped, field)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(Agreement()(images, warped, field), loss)


@pytest.mark.parametrize(("images", "displacements"), [(3, 3), (2, 4)])
def test_each_pair_must_come_in_both_directions(images, displacements):
    with pytest.raises(ValueError, match=f"in both directions, got {images} and {displacements} items"):
        Agreement()(*torch.rand(2, images, 1, 8, 8), torch.zeros(displacements, 2, 8, 8))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_is_above_zero(scale):
    with pytest.raises(ValueError, match="scale must be a number of voxels above 0"):
        Agreement(scale)


def test_a_field_too_thin_for_derivatives_is_named():
    with pytest.raises(ValueError, match=r"3 voxels or more on every axis, got .*\(2, 2, 2, 9\)"):
        Agreement()(torch.zeros(2, 1, 2, 9), torch.zeros(2, 1, 2, 9), torch.zeros(2, 2, 2, 9))
    assert Agreement()(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3), torch.zeros(2, 2, 3, 3)).item() == 0
