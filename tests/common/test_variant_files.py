"""Settings in a file of one's own: what is misspelt or of another kind there is said, with the file's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warpzoo.bundles import open_bundle
from warpzoo.bundles.overrides import known_settings

ROOT = Path(__file__).parents[2] / "bundles" / "voxelmorph_dense"


@pytest.fixture
def own(tmp_path):
    """A file of settings, by its path."""

    def write(content):
        path = tmp_path / "mine.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_a_file_of_ones_own_sets_what_is_there(own):
    settings = {
        "learning_rate": 3e-4,
        "similarity#window": 5,
        "network_def#features": 4,
        "similarity": {"_target_": "warpzoo.losses.MSELoss"},
        "rate": 5,
        "optimizer#lr": "@rate",
    }
    found = open_bundle(ROOT).settings("train", ["folder", own(settings)])
    assert {name: found[name] for name in settings} == settings
    # what only a training has is no mistake where the same variant is for an inference
    assert "learning_rate" not in open_bundle(ROOT).settings("inference", [own({"learning_rate": 1})])
    assert known_settings([str(ROOT / "configs" / "train.json"), own({"seed": 7})])["seed"] == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"learning_rat": 3}, r"mine\.json: learning_rat is no setting .*\(did you mean learning_rate\?\)"),
        ({"network_def#featurs": 3}, r"mine\.json: network_def#featurs is no setting .*network_def#features"),
        ({"batch_size": "x"}, r"mine\.json: batch_size must be a whole number, got 'x'"),
        ({"learning_rate": -3}, r"mine\.json: learning_rate must be 0 or more, got -3"),
    ],
)
def test_a_misspelt_setting_in_it_is_refused(own, content, message):
    with pytest.raises(ValueError, match=message):
        open_bundle(ROOT).settings("train", ["folder", own(content)])
    with pytest.raises(ValueError, match=message):  # as on MONAI's command line
        known_settings([str(ROOT / "configs" / "train.json"), own(content)])


def test_a_file_that_is_none_is_one_sentence(own):
    with pytest.raises(ValueError, match=r"^/nowhere\.json does not exist; it must be JSON\.$"):
        open_bundle(ROOT).settings("train", ["/nowhere.json"])
    with pytest.raises(ValueError, match=r"mine\.json cannot be read as JSON .*damaged"):
        open_bundle(ROOT).settings("train", [own("{")])
    with pytest.raises(ValueError, match=r"mine\.json must be a JSON object, got a list"):
        open_bundle(ROOT).settings("train", [own("[1]")])
