from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warpzoo.metrics import dice, present_labels


def random_labels(shape, seed, high=4):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 1, 9, 7), (3, 1, 6, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_agrees_with_simpleitk(shape, dtype):
    prediction, reference = random_labels(shape, 0).to(dtype), random_labels(shape, 1).to(dtype)
    scores = dice(prediction, reference)
    assert scores.shape == (shape[0], 3)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    for item in range(shape[0]):
        images = [sitk.GetImageFromArray(x[item, 0].numpy().astype(np.uint8)) for x in (prediction, reference)]
        overlap.Execute(*images)
        for column, label in enumerate((1, 2, 3)):
            assert scores[item, column].item() == pytest.approx(overlap.GetDiceCoefficient(label), abs=1e-6)


def test_absent_in_one_map_scores_0_and_in_both_nan():
    prediction = torch.tensor([[[[1, 1, 0, 2]]], [[[1, 0, 0, 0]]]])
    reference = torch.tensor([[[[1, 0, 3, 0]]], [[[1, 0, 0, 0]]]])
    scores = dice(prediction, reference, labels=[1, 2, 3])
    torch.testing.assert_close(scores[0], torch.tensor([2 / 3, 0.0, 0.0]))
    torch.testing.assert_close(scores[1], torch.tensor([1.0, torch.nan, torch.nan]), equal_nan=True)


def test_labels_choose_and_order_the_columns():
    prediction, reference = random_labels((2, 1, 8, 9), 2), random_labels((2, 1, 8, 9), 3)
    every = dice(prediction, reference)
    assert present_labels(prediction, reference) == [1, 2, 3]
    torch.testing.assert_close(dice(prediction, reference, labels=[3, 1]), every[:, [2, 0]])
    assert dice(prediction, reference, labels=(0,)).shape == (2, 1)


def test_labels_of_only_one_map_or_item_are_present():
    prediction = torch.tensor([[[[0, 7]]], [[[0, 0]]]])
    reference = torch.tensor([[[[0, 0]]], [[[-1, 300]]]])
    assert present_labels(prediction, reference) == [-1, 7, 300]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_symmetric_and_between_0_and_1(seed, other):
    a, b = random_labels((1, 1, 5, 6), seed), random_labels((1, 1, 5, 6), other)
    scores = dice(a, b, labels=[1, 2])
    torch.testing.assert_close(scores, dice(b, a, labels=[1, 2]), equal_nan=True)
    known = scores[~scores.isnan()]
    assert bool(((known >= 0) & (known <= 1)).all())


@pytest.mark.parametrize(
    ("prediction", "reference", "labels", "message"),
    [
        (torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 5), None, "same shape"),
        (torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4), None, "1 channel, got 2"),
        (
            torch.full((1, 1, 4, 4), 0.5),
            torch.ones(1, 1, 4, 4),
            None,
            "prediction must be a label map",
        ),
        (torch.ones(1, 1, 4, 4), torch.full((1, 1, 4, 4), torch.nan), None, "reference must be finite, got 16 values"),
        (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), None, "labels must have at least one label"),
        (torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4), [], "labels must have at least one label"),
    ],
)
def test_bad_input_is_named(prediction, reference, labels, message):
    with pytest.raises(ValueError, match=message):
        dice(prediction, reference, labels)
