from __future__ import annotations

import logging
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.distributed
from monai.data import DataLoader
from monai.transforms import LoadImage, ResizeWithPadOrCropd
from PIL import Image

from warpzoo.losses import normalised_cross_correlation
from warpzoo.training import (
    MadePairs,
    PairDataset,
    PlacedPairs,
    RandomPairs,
    SimulatedPairs,
    common_spacing,
    list_images,
)
from warpzoo.training.engines import random_loader


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
        ({"pairing": "random"}, r"pairing must be one of \('all', 'same_group', 'to_fixed'\), got 'random'"),
        ({"data": []}, "data must list at least two images, got none"),
        ({"data": records(1)}, "no two of the 1 images can be paired by 'same_group'"),
        ({"data": records(3, groups="abc")}, "no two of the 3 images can be paired by 'same_group'"),
        ({"data": records(1), "pairing": "to_fixed", "fixed": "0"}, "no two of the 1 images"),
        ({"pairing": "to_fixed"}, "fixed must be the id of an image, such as '0', got None"),
        ({"pairing": "to_fixed", "fixed": "9"}, "fixed must be .* got '9'"),
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
        ("not a number", r"^the broken one must hold finite numbers, got NaN or infinite values"),
        ("infinite", r"^the broken one must hold finite numbers, got NaN or infinite values"),
        ("size", r"^moving the broken one has size \(5, 5\) and fixed 0 \(4, 5\); .* one size"),
        ("rank", r"^moving the broken one has size \(2, 4, 5\) and fixed 0 \(4, 5\)"),
        ("colour", r"colour\.png is a colour image"),
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


@pytest.mark.parametrize("kind", [MadePairs, PlacedPairs, SimulatedPairs])
def test_made_pairs_do_not_depend_on_who_makes_them(kind):
    """Workers are told other numbers at each start of a run, and MONAI's loader draws from torch's generator."""
    drawn = []
    for workers in (0, 1, 2):
        images = [{**one, "image": torch.from_numpy(one["image"])[None]} for one in records(3, shape=(20, 24))]
        lists = [] if kind is SimulatedPairs else [images]
        loader = random_loader(kind(*lists, size=(32, 32)), 2, 3, seed=5, num_workers=workers)
        loader.sampler.set_epoch(4)
        torch.manual_seed(workers)
        before = torch.get_rng_state()
        drawn.append([batch["image"].nan_to_num() for batch in loader])
        assert torch.equal(torch.get_rng_state(), before)
    assert len({float(image.sum()) for batch in drawn[0] for image in batch}) == 6
    for other in drawn[1:]:
        assert all(torch.equal(one, two) for one, two in zip(drawn[0], other, strict=True))


@pytest.mark.parametrize("kind", [MadePairs, PlacedPairs])
def test_made_pairs_keep_no_more_images_than_they_may(kind):
    images = [{**one, "image": torch.from_numpy(one["image"])[None]} for one in records(8, shape=(20, 24))]
    each = images[0]["image"].element_size() * images[0]["image"].numel()
    free, bounded = kind(images, size=(32, 32)), kind(images, size=(32, 32), cache=2.5 * each / 1e9)
    for index in range(12):
        one, other = free[index], bounded[index]
        assert torch.equal(one["image"].nan_to_num(), other["image"].nan_to_num())
    assert len(bounded.cache.kept) == 2 < len(free.cache.kept)


def blobs(shape=(20, 22, 24), spacing=(1.0, 1.0, 1.0)):
    """The same anatomy, not symmetric, on any grid: two balls of different size in millimetres."""
    axes = np.meshgrid(*(np.arange(size) * step for size, step in zip(shape, spacing, strict=True)), indexing="ij")
    balls = (((5, 12, 8), 3.0, 100), ((13, 7, 14), 4.5, 60))
    return sum(
        height * np.exp(-sum((x - c) ** 2 for x, c in zip(axes, centre, strict=True)) / (2 * width**2))
        for centre, width, height in balls
    ).astype(np.float32)


def save(path, values, affine):
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def similarity(dataset, index=0):
    moving, fixed = dataset[index]["image"]
    return float(normalised_cross_correlation(moving[None, None], fixed[None, None]))


@pytest.mark.parametrize("axes", [(0,), (0, 1), (2,)])
def test_orientation_of_the_file_makes_no_difference(tmp_path, axes):
    values, affine = blobs(), np.eye(4)
    labels = (values > 50).astype(np.uint8)
    turned = affine.copy()
    for axis in axes:
        turned[axis, axis], turned[axis, 3] = -1, values.shape[axis] - 1
    for folder, array in (("images", values), ("labels", labels)):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "a.nii.gz", array, affine)
        save(tmp_path / folder / "b.nii.gz", np.flip(array, axes).transpose(2, 0, 1), turned[:, [2, 0, 1, 3]])
    dataset = PairDataset(list_images(tmp_path / "images", labels=tmp_path / "labels"))
    assert similarity(dataset) == pytest.approx(1, abs=1e-6)
    pair = dataset[0]
    assert torch.equal(pair["image"][0], torch.from_numpy(values))
    assert torch.equal(pair["moving_labels"], pair["fixed_labels"])
    assert torch.equal(pair["fixed_labels"][0], torch.from_numpy(labels).long())


def test_differing_spacings_become_their_median(tmp_path, caplog):
    shapes = {"a": ((20, 22, 24), (1, 1, 1)), "b": ((20, 22, 12), (1, 1, 2)), "c": ((20, 22, 24), (1, 1, 1))}
    for name, (shape, spacing) in shapes.items():
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = 0.5 * np.array(spacing)  # the fields of view coincide
        save(tmp_path / f"{name}.nii.gz", blobs(shape, spacing), affine)
    records = list_images(tmp_path)
    dataset = PairDataset(records, cache=None)
    with caplog.at_level(logging.INFO):
        pairs = [dataset[index]["image"] for index in range(len(dataset))]
    assert {pair.shape for pair in pairs} == {(2, 20, 22, 24)}
    assert len([record for record in caplog.records if "resampled" in record.message]) == 1
    assert common_spacing(records) == (1, 1, 1)
    assert common_spacing(records[::2]) is None
    assert min(similarity(dataset, index) for index in range(len(dataset))) > 0.95
    coarse = PairDataset(records, spacing=2.0)
    assert coarse[0]["image"].shape == (2, 10, 11, 12)
    assert min(similarity(coarse, index) for index in range(len(coarse))) > 0.95
    with pytest.raises(ValueError, match="spacing"):
        PairDataset(records, spacing=(1.0, 2.0))[0]


def test_pictures_and_arrays_are_as_they_are_and_grey_colours_are_grey(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (6, 7)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(np.repeat(grey[..., None], 3, -1)).save(tmp_path / "b.png")
    data = [*list_images(tmp_path), records(1, shape=(7, 6))[0] | {"group": "."}]
    pairs = PairDataset(data, spacing=3.0)
    assert torch.equal(pairs[0]["image"], torch.from_numpy(np.stack([grey.T, grey.T])).float())
    assert torch.equal(pairs[1]["image"][0], torch.from_numpy(data[2]["image"]))


def test_a_label_map_on_another_grid_is_refused(tmp_path):
    for folder, affine in (("images", np.eye(4)), ("labels", np.diag([-1, 1, 1, 1]))):
        (tmp_path / folder).mkdir()
        for name in "ab":
            save(tmp_path / folder / f"{name}.nii.gz", (blobs() > 50).astype(np.uint8), affine)
    with pytest.raises(ValueError, match=r"labels/a\.nii\.gz must have the grid of .*images/a\.nii\.gz"):
        PairDataset(list_images(tmp_path / "images", labels=tmp_path / "labels"))[0]


def test_real_volumes_of_one_orientation_are_read_as_before(example_data):
    folder = example_data / "hippocampus"
    data = list_images(folder / "images", labels=folder / "labels")
    assert common_spacing(data) is None
    read = LoadImage(image_only=True, ensure_channel_first=True)
    dataset = PairDataset(data, pairing="all")
    for index in range(0, len(data), 20):
        member = dataset._read(index)
        for key in ("image", "label"):
            assert torch.equal(member[key].double(), read(data[index][key]).as_tensor().double())
