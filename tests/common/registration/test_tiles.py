"""Levels that are too large to be worked on whole: tiles, and what they find together."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

import warpzoo
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform
from warpzoo.images.image import Image
from warpzoo.registration import optimisation
from warpzoo.registration import pyramid as levels
from warpzoo.registration.budget import Budget
from warpzoo.registration.deformation import VelocityModel
from warpzoo.registration.descent import Interrupted
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.optimisation import Optimisation
from warpzoo.registration.pyramid import ImagePyramid, Level
from warpzoo.registration.tiles import MARGIN, UNSURE, plan_tiles
from warpzoo.transforms.landmarks import Landmarks

SHAPE = (300, 220)
SMALL = 130**2


@given(st.lists(st.integers(1, 700), min_size=2, max_size=3), st.integers(14, 22))
def test_tiles_are_small_and_together_count_once(shape: list[int], power: int) -> None:
    tiles = plan_tiles(shape, 2**power)
    for region in (tile.region for tile in tiles):
        sides = [part.stop - part.start for part in region]
        assert prod(sides) <= 2**power or all(
            side <= 6 * MARGIN + 1 or side == size for side, size in zip(sides, shape, strict=True)
        )
    for axis, size in enumerate(shape):
        at = [torch.zeros(1, dtype=torch.float64)] * len(shape)
        at[axis] = torch.linspace(-2, size + 1, 400, dtype=torch.float64)
        total = torch.zeros(400)
        for tile in tiles:
            share = tile.share(at).flatten()
            total += share
            start, stop = tile.region[axis].start, tile.region[axis].stop
            unsure = (at[axis] < start + UNSURE - 1) * (start > 0) + (at[axis] > stop - UNSURE) * (stop < size)
            assert not bool(share[unsure].any())
        torch.testing.assert_close(total, torch.ones(400))


def texture(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    made = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return (made / made.std()).astype(np.float32)


def pair_and_truth(shape: Sequence[int] = SHAPE, matrix: np.ndarray | None = None) -> tuple[Image, Image, np.ndarray]:
    """A texture and the same displaced, the moving one on voxels of its own; the displacement in the world."""
    drawn = [ndimage.gaussian_filter(np.random.default_rng(axis + 1).standard_normal(shape), 12) for axis in (0, 1)]
    known = np.stack([3 * one / np.abs(one).max() for one in drawn]).astype(np.float32)
    whole = texture([size + 40 for size in shape])
    where = np.indices(shape) + 20
    fixed = ndimage.map_coordinates(whole, where + known, order=3)
    matrix = np.eye(3) if matrix is None else matrix
    grid = Grid([int(size / step) for size, step in zip(shape, np.diag(matrix), strict=False)], matrix)
    voxels = np.indices(grid.shape)
    points = np.tensordot(matrix[:2, :2], voxels, 1) + matrix[:2, 2].reshape(2, 1, 1)
    moving = ndimage.map_coordinates(whole, points + 20, order=3)
    return in_memory(fixed, Grid(shape)), in_memory(moving, grid), known


def in_memory(values: np.ndarray, grid: Grid) -> Image:
    return Image.in_memory(torch.from_numpy(values.astype(np.float32))[None], grid, "image")


def small_tiles(monkeypatch: pytest.MonkeyPatch, most: int = SMALL) -> list[int]:
    """Makes levels of more voxels too large, and lists how many voxels those have that are worked on."""
    monkeypatch.setattr(optimisation, "AT_ONCE", most)
    monkeypatch.setattr(levels, "AT_ONCE", most)
    seen: list[int] = []
    made = VelocityModel.__init__

    def model(self: VelocityModel, lattice: Grid, level: Level) -> None:
        seen.append(prod(level.grid.shape))
        made(self, lattice, level)

    monkeypatch.setattr(VelocityModel, "__init__", model)
    return seen


def error(found: Transform, known: np.ndarray, grid: Grid, edge: int = 12) -> float:
    apart = np.linalg.norm(found.field(grid)[0].detach().numpy() - known, axis=0)
    return float(apart[edge:-edge, edge:-edge].mean())


SHEARED = np.array([[0.8, 0.05, -3.0], [-0.04, 1.25, 2.0], [0, 0, 1.0]])


@pytest.mark.parametrize("method", ["svf", "ffd"])
@pytest.mark.parametrize("matrix", [None, SHEARED], ids=["same voxels", "other voxels"])
def test_tiles_find_what_the_whole_does(
    monkeypatch: pytest.MonkeyPatch, method: str, matrix: np.ndarray | None
) -> None:
    fixed, moving, known = pair_and_truth(matrix=matrix)
    one = Optimisation(method, budget=Budget(80))
    coarser = Optimisation(method, budget=Budget(80), most_voxels=SMALL)
    whole, coarse = (error(way(fixed, moving, None), known, fixed.grid) for way in (one, coarser))
    seen = small_tiles(monkeypatch)
    found = one(fixed, moving, None)
    assert error(found, known, fixed.grid) < min(1.15 * whole, 0.85 * coarse)
    assert float(found.jacobian_determinant(fixed.grid).min()) > 0
    assert max(seen, default=0) <= SMALL


def test_they_go_on_from_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a deformation that is right but for detail, and a matrix after it."""
    fixed, moving, known = pair_and_truth(matrix=SHEARED)
    smooth = ndimage.gaussian_filter(known, (0, 25, 25)) - np.reshape([1.5, -0.5], (2, 1, 1))
    before = DisplacementField(torch.from_numpy(smooth.astype(np.float32))[None], fixed.grid)
    shift = Affine.from_world(torch.tensor([[[1.0, 0, 1.5], [0, 1, -0.5]]], dtype=torch.float64), fixed.grid)
    start = Composition(before, shift)
    small_tiles(monkeypatch)
    found = Optimisation("svf", budget=Budget(60), levels=1)(fixed, moving, start)
    assert error(found, known, fixed.grid) < 0.3 * error(start, known, fixed.grid)


def test_where_the_mask_is_not_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving, known = pair_and_truth()
    mask = torch.zeros(1, *SHAPE)
    mask[:, 40:120, 30:110] = 1
    guidance, _ = Guidance(masks={"fixed": in_memory(mask[0].numpy(), fixed.grid)}).fitted(fixed, moving)
    small_tiles(monkeypatch)
    tiles = []
    part = ImagePyramid.part

    def spied(self: ImagePyramid, *arguments: object) -> Level:
        tiles.append(part(self, *arguments))  # type: ignore[arg-type]
        return tiles[-1]

    monkeypatch.setattr(ImagePyramid, "part", spied)
    found = Optimisation("svf", budget=Budget(80))(fixed, moving, None, guidance)
    inside = np.linalg.norm(found.field(fixed.grid)[0].numpy() - known, axis=0)[48:112, 38:102].mean()
    assert inside < 0.2
    compared = [float(one.fixed_mask.sum()) for one in tiles if one.fixed_mask is not None]
    assert len(compared) == len(tiles)
    assert sum(count > 0 for count in compared) < len(compared)


def test_landmarks_steer_the_tiles_that_they_lie_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that share nothing: landmarks pull about as far as in one piece."""
    grid = Grid(SHAPE)
    flat = [in_memory(texture(SHAPE, seed), grid) for seed in (3, 4)]
    here = torch.tensor([[60.0, 60.0], [240.0, 160.0], [150.0, 110.0]], dtype=torch.float64)
    there = here + torch.tensor([[2.0, 0.0], [0.0, -2.0], [1.0, 1.0]], dtype=torch.float64)
    points = {side: Landmarks(one, ({},) * 3) for side, one in (("fixed", here), ("moving", there))}
    guidance = Guidance(points=points, landmarks_weight=1.0)
    missed = []
    for tiled in (False, True):
        if tiled:
            small_tiles(monkeypatch)
        found = Optimisation("svf", budget=Budget(100))(*flat, None, guidance)
        missed.append(float((found.world(here)[0] - there).norm(dim=1).max()))
    assert missed[1] < missed[0] + 0.2 < 0.7


def test_ctrl_c_keeps_the_tiles_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first tile nothing has been found in tiles, in the third one in two of them."""
    fixed, moving, known = pair_and_truth()
    small_tiles(monkeypatch)
    part = ImagePyramid.part

    def interrupted(at: int) -> np.ndarray:
        calls: list[ImagePyramid] = []

        def stopping(self: ImagePyramid, *arguments: object) -> Level:
            calls.append(self)
            if len(calls) == at:
                signal.raise_signal(signal.SIGINT)
            return part(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(ImagePyramid, "part", stopping)
        with pytest.raises(Interrupted) as stop:
            Optimisation("svf", budget=Budget(80))(fixed, moving, None)
        assert len(calls) == at
        return np.linalg.norm(stop.value.transform.field(fixed.grid)[0].numpy() - known, axis=0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        none, two = interrupted(1), interrupted(3)
    finally:
        signal.signal(signal.SIGINT, before)
    first, *_, last = (tile.region for tile in plan_tiles(SHAPE, SMALL))
    done = tuple(slice(12, side.stop - 2 * MARGIN) for side in first)
    assert two[done].mean() < 0.8 * none[done].mean()
    assert (two[last] == none[last]).all()


def test_what_a_resolution_asks_for_is_compared_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of descriptors, too, which by default are compared at fewer voxels."""
    fixed, moving, known = pair_and_truth()
    monkeypatch.setattr(optimisation, "DESCRIBED_AT_ONCE", SMALL)
    seen = small_tiles(monkeypatch)
    arrays = (image.array[0].numpy() for image in (fixed, moving))
    done = warpzoo.register(*arrays, method="svf", similarity="mind", resolution=1.0)
    assert max(seen) <= SMALL
    assert error(done.registration.transform, known, fixed.grid) < 0.25


@pytest.mark.parametrize("shape", [(9, 700), (700, 9), (5, 700)])
def test_images_that_are_thin(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    fixed, moving, known = pair_and_truth(shape)
    seen = small_tiles(monkeypatch, 2**11)
    for method in ("svf", "ffd"):
        found = Optimisation(method, budget=Budget(40))(fixed, moving, None)
        assert bool(found.field(fixed.grid).isfinite().all())
    assert 0 < max(seen) <= 2**11


def test_every_combination_of_parts_is_a_tile() -> None:
    tiles = plan_tiles((500, 300, 40), 2**19)
    along = [sorted({tile.own[axis] for tile in tiles}) for axis in range(3)]
    assert {tile.own for tile in tiles} == {*product(*along)}
    assert [len(parts) for parts in along] == [6, 4, 1]
