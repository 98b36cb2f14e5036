"""What images are compared at: by size, by what is asked for, and as it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import warpzoo
from warpzoo.geometry.grid import Grid
from warpzoo.registration import deformation, placement
from warpzoo.registration.optimisation import finest_level
from warpzoo.registration.pyramid import ImagePyramid, pyramid

from .conftest import save, smooth


@given(st.lists(st.integers(20, 400), min_size=3, max_size=3), st.lists(st.floats(0.4, 5.0), min_size=3, max_size=3))
def test_it_depends_smoothly_on_the_size(shape: list[int], spacing: list[float]) -> None:
    """One plane more changes the finest spacing by no more than what makes up for it."""
    grids = [Grid([shape[0] + more, *shape[1:]], np.diag([*spacing, 1.0])) for more in (0, 1)]
    finest = [finest_level("svf", grid, None) for grid in grids]
    assert all(prod(one.shape) <= deformation.MOST_VOXELS for one in finest)
    ratio = np.array(finest[1].spacing) / finest[0].spacing
    assert np.all(np.abs(ratio - 1) < 0.04 + 1 / min(finest[0].shape))
    for own, used in zip(grids, finest, strict=True):
        if prod(own.shape) <= deformation.MOST_VOXELS:
            assert used == own


@given(st.floats(1.0, 6.0))
def test_it_is_what_is_asked_for_where_voxels_are_smaller(resolution: float) -> None:
    grid = Grid([300, 280, 90], np.diag([0.8, 0.8, 4.0, 1]))
    used = finest_level("ffd", grid, resolution)
    for size, own, side in zip(grid.shape, grid.spacing, used.spacing, strict=True):
        wanted = max(own, resolution)
        assert side == pytest.approx(wanted, rel=2 * wanted / (size * own))
    placed = finest_level("affine", grid, resolution)
    assert prod(placed.shape) <= placement.MOST_VOXELS
    assert min(placed.spacing) > 0.95 * resolution


@pytest.mark.parametrize("resolution", [None, 2.5])
def test_what_is_said_is_what_was_compared(
    warpzoo: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolution: float | None
) -> None:
    seen: list[tuple[float, ...]] = []
    level = ImagePyramid.level

    def spied(pair: ImagePyramid, steps: list[float]) -> object:
        made = level(pair, steps)
        seen.append(made.grid.spacing)
        return made

    monkeypatch.setattr(ImagePyramid, "level", spied)
    affine = np.diag([1.2, 1.2, 1, 1])
    for name, shift in (("fixed", 0), ("moving", 2)):
        values = np.roll(smooth((50, 44, 1)), shift, 0)
        save(tmp_path / f"{name}.nii", values.astype(np.float32), affine)
    options = [] if resolution is None else ["--resolution", resolution]
    files = tmp_path / "fixed.nii", tmp_path / "moving.nii"
    ended = warpzoo("register", *files, "--method=affine,svf", "--output", tmp_path / "out", *options)
    assert ended.code == 0, ended.err  # type: ignore[attr-defined]
    said = json.loads((tmp_path / "out/metrics.json").read_text())["resolution"]
    assert min(seen) == pytest.approx(said["svf"])
    assert said["svf"] == pytest.approx(said["affine"])
    assert said["svf"] == pytest.approx([resolution or 1.2] * 2, rel=0.06)
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "Finest voxels compared (mm)" in page
    assert f"<td>{said['svf'][0]:.3g} × {said['svf'][1]:.3g}</td>" in page


def test_a_coarse_resolution_still_finds_a_shift() -> None:
    values = smooth((96, 80))
    fixed, moving = values[8:72, 8:72], values[4:68, 6:70]
    result = warpzoo.register(fixed, moving, method="affine", resolution=2)
    shift = result.transform.transform.world_matrix()[0, :, -1]
    assert torch.allclose(shift, torch.tensor([4.0, 2.0]).double(), atol=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, "resolution must be a length above 0, got 0"),
        ({"resolution": "fine"}, "resolution must be a length above 0, got 'fine'"),
        ({"resolution": 40}, "resolution must be at most 8 for Grid"),
        ({"resolution": 2, "method": "voxelmorph_dense"}, "resolution must not be given where nothing is optimised"),
    ],
)
def test_messages(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warpzoo.register(smooth((64, 64)), smooth((64, 64), 1), **{"method": "svf", **options})


def test_a_level_for_every_halving() -> None:
    steps = pyramid(Grid([256, 256]), None, 3.0)
    assert steps[-1] == [3.0, 3.0]
    assert [one[0] for one in steps] == sorted((one[0] for one in steps), reverse=True)


def test_a_network_sees_at_most_so_many_voxels(make_bundle: Callable[..., Path]) -> None:
    """A shift of 2 voxels is twice as many of the image's where two of them are one; slices stay as thick."""
    image = smooth((40, 36, 12))
    root = make_bundle("shifting", [2, 0, 0], most_voxels=40 * 36 * 12 // 4)
    result = warpzoo.register(image, image, method=str(root), spacing=[1.0, 1.0, 3.0])
    assert result.registration.resolution["shifting"] == pytest.approx((2.0, 2.0, 3.0))
    displacement = result.registration.displacement.displacement[0]
    torch.testing.assert_close(displacement[0], torch.full((40, 36, 12), 4.0))
    own = make_bundle("still", [2, 0, 0], most_voxels=40 * 36 * 12)
    same = warpzoo.register(image, image, method=str(own), spacing=[1.0, 1.0, 3.0])
    assert same.registration.resolution["still"] == (1.0, 1.0, 3.0)
