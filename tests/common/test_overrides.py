"""What a user sets on top of a configuration, and what weights say of their network: what may be said, and what not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from warpzoo.bundles import open_bundle
from warpzoo.bundles.overrides import check_overrides, command_line
from warpzoo.bundles.portable import carried_settings, configuration, network_settings, stated_range
from warpzoo.networks import read_about, save_weights

ROOT = Path(__file__).parents[2] / "bundles"
KNOWN = {
    "epochs": 3,
    "learning_rate": 0.1,
    "resume": False,
    "size": [4, 5],
    "patience": None,
    "network_def": {"_target_": "torch.nn.Linear", "in_features": 3},
    "pool": {"_target_": "torch.nn.MaxPool2d", "kernel_size": [2, 3]},
    "train": {"trainer": {"max_epochs": "@epochs"}, "network": "@network_def"},
    "run": ["$@train#trainer.run()"],
    "device": "$torch.device('cpu')",
}


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 5, "learning_rate": 1, "resume": "false", "size": (1, 2), "patience": 4, "device": "cpu"},
        {"epochs": "@patience", "learning_rate": "$1 / 2"},
        {"network_def#bias": False, "network_def#in_features": 2, "train#network#out_features": 4},
        {"train::trainer::max_epochs": 2, "run#0": "$1"},
        {"network_def": {"_target_": "torch.nn.Identity"}, "size": None},
        {"average": {"_target_": "x"}, "train#trainer#max_epochs": "@average"},
        {"+run": ["$2"]},
        {"pool#kernel_size": 2},
    ],
)
def test_what_may_be_set(given):
    check_overrides(KNOWN, given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 5}, r"^epoch is no setting of this configuration \(did you mean epochs\?\)\.$"),
        ({"zzz": 5}, r"^zzz is no setting of this configuration\.$"),
        ({"train#trainer#max_epoch": 2}, r"did you mean train#trainer#max_epochs\?"),
        ({"network_def#bais": 2}, r"did you mean network_def#bias\?"),
        ({"network_def#bias#deep": 2}, "network_def#bias#deep is no setting"),
        ({"run#7": "$1"}, "run#7 is no setting"),
        ({"epochs": "two"}, "^epochs must be a whole number, got 'two'"),
        ({"epochs": 2.5}, "^epochs must be a whole number, got 2.5"),
        ({"epochs": True}, "^epochs must be a whole number, got True"),
        ({"epochs": None}, "^epochs must be a whole number, got None"),
        ({"epochs": -1}, "^epochs must be 0 or more, got -1"),
        ({"learning_rate": float("nan")}, "^learning_rate must be 0 or more, got nan"),
        ({"resume": "yes"}, "^resume must be true or false, got 'yes'"),
        ({"size": 5}, r"^size must be a list such as \[4, 5\], got 5"),
        ({"size": [4, "a"]}, "^size must be a whole number, got 'a'"),
        ({"device": "gpu"}, "^device must be such as cpu, cuda or cuda:1, got 'gpu'"),
    ],
)
def test_what_may_not(given, message):
    with pytest.raises(ValueError, match=message):
        check_overrides(KNOWN, given)


def test_options_are_read_as_fire_reads_them():
    words = "run --config_file ['a.json','b.json'] --epochs=3 --rate -0.5 --resume --train#x true --name a=b -s 1"
    assert command_line(words.split()) == {
        "config_file": ["a.json", "b.json"],
        "epochs": 3,
        "rate": -0.5,
        "resume": True,
        "train#x": "true",
        "name": "a=b",
        "s": 1,
    }


def test_the_configuration_is_found_by_what_it_makes():
    asks = {"_target_": "warpzoo.bundles.portable.configuration"}
    config = open_bundle(ROOT / "voxelmorph_dense").config("train", found=asks)
    assert config.get_parsed_content("found") is config
    assert configuration() is None
    assert network_settings(None) == {}


def test_weights_say_what_makes_their_network_in_plain_values():
    bundle = open_bundle(ROOT / "psf_blindspot")
    config = bundle.config("train", ["3d"], **{"psf_sigma": [2, 1, 1], "network_def#channels": "$2 + 2"})
    about = network_settings(config)
    assert json.loads(json.dumps(about)) == about
    assert (about["bundle"], about["spatial_dims"], about["network_def"]["channels"]) == ("psf_blindspot", 3, 4)
    assert about["network_def"]["psf"]["sigma"] == [2, 1, 1]
    made = bundle.config("inference", **carried_settings(about, bundle, "a.pt")).get_parsed_content("network_def")
    theirs = config.get_parsed_content("network_def")
    assert {name: value.shape for name, value in made.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    assert network_settings(bundle.config("train", **{"network_def#psf": object()})) == {}


DENSE = {"_target_": "voxelmorph_dense.network.VoxelMorphDense", "spatial_dims": 3}


@pytest.mark.parametrize(
    "network",
    [
        {**DENSE, "features": "$__import__('os').system('touch created')"},
        {**DENSE, "features": "@bundle_root"},
        {**DENSE, "features": "%../other.json#x"},
        {**DENSE, "$x": 1},
        {**DENSE, "features": {"_target_": "os.system", "command": "touch created"}},
        {**DENSE, "features": [{"_target_": "warpzoo.record.write_json", "path": "created", "content": 1}]},
        {"_target_": "torch.load", "f": "x"},
        {"_target_": ["os.system"]},
        {**DENSE, "_mode_": "debug"},
        [1],
        None,
    ],
)
def test_weights_that_ask_for_anything_else_are_refused(network, tmp_path):
    bundle = open_bundle(ROOT / "voxelmorph_dense")
    save_weights(tmp_path / "a.pt", nn.Linear(1, 1), {"bundle": bundle.name, "network_def": network})
    with pytest.raises(ValueError, match=r"a\.pt asks for a network that voxelmorph_dense does not make"):
        carried_settings(read_about(tmp_path / "a.pt"), bundle, tmp_path / "a.pt")


def test_what_weights_say_of_their_data_is_numbers():
    assert stated_range({"spacing": [1, 1.5], "training_data": {"size": [3, 4], "spacing": ["$1", 2], "x": 1}}) == {
        "spacing": [1, 1.5],
        "training_data": {"size": [3, 4]},
    }
    assert stated_range({"spacing": "$1", "training_data": [1]}) == {}


def test_weights_with_settings_are_a_plain_state_dict(tmp_path):
    layers = nn.Linear(2, 3)
    save_weights(tmp_path / "new" / "a.pt", layers, {"bundle": "x"})
    save_weights(tmp_path / "b.pt", layers, {"bundle": "x"})
    assert (tmp_path / "new" / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    state = torch.load(tmp_path / "b.pt", weights_only=True)
    nn.Linear(2, 3).load_state_dict(state)
    assert list(state) == ["weight", "bias"]
    assert read_about(tmp_path / "b.pt") == {"bundle": "x"}
    torch.save(layers.state_dict(), tmp_path / "c.pt")
    assert read_about(tmp_path / "c.pt") == {}
