"""Pairs made while training: repeatable, one anatomy with labels that follow it, faults in what is seen alone."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from warpzoo.data.appearance import flow, random_anatomy, random_velocity, remapped
from warpzoo.training import MadePairs


@pytest.fixture
def records(tmp_path: Path) -> list[dict]:
    """Two volumes whose labels are their intensities."""
    records = []
    for number in range(2):
        torch.manual_seed(number)
        labels = random_anatomy((30, 36, 32), 6, 12.0).numpy().astype(np.float32)
        path = tmp_path / f"{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), path)
        records.append({"id": str(number), "group": "one", "image": path, "label": path})
    return records


def test_the_labels_of_a_pair_follow_its_images(records: list[dict]) -> None:
    """A compared image is the linearly interpolated label map: away from borders both are equal."""
    pairs = MadePairs(records, (24, 24, 24), imagined=0, zoom=(0.4, 0.5))
    for index in range(6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
            pair = pairs._made()
        for image, labels in zip(pair["image"][2:4], (pair["moving_labels"], pair["fixed_labels"]), strict=True):
            low, high = ndimage.minimum_filter(labels[0], 7), ndimage.maximum_filter(labels[0], 7)
            inside = torch.from_numpy((low == high) & (low > 0))[3:-3, 3:-3, 3:-3]
            assert inside.any()
            image, expected = (one[3:-3, 3:-3, 3:-3][inside].float() for one in (image, labels[0]))
            torch.testing.assert_close(image, expected, atol=1e-3, rtol=0)


def test_what_is_known_takes_moving_onto_fixed() -> None:
    torch.manual_seed(0)
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(60, 64, 62)), 3).astype(np.float32)
    for imagined, least in ((0.0, 0.995), (1.0, 0.8)):  # between random tissues, linear interpolation blurs
        record = {"id": "a", "group": "", "image": torch.from_numpy(smooth)[None]}
        pairs = MadePairs([record], (32, 36, 30), imagined=imagined, zoom=(0.7, 0.8))
        for index in range(6):
            image = pairs[index]["image"].numpy()
            moving, fixed, known = image[2], image[3], image[4:]
            places = np.indices(moving.shape) + known
            ends = np.array(moving.shape).reshape(3, 1, 1, 1) - 1
            inside = ((places >= 1) & (places <= ends - 1)).all(0)
            warped = ndimage.map_coordinates(moving, places, order=1)
            before, after = (np.corrcoef(one[inside], fixed[inside])[0, 1] for one in (moving, warped))
            assert after > max(before, least)


def test_points_of_validation_pairs_lie_on_the_same_anatomy() -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(60, 64, 62)), 3).astype(np.float32)
    record = {"id": "a", "group": "", "image": torch.from_numpy(smooth)[None]}
    pairs = MadePairs([record], (32, 36, 30), imagined=0, contrasts=0, zoom=(0.7, 0.8), seed=0)
    alike = []
    for index in range(4):
        pair = pairs[index]
        moving, fixed = pair["image"].numpy()
        there, here = (pair[f"{which}_points"].numpy() for which in ("moving", "fixed"))
        assert len(here) > 200
        inside = ((there >= 1) & (there <= np.array(moving.shape) - 2)).all(1)
        seen = ndimage.map_coordinates(fixed, here[inside].T, order=1)
        expected = (ndimage.map_coordinates(moving, places[inside].T, order=1) for places in (here, there))
        alike.append([np.corrcoef(one, seen)[0, 1] for one in expected])
    assert (np.diff(alike) > 0).all()
    assert np.mean(alike, 0)[1] > 0.8


def test_between_two_images_nothing_is_known(records: list[dict]) -> None:
    torch.manual_seed(0)
    images = [MadePairs(records, (16, 16, 16), imagined=0)[index] for index in range(12)]
    for pair in images:
        one, other = pair["id"].split(" -> ")
        assert bool(pair["image"][4:].isfinite().all()) == (one == other)
        assert bool(pair["image"][4:].isnan().all()) == (one != other)
    assert len({pair["id"] for pair in images}) > 2


def test_pairs_follow_from_their_index_alone(records: list[dict]) -> None:
    kept, drawn = MadePairs(records, (16, 16, 16), seed=0), MadePairs(records, (16, 16, 16))
    assert kept[3]["image"].shape == (2, 16, 16, 16)
    assert torch.equal(kept[3]["image"], kept[3]["image"])
    assert not torch.equal(kept[3]["image"], kept[4]["image"])
    assert drawn[0]["image"].shape == (7, 16, 16, 16)
    assert len(kept) == 1000 < len(drawn)


def test_one_contrast_makes_what_is_seen_the_compared_image_but_for_faults(records: list[dict]) -> None:
    torch.manual_seed(0)
    for imagined in (0.0, 1.0):
        pairs = MadePairs(records, (32, 32, 32), imagined=imagined, contrasts=0)
        correlations = []
        for index in range(8):
            seen, compared = pairs[index]["image"][:4].flatten(1).double().split(2)
            correlations += [float(np.corrcoef(one, other)[0, 1]) for one, other in zip(seen, compared, strict=True)]
        assert np.median(correlations) > 0.85


def test_pairs_in_2d(records: list[dict]) -> None:
    torch.manual_seed(0)
    pair = MadePairs([{"id": "a", "group": "", "image": torch.rand(1, 40, 50)}], (32, 32))[0]
    assert pair["image"].shape == (6, 32, 32)
    assert pair["image"].isfinite().all()


@pytest.mark.parametrize("shape", [(96, 90), (56, 60, 64)])
def test_a_flow_is_undone_by_that_of_the_negative_velocity(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    velocity = random_velocity(shape, 1.5, 0.5)
    there, back = flow(velocity).numpy(), flow(-velocity).numpy()
    places = np.indices(shape) + there
    left = there + np.stack([ndimage.map_coordinates(axis, places, order=1, mode="nearest") for axis in back])
    inner = (slice(None), *[slice(5, -5)] * len(shape))
    assert np.abs(left[inner]).mean() < 0.05 * np.abs(there[inner]).mean()


def test_another_contrast_is_a_function_of_the_first() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (4000,)).float()
    other = remapped(labels, 5)
    assert all(len(other[labels == value].unique()) == 1 for value in range(5))
    assert len(other.unique()) > 2
