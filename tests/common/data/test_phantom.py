"""The phantom heart is what its labels and its displacement say it is."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import label, map_coordinates

from warpzoo.data.phantom import MYOCARDIUM, NOISE, POOL, RIGHT_VENTRICLE, Heart, beating_heart

SHAPES = [(128, 128), (96, 120), (24, 48, 52)]


heart_of = cache(beating_heart)


def areas(heart: Heart) -> list[int]:
    return [int((heart.labels == structure).sum()) for structure in (POOL, MYOCARDIUM, RIGHT_VENTRICLE)]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_types(shape: tuple[int, ...]) -> None:
    heart = heart_of(shape, 0.5)
    assert heart.image.shape == heart.labels.shape == shape
    assert heart.displacement.shape == (len(shape), *shape)
    assert (heart.image.dtype, heart.labels.dtype, heart.displacement.dtype) == (
        torch.float32,
        torch.uint8,
        torch.float32,
    )
    assert 0 <= heart.image.min() < heart.image.max() <= 255
    assert heart.labels.unique().tolist() == [0, POOL, MYOCARDIUM, RIGHT_VENTRICLE]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("phase", [0.0, 1.0])
def test_image_and_labels_agree(shape: tuple[int, ...], phase: float) -> None:
    heart = heart_of(shape, phase, 1)
    image, labels = heart.image.numpy(), heart.labels.numpy()
    pool, muscle, right = (np.median(image[labels == structure]) for structure in (POOL, MYOCARDIUM, RIGHT_VENTRICLE))
    assert pool > 1.8 * muscle
    assert right > 1.8 * muscle
    for structure in (POOL, MYOCARDIUM, RIGHT_VENTRICLE):  # each hangs together
        assert label(labels == structure)[1] == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_the_pool_contracts_steadily(shape: tuple[int, ...], seed: int) -> None:
    pool, muscle, right = zip(*(areas(heart_of(shape, phase, seed)) for phase in (0.0, 0.5, 1.0)), strict=True)
    for structure in (pool, right):
        assert list(structure) == sorted(structure, reverse=True)
    assert pool[-1] < 0.7 * pool[0]
    assert muscle[-1] > 0.6 * muscle[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_displacement_carries_end_diastole_onto_the_phase(shape: tuple[int, ...]) -> None:
    rest, heart = heart_of(shape, 0.0, 1), heart_of(shape, 1.0, 1)
    grid = np.indices(shape) + heart.displacement.double().numpy()
    carried = map_coordinates(rest.image.numpy(), grid, order=1, mode="nearest")
    left_over, before = (np.abs(image - heart.image.numpy()) for image in (carried, rest.image.numpy()))
    beats = rest.labels.numpy() + heart.labels.numpy() > 0
    assert left_over[beats].mean() < 0.5 * before[beats].mean()
    labels = map_coordinates(rest.labels.numpy(), grid, order=0, mode="nearest")
    assert (labels == heart.labels.numpy()).mean() > 0.99
    assert heart_of(shape, 0.0, 1).displacement.abs().max() == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_displacement_is_smooth_and_does_not_fold(shape: tuple[int, ...], seed: int) -> None:
    displacement = heart_of(shape, 1.0, seed).displacement.double().numpy()
    # SimpleITK: components of the last axis first, along the last axis of the array
    field = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(displacement[::-1], 0, -1)), isVector=True)
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))
    assert determinant.min() > 0.5
    assert determinant.max() < 6


def test_deterministic_and_each_seed_another_person() -> None:
    first, again, phase, other = (
        beating_heart((64, 64), *arguments) for arguments in ((0.7, 5), (0.7, 5), (0.0, 5), (0.7, 6))
    )
    for one, same, different in zip(first, again, other, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, different)
    assert not torch.equal(first.image, phase.image)


def test_noise_is_fresh_in_every_phase() -> None:
    still, moved = beating_heart((128, 128), 0.0), beating_heart((128, 128), 1e-6)
    difference = (still.image - moved.image)[still.labels > 0]
    assert float(difference.std()) == pytest.approx(NOISE * 2**0.5, rel=0.15)


def test_intensities_are_spread_like_those_of_cardiac_mr() -> None:
    """Median, 75th, 90th and 99th percentile of the Sunnybrook slices are 8, 28, 59 and 161."""
    image = torch.stack([beating_heart(seed=seed).image for seed in range(3)])
    assert np.percentile(image, [50, 75, 90, 99]) == pytest.approx([8, 28, 59, 161], rel=0.35)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": (64,)}, "shape must be"),
        ({"shape": (8, 64)}, "shape must be"),
        ({"phase": 1.5}, "phase must be .* got 1.5"),
        ({"phase": float("nan")}, "phase must be .* got nan"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        beating_heart(**arguments)
