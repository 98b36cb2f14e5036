from __future__ import annotations

import zipfile

import pytest
import torch
from torch import nn

from warpzoo.networks.weights import load_weights, tag_architecture


def network(width=3):
    return nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width))


def test_load_weights_takes_plain_states_and_checkpoints(tmp_path):
    source = network()
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    torch.save({"network": source.state_dict(), "trainer": {}}, tmp_path / "last.pt")
    for name in ("plain.pt", "last.pt"):
        target = network()
        load_weights(tmp_path / name, target)
        assert all(torch.equal(source.state_dict()[key], value) for key, value in target.state_dict().items())


def test_weights_of_other_choices_name_these_and_the_remedy(tmp_path):
    for name, choices in (("max", ("max", "elu")), ("own", ("average", "leaky_relu"))):
        layers = network()
        tag_architecture(layers, *choices)
        torch.save(layers.state_dict(), tmp_path / f"{name}.pt")
    load_weights(tmp_path / "own.pt", layers)
    message = r"another network: .* choices \(max elu\) than .* \(average leaky relu\)\. All variants"
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "max.pt", layers)


class Unsafe:
    """Not plain weights: reading it would run code."""


@pytest.mark.parametrize(
    "values",
    [
        torch.full((3,), torch.nan),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.zeros(3, dtype=torch.complex64),
    ],
    ids=["not a number", "sparse", "without values", "complex"],
)
def test_weights_that_are_no_numbers_name_the_file(tmp_path, values):
    path = tmp_path / "odd.pt"
    torch.save({"weight": torch.zeros(3, 2), "bias": values}, path)
    layer = nn.Linear(2, 3)
    before = layer.bias.detach().clone()
    with pytest.raises(ValueError, match=r"odd\.pt holds no finite real numbers as bias"):
        load_weights(path, layer)
    assert torch.equal(layer.bias, before)


def test_names_of_several_types_are_another_networks(tmp_path):
    torch.save({3: torch.zeros(1), "a": torch.zeros(1), None: 2}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt holds the weights of another network"):
        load_weights(tmp_path / "odd.pt", nn.Linear(2, 3))


def test_compressed_weights_are_refused_before_they_are_unpacked(tmp_path):
    torch.save({"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as plain,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as b,
    ):
        for name in plain.namelist():
            b.writestr(name, bytes(10**7) if name.endswith("data/0") else plain.read(name))
    with pytest.raises(ValueError, match=r"b\.pt cannot be read as weights") as caught:
        load_weights(tmp_path / "b.pt", nn.Linear(2, 3))
    assert str(caught.value.__cause__) == "compressed records"


@pytest.mark.parametrize("kind", ["missing", "another width", "another depth", "damaged", "code", "no state"])
def test_weights_that_do_not_fit_are_one_sentence_that_names_the_file(tmp_path, kind):
    path = tmp_path / "model.pt"
    if kind == "another width":
        torch.save(network(5).state_dict(), path)
    elif kind == "another depth":
        torch.save(network()[:1].state_dict(), path)
    elif kind == "damaged":
        torch.save(network().state_dict(), path)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "code":
        torch.save(Unsafe(), path)
    elif kind == "no state":
        torch.save(torch.zeros(3), path)
    layers = network()
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    wanted = {"missing": "does not exist", "damaged": "cannot be read", "code": "cannot be read"}
    with pytest.raises(ValueError, match=wanted.get(kind, "another network")) as error:
        load_weights(path, layers)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in layers.state_dict().items())
