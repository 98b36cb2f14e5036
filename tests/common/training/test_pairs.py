from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.distributed
from monai.data import DataLoader
from monai.transforms import ResizeWithPadOrCropd
from PIL import Image

from warpzoo.training import PairDataset, RandomPairs


def records(count=5, groups=("",), shape=(4, 5), labels=False):
    """Image number i holds i in its first voxel and i + 1 elsewhere; its label map 10 i in the first voxel."""
    made = []
    for number in range(count):
        image = np.full(shape, number + 1, dtype=np.float32)
        image.flat[0] = number
        record = {"id": str(number), "group": groups[number % len(groups)], "subject": str(number), "image": image}
        if labels:
            record["label"] = np.where(image == number, 10 * number, 0).astype(np.uint8)
        made.append(record)
    return made


def members(dataset):
    """(fixed, moving) of every pair, read from the images themselves."""
    pairs = [dataset[index]["image"].flatten(1)[:, 0] for index in range(len(dataset))]
    return [(int(fixed), int(moving)) for moving, fixed in pairs]


def test_all_makes_every_ordered_pair_once():
    found = members(PairDataset(records(5, groups=("a", "b")), pairing="all"))
    assert sorted(found) == [(a, b) for a, b in product(range(5), repeat=2) if a != b]


def test_same_group_makes_every_ordered_pair_of_each_group_once():
    groups = ("a", "b", "b", "c")  # of 9 images: a has 3, b 4, c 2
    data = records(9, groups)
    found = members(PairDataset(data, pairing="same_group"))
    wanted = [(a, b) for a, b in product(range(9), repeat=2) if a != b and data[a]["group"] == data[b]["group"]]
    assert sorted(found) == wanted
    assert len(found) == 3 * 2 + 4 * 3 + 2 * 1


def test_groups_of_one_image_are_left_out():
    found = members(PairDataset(records(5, groups=("lone", "b", "other", "b", "last")), pairing="same_group"))
    assert sorted(found) == [(1, 3), (3, 1)]


@pytest.mark.parametrize("fixed", [0, 2, 4])
def test_to_fixed_brings_every_other_image_onto_one(fixed):
    found = members(PairDataset(records(5, groups=("a", "b")), pairing="to_fixed", fixed=str(fixed)))
    assert found == [(fixed, other) for other in range(5) if other != fixed]


def test_a_pair_has_moving_first_and_the_labels_of_each():
    pair = PairDataset(records(3, labels=True), pairing="to_fixed", fixed="1")[1]
    assert pair["image"].shape == (2, 4, 5)
    assert pair["image"].dtype == torch.float32
    assert pair["image"][:, 0, 0].tolist() == [2, 1]
    assert (int(pair["moving_labels"].max()), int(pair["fixed_labels"].max())) == (20, 10)
    assert pair["id"] == "2 -> 1"


def test_transform_brings_images_and_labels_to_one_size():
    data = records(1, shape=(4, 9), labels=True) + records(2, shape=(6, 5), labels=True)[1:]
    transform = ResizeWithPadOrCropd(["image", "label"], (8, 8), allow_missing_keys=True)
    pair = PairDataset(data, pairing="all", transform=transform)[0]
    assert pair["image"].shape == (2, 8, 8)
    assert pair["fixed_labels"].shape == pair["moving_labels"].shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairing": "random"}, r"pairing is 'random'; it wants one of \('all', 'same_group', 'to_fixed'\)"),
        ({"data": []}, "data is empty; it wants at least two images"),
        ({"data": records(1)}, "no two of the 1 images can be paired by 'same_group'"),
        ({"data": records(3, groups="abc")}, "no two of the 3 images can be paired by 'same_group'"),
        ({"data": records(1), "pairing": "to_fixed", "fixed": "0"}, "no two of the 1 images"),
        ({"pairing": "to_fixed"}, "fixed is None; it wants the id of an image, such as '0'"),
        ({"pairing": "to_fixed", "fixed": "9"}, "fixed is '9'"),
    ],
)
def test_data_that_make_no_pair_say_so(options, message):
    with pytest.raises(ValueError, match=message):
        PairDataset(**{"data": records(), **options})


def broken(kind, tmp_path):
    data = records(2)
    image = data[1]["image"].copy()
    if kind == "constant":
        image[:] = 3
    elif kind == "not a number":
        image[2, 2] = np.nan
    elif kind == "infinite":
        image[2, 2] = np.inf
    elif kind == "size":
        image = np.pad(image, ((0, 1), (0, 0)))
    elif kind == "rank":
        image = np.stack([image, image + 1])
    elif kind == "colour":
        path = tmp_path / "colour.png"
        Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(path)
        image = path
    data[1] |= {"id": "the broken one", "image": image}
    return PairDataset(data)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("constant", r"^the broken one is constant \(3\.0\); nothing can be registered to it\.$"),
        ("not a number", r"^the broken one has NaN or infinite values"),
        ("infinite", r"^the broken one has NaN or infinite values"),
        ("size", r"^moving the broken one has size \(5, 5\) and fixed 0 \(4, 5\); .* one grid"),
        ("rank", r"^moving the broken one has size \(2, 4, 5\) and fixed 0 \(4, 5\)"),
        ("colour", r"^the broken one has 3 channels; one is wanted\.$"),
    ],
)
def test_images_that_cannot_be_registered_are_named_in_one_sentence(kind, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        broken(kind, tmp_path)[0]
    assert "\n" not in str(error.value)


def sampler(dataset, monkeypatch, rank=0, processes=1, **options):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: processes > 1)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    return RandomPairs(dataset, **options)


def test_draws_follow_from_seed_and_epoch_alone(monkeypatch):
    dataset = PairDataset(records(6), pairing="all")
    drawn = {}
    for seed, epoch in product((0, 1), (1, 2)):
        pairs = sampler(dataset, monkeypatch, samples=40, seed=seed)
        pairs.set_epoch(epoch)
        torch.manual_seed(seed + epoch)
        drawn[seed, epoch] = list(pairs)
        again = sampler(dataset, monkeypatch, samples=40, seed=seed)
        again.set_epoch(epoch)
        torch.manual_seed(99)
        assert list(again) == drawn[seed, epoch]
        assert len(pairs) == len(drawn[seed, epoch]) == 40
    assert len({tuple(pairs) for pairs in drawn.values()}) == 4
    assert {index for pairs in drawn.values() for index in pairs} == set(range(30))


@pytest.mark.parametrize(("processes", "samples"), [(2, 20), (3, 20)])
def test_processes_share_one_draw_out(monkeypatch, processes, samples):
    dataset = PairDataset(records(6), pairing="all")
    parts = [list(sampler(dataset, monkeypatch, rank, processes, samples=samples)) for rank in range(processes)]
    assert {len(part) for part in parts} == {-(-samples // processes)}
    together = [index for group in zip(*parts, strict=True) for index in group]
    assert together[:samples] == list(sampler(dataset, monkeypatch, samples=samples))


def test_loader_batches_pairs(monkeypatch):
    dataset = PairDataset(records(4, labels=True))
    pairs = sampler(dataset, monkeypatch, samples=6)
    batches = list(DataLoader(dataset, batch_size=3, sampler=pairs))
    assert [batch["image"].shape for batch in batches] == [(3, 2, 4, 5)] * 2
    drawn = [dataset[index]["id"] for index in pairs]
    assert [name for batch in batches for name in batch["id"]] == drawn
