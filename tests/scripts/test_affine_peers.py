"""Other tools' affine maps arrive in our convention, and the experiments' sets are what their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from warpzoo.data.placements import copies
from warpzoo.geometry.affine import affine_field

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = ("SimpleITK", "ANTs", "greedy")


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from experiments import affine_peers

    return affine_peers


@pytest.fixture
def placements(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from experiments import stn_affine_placements

    return stn_affine_placements


@pytest.fixture(scope="module")
def pair():
    noise = np.random.default_rng(0).normal(size=(40, 48, 36))
    body = ndimage.gaussian_filter(np.pad(np.ones((20, 28, 16)), 10), 2)
    image = torch.from_numpy((body * (1 + 3 * ndimage.gaussian_filter(noise, 2))).clip(0)).float()
    return copies(image, (image > 0.5).to(torch.uint8), "both", seed=3)


@pytest.mark.parametrize("name", NAMES)
def test_what_they_find_is_what_was_done(peers, placements, pair, name):
    assert tuple(peers.PEERS) == NAMES
    if placements.installed_version(peers.PACKAGES[name]) is None:
        pytest.skip(f"{name} is not installed")
    truth = affine_field(pair.truth, list(pair.fixed.shape))
    found = peers.PEERS[name](pair.fixed, pair.moving)
    apart = (found - truth)[0].square().sum(0).sqrt()[pair.fixed_labels > 0]
    assert float(truth[0].square().sum(0).sqrt()[pair.fixed_labels > 0].mean()) > 2
    assert float(apart.mean()) < 0.5


def test_the_truth_measures_as_exact(placements, pair):
    field = affine_field(pair.truth, list(pair.fixed.shape))
    numbers = placements.measured(pair, torch.cat([pair.fixed[None, None], field], 1), 1.0)
    assert numbers["error"] == 0
    assert numbers["dice"] > 0.95
    assert placements.measured(pair, torch.cat([pair.moving[None, None], 0 * field], 1), 1.0)["error"] > 2


def test_cubes_are_seeded(placements, tmp_path):
    one, two = (list(placements.pairs_of("cubes", tmp_path, 2, seed)) for seed in (0, 0))
    assert torch.equal(one[1].moving, two[1].moving)
    assert not torch.equal(one[0].fixed, one[1].fixed)
