"""Classical methods find motion that scipy has made, in chains as any other method; a missing package is said."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage

from warpzoo.classical import CLASSICAL
from warpzoo.classical.flow import LocalFlow
from warpzoo.classical.moments import from_moments
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Transform
from warpzoo.images.image import Image
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.methods import find_methods
from warpzoo.registration.pair import register_pair

SHAPE = (90, 104)
MIDDLE = np.array([44.0, 50.0])
TURN = np.deg2rad(8)
LINEAR = 1.05 * np.array([[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]])
SHIFT = np.array([5.0, -3.0])


def nucleus(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    places = np.indices(shape) - (np.array(shape) / 2 - 1).reshape(-1, *[1] * len(shape))
    radii = (0.3 * np.array(shape) * np.linspace(1, 0.8, len(shape))).reshape(-1, *[1] * len(shape))
    body = ndimage.gaussian_filter((((places / radii) ** 2).sum(0) < 1).astype(float), 1.5)
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return 100 + 400 * body * (1 + 0.3 * texture / texture.std())


def image(values: np.ndarray) -> Image:
    return Image.in_memory(torch.from_numpy(values[None].astype(np.float32)), Grid(values.shape), pixels=True)


def moved(values: np.ndarray, linear: np.ndarray = LINEAR, shift: np.ndarray = SHIFT) -> np.ndarray:
    """moved(linear (x - middle) + middle + shift) = values(x)."""
    back = np.linalg.inv(linear)
    return ndimage.affine_transform(values, back, MIDDLE - back @ (MIDDLE + shift), order=3, mode="nearest")


def bent(points: np.ndarray) -> np.ndarray:
    return 2.5 * np.stack([np.sin(points[1] / 14), np.cos(points[0] / 12)])


def error(transform: Transform, truth: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean distance in the nucleus, of points that go through it from where they must come to."""
    points = np.argwhere(nucleus(SHAPE) > 300)[::7].astype(float)
    found = transform(torch.from_numpy(points))[0].detach().numpy()
    return float(np.linalg.norm(found - truth(points), axis=1).mean())


def registered(chain: str, fixed: np.ndarray, moving: np.ndarray) -> Transform:
    return register_pair(image(fixed), image(moving), find_methods(chain)).transform


@pytest.mark.parametrize(
    ("method", "most"), [("stackreg", 0.1), ("ecc_flow", 0.4), ("local_flow", 0.5), ("contour", 1.2)]
)
def test_a_nucleus_that_turns_grows_and_drifts(method: str, most: float) -> None:
    fixed = nucleus()
    transform = registered(method, fixed, moved(fixed))
    assert error(transform, lambda points: (points - MIDDLE) @ LINEAR.T + MIDDLE + SHIFT) < most


def test_phase_correlation_finds_a_shift_in_two_and_three_dimensions() -> None:
    fixed = nucleus()
    transform = registered("phase_correlation", fixed, np.roll(fixed, (6, -4), (0, 1)))
    assert error(transform, lambda points: points + [6, -4]) < 0.06
    volume = nucleus((24, 40, 36))
    transform = registered("phase_correlation", volume, np.roll(volume, (2, -3, 5), (0, 1, 2)))
    found = transform(torch.tensor([[10.0, 20, 18]], dtype=torch.float64))[0, 0].detach().numpy()
    assert found == pytest.approx([12, 17, 23], abs=0.06)


@pytest.mark.parametrize(("method", "most"), [("demons", 0.6), ("ecc_flow", 1.0), ("local_flow", 0.4)])
def test_a_nucleus_that_bends(method: str, most: float) -> None:
    """frame(x + bent(x)) = fixed(x), by 2.4 pixels on average: the fixed image is made from the frame."""
    frame = nucleus()
    places = np.indices(SHAPE)
    fixed = ndimage.map_coordinates(frame, places + bent(places), order=3, mode="nearest")
    transform = registered(method, fixed, frame)
    assert error(transform, lambda points: points + bent(points.T).T) < most


def test_demons_in_three_dimensions() -> None:
    volume = nucleus((24, 40, 36))
    moving = ndimage.shift(volume, (1.0, -1.5, 2.0), mode="nearest")
    transform = registered("demons", volume, moving)
    points = np.argwhere(volume > 350)[::41].astype(float)
    found = transform(torch.from_numpy(points))[0].detach().numpy() - points
    assert np.linalg.norm(found - [1.0, -1.5, 2.0], axis=1).mean() < 0.6


def test_neighbours_in_time_make_the_flow_better_where_there_is_noise() -> None:
    clean, rng = nucleus(), np.random.default_rng(3)
    fixed, frame, *others = (image(clean + 250 * rng.normal(size=SHAPE)) for _ in range(4))
    alone = LocalFlow()(fixed, frame, None, Guidance())
    together = LocalFlow().near([(-1, others[0]), (1, others[1])])(fixed, frame, None, Guidance())
    assert error(together, np.copy) < error(alone, np.copy)


def test_moments_know_the_direction_of_what_is_long() -> None:
    fixed = nucleus()
    turn = np.deg2rad(40)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = from_moments(fixed, moved(fixed, linear))
    angle = np.rad2deg(np.arctan2(matrix[1, 0] - matrix[0, 1], np.trace(matrix[:, :2])))
    assert angle == pytest.approx(40, abs=6)


def test_they_follow_and_are_followed_in_chains() -> None:
    """The start is what they make better: on a grid of its own with another spacing."""
    fixed = nucleus()
    frame = moved(fixed)
    transform = registered("stackreg,demons", fixed, frame)
    assert not hasattr(transform, "matrix")
    assert error(transform, lambda points: (points - MIDDLE) @ LINEAR.T + MIDDLE + SHIFT) < 0.3


@pytest.mark.parametrize("method", CLASSICAL)
def test_a_missing_package_is_said_in_one_sentence(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = CLASSICAL[method].module
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.registration", None)
    monkeypatch.setitem(sys.modules, f"{module}.measure", None)
    with pytest.raises(ValueError, match=f"{method} needs the package {CLASSICAL[method].package}, .*pip install"):
        registered(method, nucleus(), nucleus())


def test_volumes_are_refused_by_methods_for_planes() -> None:
    volume = nucleus((20, 24, 22))
    with pytest.raises(ValueError, match="stackreg must be given 2-D images, got 3-D"):
        registered("stackreg", volume, volume)
