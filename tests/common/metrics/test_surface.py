from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from warpzoo.metrics import surface_distances


def blobs(shape, seed, labels=2):
    """A smooth label map with ragged structures, some of which touch the image's border."""
    noise = np.random.default_rng(seed).normal(size=(labels + 1, *shape))
    return np.argmax([gaussian_filter(channel, 2.0) for channel in noise], axis=0)


def by_distance_transforms(structure, target, spacing):
    edge, other = (mask & ~binary_erosion(mask) for mask in (structure, target))
    there = distance_transform_edt(~other, sampling=spacing)[edge]
    back = distance_transform_edt(~edge, sampling=spacing)[other]
    both = np.concatenate([there, back])
    return both.max(), max(np.percentile(there, 95), np.percentile(back, 95)), both.mean()


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((31, 24), (1.0, 1.0)), ((31, 24), (0.4, 2.5)), ((17, 21, 13), (1.0, 1.0, 1.0)), ((17, 21, 13), (3.0, 0.8, 1.25))],
)
def test_agrees_with_erosion_edges_and_distance_transforms(shape, spacing):
    prediction = np.stack([blobs(shape, seed) for seed in (0, 1)])
    reference = np.stack([blobs(shape, seed) for seed in (2, 3)])
    result = surface_distances(
        torch.from_numpy(prediction)[:, None], torch.from_numpy(reference)[:, None], None, spacing
    )
    assert result.mean.shape == (2, 2)
    for item in range(2):
        for column, label in enumerate((1, 2)):
            expected = by_distance_transforms(prediction[item] == label, reference[item] == label, spacing)
            ours = [distance[item, column].item() for distance in result]
            assert ours == pytest.approx(expected, rel=1e-6)


def test_numbers_are_monai_s():
    prediction, reference = (torch.from_numpy(blobs((14, 19, 16), seed))[None, None] for seed in (4, 5))
    one_hot = [torch.cat([x == label for label in range(3)], dim=1) for x in (prediction, reference)]
    result = surface_distances(prediction, reference, spacing=(2.0, 1.0, 0.5))
    options = {"spacing": (2.0, 1.0, 0.5), "include_background": False}
    torch.testing.assert_close(result.hausdorff, compute_hausdorff_distance(*one_hot, **options))
    torch.testing.assert_close(result.hausdorff95, compute_hausdorff_distance(*one_hot, percentile=95, **options))
    torch.testing.assert_close(result.mean, compute_average_surface_distance(*one_hot, symmetric=True, **options))


def test_shifted_square_is_its_shift_away_in_world_units():
    reference = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    reference[..., 5:10, 5:10] = 1
    result = surface_distances(reference.roll(3, dims=2), reference, spacing=(0.5, 4.0))
    assert result.hausdorff.item() == pytest.approx(1.5)
    assert surface_distances(reference, reference) == (0, 0, 0)


def test_labels_absent_from_either_map_have_no_distance_and_no_warning():
    prediction = torch.tensor([[[[1, 1, 0, 2]]], [[[1, 0, 0, 0]]]])
    reference = torch.tensor([[[[1, 0, 3, 0]]], [[[1, 0, 0, 0]]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = surface_distances(prediction, reference, labels=[1, 2, 3])
    for distance in result:
        assert distance.isnan().tolist() == [[False, True, True], [False, True, True]]


@pytest.mark.parametrize("spacing", [(1.0,) * 3, (1.0, 0.0), (1.0, float("nan")), -1.0])
def test_bad_spacing_is_named(spacing):
    labels = torch.ones(1, 1, 5, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match="spacing must be"):
        surface_distances(labels, labels, spacing=spacing)
