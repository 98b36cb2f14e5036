"""Pairs in known placements to train on: the truth is what makes them alike, and the objective is 0 there alone."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import list_data_collate
from scipy import ndimage
from torch import nn

from warpzoo.losses import NCCLoss, normalised_cross_correlation
from warpzoo.training import PairMetricsd, PlacedPairs, PlacementObjective, with_truth
from warpzoo.training.placements import placement_error


@pytest.fixture
def records(tmp_path: Path) -> list[dict]:
    """Two volumes, smooth, with labels."""
    records = []
    for number in range(2):
        noise = np.random.default_rng(number).normal(size=(30, 36, 32))
        image = ndimage.gaussian_filter(noise, 4).astype(np.float32)
        image *= ndimage.gaussian_filter(np.pad(np.ones((18, 24, 20)), 6), 2)
        for name, array in (("image", image), ("label", (image > image.mean()).astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}{number}.nii.gz")
        paths = {name: tmp_path / f"{name}{number}.nii.gz" for name in ("image", "label")}
        records.append({"id": str(number), "group": str(number), **paths})
    return records


class Known(nn.Module):
    """A network that knows the answer, or thinks so."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def matrices(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.matrix]


def plain(records: list[dict], **options: object) -> PlacedPairs:
    settings = {"imagined": 0, "turned": 0, "contrasts": 0, "deformation": 0, "faults": 0, "seed": 0, "rotation": 30}
    return PlacedPairs(records, (24, 24, 24), **{**settings, "shift": 0.1, **options})


def test_imagined_and_labelled_pairs_make_one_batch(records: list[dict]) -> None:
    pairs = PlacedPairs(records, (16, 16, 16), imagined=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [pairs[number] for number in range(8)]
    assert {"imagined"} < {pair["id"] for pair in drawn}
    for first in drawn:
        assert list_data_collate([first, *drawn])["image"].shape == (9, 2, 16, 16, 16)


def test_the_truth_makes_images_and_labels_alike(records: list[dict]) -> None:
    pairs = plain(records)
    for index in range(6):
        pair = pairs[index]
        moving, fixed = pair["image"].numpy()
        centre = (np.array(fixed.shape) - 1) / 2
        unit = (np.indices(fixed.shape).reshape(3, -1).T - centre) / 11.5
        linear, shift = pair["truth"][:, :3].numpy(), pair["truth"][:, 3].numpy()
        there = (unit @ linear.T + shift).T.reshape(3, *fixed.shape)
        middle = (np.abs(unit.T.reshape(there.shape)).max(0) < 0.5) & (np.abs(there).max(0) < 0.6)
        assert middle.sum() > 500
        warped = ndimage.map_coordinates(moving, there * 11.5 + centre[:, None, None, None], order=1)
        assert np.corrcoef(warped[middle], fixed[middle])[0, 1] > 0.97
        assert np.corrcoef(moving[middle], fixed[middle])[0, 1] < 0.97


def test_pairs_follow_from_their_index_alone(records: list[dict]) -> None:
    kept, drawn = PlacedPairs(records, (16, 16, 16), seed=0), PlacedPairs(records, (16, 16, 16))
    assert torch.equal(kept[3]["image"], kept[3]["image"])
    assert not torch.equal(kept[3]["truth"], kept[4]["truth"])
    assert not torch.equal(drawn[0]["truth"], drawn[1]["truth"])
    assert torch.equal(drawn[2**39]["image"], drawn[2**39]["image"])
    assert len(kept) == 1000 < len(drawn)
    assert bool(PlacedPairs(records, (16, 16, 16), imagined=1.0)[0]["image"].isfinite().all())


def test_two_dimensions() -> None:
    image = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(1, 40, 44)), (0, 4, 4)))
    pair = PlacedPairs([{"id": "a", "group": "", "image": image.float()}], (24, 24), imagined=0.5)[0]
    assert pair["image"].shape == (2, 24, 24)
    assert pair["truth"].shape == (2, 3)


def test_the_objective_is_the_distance_in_voxels() -> None:
    truth = torch.eye(3, 4)[None]
    truth[0, 0, 3] = 0.2
    image = torch.rand(1, 2, 21, 21, 21)
    objective = PlacementObjective(Known(torch.eye(3, 4)[None]), NCCLoss())
    assert float(objective(image, truth)["loss"]) == pytest.approx(0.2 * 10, abs=1e-4)
    assert float(placement_error(truth, truth, [21, 21, 21])) < 1e-4
    # without a truth, the similarity
    expected = -normalised_cross_correlation(image[:, 1:], image[:, :1])
    assert float(objective(image)["loss"]) == pytest.approx(float(expected.mean()), abs=1e-4)
    both = PlacementObjective(Known(torch.eye(3, 4)[None]), NCCLoss(), weight=0.5)(image, truth)["loss"]
    assert float(both) == pytest.approx(2.0 + 0.5 * float(expected.mean()), abs=1e-3)


def test_the_trainer_hands_on_the_truth_and_the_evaluator_measures_it() -> None:
    batch = {"image": torch.rand(2, 2, 9, 9), "truth": torch.eye(2, 3).expand(2, 2, 3)}
    image, _, (truth,), _ = with_truth(batch, "cpu")
    assert torch.equal(image, batch["image"])
    assert torch.equal(truth, batch["truth"])
    truth = torch.eye(2, 3)
    truth[0, 2] = 0.5  # of half a side of 4 voxels
    pair = {"image": torch.rand(2, 9, 9), "pred": torch.zeros(3, 9, 9), "truth": truth}
    assert PairMetricsd()(pair)["metrics"]["placement"] == pytest.approx(-2.0, abs=1e-5)
