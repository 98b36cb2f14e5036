"""Pairs of simulated frames: their points show the same places, they repeat where they should and differ elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from warpzoo.training import SimulatedPairs, with_points


@pytest.mark.parametrize("size", [(56, 56), (64, 48), (40, 40, 12)])
def test_points_show_the_same_places_in_both_images(size):
    pairs = SimulatedPairs(size, motion=(0.1, 0.15), snr=(200, 201), neighbours=0, seed=3, count=6)
    alike, still = [], []
    for index in range(6):
        pair = pairs[index]
        assert pair["image"].shape == (2, *size)
        moving, fixed = pair["image"].numpy()
        here, there = pair["fixed_points"].numpy().T, pair["moving_points"].numpy().T
        alike.append(np.corrcoef(map_coordinates(moving, there, order=1), map_coordinates(fixed, here, order=1))[0, 1])
        still.append(np.corrcoef(map_coordinates(moving, here, order=1), map_coordinates(fixed, here, order=1))[0, 1])
    assert np.mean(alike) > 0.85 > np.mean(still) + 0.1


@pytest.mark.parametrize("size", [(64, 48), (40, 40, 12)])
def test_what_is_aligned_is_apart_by_what_is_not_affine(size):
    """The points say so, and the images agree with the points."""
    alike = []
    for elastic in (0.0, 0.3):
        settings = {"motion": (0.2, 0.21), "elastic": (elastic, elastic), "neighbours": 0, "seed": 3, "count": 6}
        for index in range(6):
            pair = SimulatedPairs(size, snr=(200, 201), aligned=1.5, **settings)[index]
            apart = pair["moving_points"] - pair["fixed_points"]
            as_far = SimulatedPairs(size, snr=(200, 201), **settings)[index]
            assert (
                apart.norm(dim=1).mean() < 0.5 * (as_far["moving_points"] - as_far["fixed_points"]).norm(dim=1).mean()
            )
            if not elastic:
                assert torch.allclose(apart, apart[:1], atol=1e-3)  # a shift
                assert apart[0].norm() < 1.501
            (moving, fixed), places = pair["image"].numpy(), (pair["moving_points"], pair["fixed_points"])
            seen = [
                map_coordinates(image, points.numpy().T, order=1)
                for image, points in zip((moving, fixed), places, strict=True)
            ]
            alike.append(np.corrcoef(*seen)[0, 1])
    assert np.mean(alike) > 0.8


def test_pairs_follow_from_their_index_alone():
    held = SimulatedPairs((48, 48), seed=1, count=3)
    assert torch.equal(held[2]["image"], held[2]["image"])
    assert torch.equal(held[2]["image"], SimulatedPairs((48, 48), seed=1, count=3)[2]["image"])
    fresh = SimulatedPairs((48, 48), count=3)
    assert len(held) == 3 < len(fresh)
    assert fresh[2]["id"] == fresh[5]["id"] != held[2]["id"]  # of one nucleus
    assert not torch.equal(fresh[2]["image"], fresh[5]["image"])
    assert torch.equal(SimulatedPairs((48, 48), count=3)[5]["image"], fresh[5]["image"])  # whatever was made before


def test_the_objective_gets_the_points_where_there_are_any():
    pair = SimulatedPairs((48, 48), count=1)[0]
    batch = {key: value[None] for key, value in pair.items() if key != "id"}
    image, _, points, _ = with_points(batch, "cpu")
    assert torch.equal(image, batch["image"])
    assert [one.shape for one in points] == [(1, 64, 2)] * 2
    assert with_points({"image": image}, "cpu")[2] == ()
