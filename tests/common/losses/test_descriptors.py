"""What is compared of images of different contrasts, beside scipy's patch means."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from warpzoo.losses import self_similarity


def textured(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5, mode="wrap")


def by_scipy(image: np.ndarray) -> np.ndarray:
    """By its definition: patches of three voxels a side around the neighbours of a voxel, of each two not opposite; in
    a plane of all neighbours, in space of those along the axes."""
    centre = np.ones(image.ndim, int)
    padded = np.pad(image, 1, mode="edge")

    def neighbour(step: np.ndarray) -> np.ndarray:
        return padded[tuple(slice(first, first + n) for first, n in zip(centre + step, image.shape, strict=True))]

    steps = [np.array(corner) - centre for corner in np.ndindex(*3 * centre)]
    around = [step for step in steps if 0 < np.abs(step).sum() <= (2 if image.ndim == 2 else 1)]
    unlike = np.stack(
        [
            ndimage.uniform_filter((neighbour(one) - neighbour(other)) ** 2, 3, mode="nearest")
            for one, other in combinations(around, 2)
            if (one + other).any()
        ]
    )
    unlike -= unlike.min(0)
    spread = unlike.mean(0)
    return np.exp(-unlike / spread.clip(1e-3 * spread.mean(), 1e3 * spread.mean()))


@pytest.mark.parametrize(("shape", "count"), [((20, 17), 24), ((9, 12, 10), 12)])
def test_descriptors_are_those_of_their_definition(shape: tuple[int, ...], count: int) -> None:
    images = np.stack([textured(shape, seed) for seed in (0, 1)])
    found = self_similarity(torch.from_numpy(images)[:, None])
    assert found.shape == (2, count, *shape)
    np.testing.assert_allclose(found.numpy(), np.stack([by_scipy(one) for one in images]), rtol=1e-6, atol=1e-9)


@given(gain=st.sampled_from([-2000.0, -1.0, 0.01, 3.0]), offset=st.floats(-50, 50))
def test_descriptors_are_the_same_in_another_contrast(gain: float, offset: float) -> None:
    image = torch.from_numpy(textured((24, 22)))[None, None]
    torch.testing.assert_close(self_similarity(gain * image + offset), self_similarity(image), rtol=0, atol=1e-6)


def test_descriptors_of_channels_are_each_their_own() -> None:
    image = torch.from_numpy(np.stack([textured((14, 12), seed) for seed in range(3)]))[None]
    alone = torch.cat([self_similarity(image[:, one : one + 1]) for one in range(3)], 1)
    torch.testing.assert_close(self_similarity(image), alone)


def test_an_image_without_contrast_has_equal_descriptors() -> None:
    assert torch.equal(self_similarity(torch.full((1, 1, 8, 8, 8), 7)), torch.ones(1, 12, 8, 8, 8))
