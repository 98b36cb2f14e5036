"""A method that makes a pair less alike: it is said, and with `safe` the result is the start's or affine's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import normalized_mutual_information

import warpzoo
from warpzoo.data.phantom import beating_heart
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Transform
from warpzoo.images.image import Image
from warpzoo.registration.budget import Budget, time_limit
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.likeness import Likeness, likeness
from warpzoo.registration.optimisation import Optimisation
from warpzoo.registration.pair import register_pair

from .conftest import smooth


@dataclass(frozen=True)
class Shift:
    """A method that finds the same shift whatever it sees, in voxels."""

    voxels: float
    name: str = "shift"
    expectations: Any = None

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None) -> Transform:
        return shifted(self.voxels, fixed.grid)


class Slow(Shift):
    def __call__(self, *pair: Any) -> Transform:
        time.sleep(0.3)
        return super().__call__(*pair)


def shifted(voxels: float, grid: Grid) -> Affine:
    matrix = torch.eye(2, 3)[None]
    matrix[0, 0, 2] = voxels / (0.5 * (max(grid.shape) - 1))
    return Affine(matrix, grid)


@pytest.fixture
def heart() -> Image:
    image = beating_heart((96, 96), seed=3).image[None]
    return Image.in_memory(image, Grid((96, 96)), "heart")


def moved(image: Image, voxels: float) -> Image:
    array = ndimage.shift(image.array[0].numpy(), (voxels, 0), order=1, mode="nearest")
    return replace(image, array=torch.from_numpy(array)[None])


def shift_of(transform: Transform, grid: Grid) -> float:
    return float(transform.field(grid)[0, 0].mean())


@pytest.mark.parametrize(
    ("contrast", "edges"), [(lambda x: 0.3 * x + 7, 1.0), (lambda x: 5 - 2 * x, -1.0), (torch.zeros_like, 1.0)]
)
def test_edges_that_go_the_same_way(
    heart: Image, contrast: Callable[[torch.Tensor], torch.Tensor], edges: float
) -> None:
    other = replace(heart, array=contrast(heart.array))
    assert likeness(heart, other, None, Guidance()).edges == pytest.approx(edges, abs=1e-4)


def test_edges_within_masks_count(heart: Image) -> None:
    half = torch.zeros_like(heart.array)
    half[:, :48] = 1
    other = replace(heart, array=torch.where(half > 0, -heart.array, heart.array))
    masks = [{"fixed": replace(heart, array=part)} for part in (half, 1 - half)]
    upper, lower = (likeness(heart, other, None, Guidance(masks)).edges for masks in masks)
    assert upper < -0.9
    assert lower > 0.9


@pytest.mark.parametrize(
    ("windows", "information", "above"),
    [
        (0.5, 0.8, True),
        (0.44, 0.85, True),
        (0.436, 0.84, False),
        (0.436, 0.95, True),
        (0.7, 0.7, False),
        (0.3, 1.2, False),
        (0.45, 0.75, False),
    ],
)
def test_more_by_one_measure_must_not_be_much_less_by_the_other(
    windows: float, information: float, above: bool
) -> None:
    assert Likeness(windows, information).is_above(Likeness(0.45, 0.75)) == above


def test_of_noise_mutual_information_counts_for_nothing() -> None:
    """Where windows correlate by little but noise, they must not lose for whatever it gains."""
    assert Likeness(0.16, 0.9).is_above(Likeness(0.165, 0.5))
    assert not Likeness(0.06, 0.9).is_above(Likeness(0.062, 0.5))


def test_a_good_result_is_kept_without_a_word(heart: Image) -> None:
    for safe in (False, True):
        registration = register_pair(heart, moved(heart, 5), [Shift(5, expectations={})], safe=safe)
        assert not registration.findings
        assert shift_of(registration.transform, heart.grid) == pytest.approx(5, abs=0.1)


def test_a_result_that_is_worse_than_the_start_is_said(heart: Image) -> None:
    registration = register_pair(heart, moved(heart, 5), [Shift(-20, expectations={})])
    assert shift_of(registration.transform, heart.grid) == pytest.approx(-20, abs=0.1)
    (finding,) = registration.findings
    assert "less alike after the registration" in finding.message
    assert "--safe" in finding.way_out
    with pytest.raises(ValueError, match="less alike after"):
        register_pair(heart, moved(heart, 5), [Shift(-20, expectations={})], strict=True)


def test_safe_takes_what_affine_finds(heart: Image) -> None:
    registration = register_pair(heart, moved(heart, 5), [Shift(-20, expectations={})], safe=True)
    assert shift_of(registration.transform, heart.grid) == pytest.approx(5, abs=0.2)
    assert "that of the method affine instead" in registration.findings[0].way_out


def test_safe_takes_the_start_where_nothing_is_better(heart: Image) -> None:
    known = shifted(5, heart.grid)
    registration = register_pair(heart, moved(heart, 5), [Shift(-20, expectations={})], start=known, safe=True)
    assert shift_of(registration.transform, heart.grid) == pytest.approx(5, abs=0.1)


def test_another_contrast_is_not_taken_for_a_worse_result(heart: Image) -> None:
    """By correlation alone the negative would be less alike the better it fits."""
    negative = moved(replace(heart, array=255 - heart.array), 4)
    assert not register_pair(heart, negative, [Shift(4, expectations={})]).findings


def test_likeness_orders_shifts_as_scikit_image_does(heart: Image) -> None:
    shifts = (0, 1, 2, 4, 8)
    ours = [likeness(heart, moved(heart, shift), None, Guidance()).information for shift in shifts]
    theirs = [
        normalized_mutual_information(heart.array[0].numpy(), moved(heart, shift).array[0].numpy()) for shift in shifts
    ]
    assert np.argsort(ours).tolist() == np.argsort(theirs).tolist()


def test_every_stage_says_what_it_gained(heart: Image) -> None:
    registration = register_pair(heart, moved(heart, 5), [Shift(4, "near", {}), Shift(5, "there", {})])
    alike = registration.likeness
    assert [*alike] == ["start", "near", "there"]
    assert alike["start"].total < alike["near"].total < alike["there"].total
    there = likeness(heart, moved(heart, 5), shifted(5, heart.grid), Guidance())
    assert alike["there"].windows == pytest.approx(there.windows, abs=1e-6)


def test_a_stage_that_gains_nothing_is_left_out_if_asked(heart: Image) -> None:
    chain = [Shift(5, "there", {}), Shift(9, "away", {})]
    for gaining, kept in ((False, 9), (True, 5)):
        registration = register_pair(heart, moved(heart, 5), chain, gaining=gaining)
        assert shift_of(registration.transform, heart.grid) == pytest.approx(kept, abs=0.1)
        assert [*registration.likeness] == ["start", "there", "away"]


def test_no_method_begins_after_the_time(heart: Image) -> None:
    registration = register_pair(heart, moved(heart, 5), [Slow(5, "slow", {}), Shift(9, "late", {})], budget=0.2)
    assert shift_of(registration.transform, heart.grid) == pytest.approx(5, abs=0.1)
    assert registration.notes == ("The time of 0.2 s was up, and late did not run.",)
    assert not registration.interrupted


def test_an_optimisation_ends_with_the_time(heart: Image) -> None:
    hours = Optimisation("svf", budget=Budget(10**6))
    ended = register_pair(heart, moved(heart, 5), [hours], budget=0.5)
    assert ended.likeness["svf"].total > ended.likeness["start"].total


@pytest.mark.parametrize("value", [0, -1, "0s", "soon", "1 mile", "1d", True, "1e3"])
def test_bad_budgets(value: Any) -> None:
    with pytest.raises(ValueError, match="budget must be a time above 0 such as 20s or 2min, got"):
        time_limit(value)


def test_the_budget_of_a_user() -> None:
    for value, seconds in (
        (None, None),
        (20, 20),
        ("20", 20),
        ("20s", 20),
        ("0.5 s", 0.5),
        ("2min", 120),
        ("1h", 3600),
    ):
        assert time_limit(value) == seconds
    image = beating_heart((64, 64), seed=3).image.numpy()
    result = warpzoo.register(image, np.roll(image, 3, 0), method="affine,svf", budget="0.000001 s")
    assert result.registration.notes == ("The time of 1e-06 s was up, and affine, svf did not run.",)


def test_images_that_share_nothing_are_said() -> None:
    noise, brain = np.random.default_rng(0).normal(size=(96, 96)), smooth((96, 96))
    found = warpzoo.register(noise.astype(np.float32), brain, quality="fast").registration.findings
    assert [str(one) for one in found if "hardly anything in common" in str(one)]
    alike = warpzoo.register(np.roll(brain, 2, 0), brain, quality="fast").registration.findings
    assert not [str(one) for one in alike if "hardly anything in common" in str(one)]
