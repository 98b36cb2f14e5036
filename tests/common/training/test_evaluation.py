from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ignite.engine import Engine

from warpzoo.training.evaluation import PairMetric, PairMetricsd

SHAPES = [(20, 26), (12, 14, 10)]


def pair(shape, shift=2):
    """A disc that lies `shift` voxels further along axis 0 in the moving image, and the displacement that says so."""
    grid = np.indices(shape)
    middle = [side // 2 - 1 for side in shape]
    distance = [
        np.sqrt(sum((g - m - s) ** 2 for g, m, s in zip(grid, middle, steps, strict=True)))
        for steps in ([0] * len(shape), [shift] + [0] * (len(shape) - 1))
    ]
    fixed, moving = (torch.tensor(np.exp(-((d / 3) ** 2)), dtype=torch.float32)[None] for d in distance)
    displacement = torch.zeros(len(shape), *shape)
    displacement[0] = shift
    warped = torch.roll(moving, -shift, 1)
    return {
        "image": torch.cat([moving, fixed]),
        "pred": torch.cat([warped, displacement]),
        "moving_labels": torch.tensor(distance[1] < 4).float()[None],
        "fixed_labels": torch.tensor(distance[0] < 4).float()[None],
        "id": "a -> b",
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_a_known_shift_is_measured_as_it_is(shape):
    given = pair(shape)
    measured = PairMetricsd(surfaces=True, spacing=1.5)(given)
    assert measured["id"] == "a -> b"
    numbers = measured["metrics"]
    moving, fixed = given["image"].flatten(1).numpy()
    assert numbers["ncc_before"] == pytest.approx(np.corrcoef(moving, fixed)[0, 1], abs=1e-5)
    assert numbers["ncc"] == pytest.approx(1, abs=1e-3)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(
        *(sitk.GetImageFromArray(given[f"{name}_labels"][0].numpy().astype(np.uint8)) for name in ("moving", "fixed"))
    )
    assert numbers["dice_before"] == pytest.approx(overlap.GetDiceCoefficient(1), abs=1e-6)
    assert numbers["dice"] == 1
    assert 0 < numbers["msd_before"] <= numbers["hd95_before"] <= 2 * 1.5 + 1e-6
    assert numbers["hd95"] == numbers["msd"] == 0
    assert numbers["folding"] == numbers["folding_corners"] == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_folds_are_counted(shape):
    given = pair(shape)
    rows = torch.arange(float(shape[0])).view(-1, *[1] * (len(shape) - 1))
    given["pred"][1] = -2 * rows * (rows < 10)  # x → -x in rows 0 to 9
    numbers = PairMetricsd()(given)["metrics"]
    assert numbers["folding"] == pytest.approx(9 / shape[0], abs=2 / shape[0])
    saw_tooth = pair(shape)
    saw_tooth["pred"][1] = (rows % 2) * 1.5
    numbers = PairMetricsd()(saw_tooth)["metrics"]
    assert numbers["folding"] < 0.2
    assert numbers["folding_corners"] > 0.4


def test_without_labels_there_are_no_numbers_of_labels():
    given = {key: value for key, value in pair((20, 26)).items() if "labels" not in key}
    assert set(PairMetricsd(surfaces=True)(given)["metrics"]) == {"ncc_before", "ncc", "folding", "folding_corners"}


def test_key_points_are_measured_where_the_displacement_takes_them():
    given = pair((20, 26))
    given["pred"][1:] = torch.tensor([2.0, -1.0]).view(2, 1, 1)
    given["fixed_points"] = torch.tensor([[5.0, 6.0], [8.5, 7.0]])
    given["moving_points"] = given["fixed_points"] + torch.tensor([2.0, 3.0])
    assert PairMetricsd()(given)["metrics"]["points"] == pytest.approx(-4, abs=1e-4)


def evaluate(name, batches):
    engine = Engine(lambda _, batch: batch)
    PairMetric(name).attach(engine, "metric")
    return engine.run(batches).metrics["metric"]


def test_metric_is_the_mean_over_pairs_whatever_the_batches():
    values = [0.1, 0.5, 0.9, 0.4]
    outputs = [{"metrics": {"ncc": value}} for value in values]
    for batches in ([outputs], [outputs[:1], outputs[1:]], [[output] for output in outputs]):
        assert evaluate("ncc", batches) == pytest.approx(np.mean(values))


def test_pairs_that_lack_a_metric_do_not_count():
    outputs = [{"metrics": {"ncc": 0.5}}, {"metrics": {"ncc": 0.1, "dice": 0.8}}, {"metrics": {"dice": 0.6}}]
    assert evaluate("dice", [outputs]) == pytest.approx(0.7)


def test_a_metric_that_needs_labels_says_so_where_there_are_none():
    with pytest.raises(ValueError, match=r"the metric 'dice' is not there; \['ncc'\] are\. Are there labels\?"):
        evaluate("dice", [[{"metrics": {"ncc": 0.5}}]])
