from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from warpzoo.denoising import filters
from warpzoo.denoising.filters import filter_stack
from warpzoo.denoising.tiles import Tiles, plan_tiles
from warpzoo.images.stacks import open_stack


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=3),
    st.integers(1, 25),
    st.integers(0, 12),
    st.sampled_from([1, 4, 8]),
)
def test_every_pixel_is_kept_once_and_read_with_its_margin(sizes, tile, halo, alignment):
    shape = (2, *sizes)
    kept = np.zeros(shape, int)
    for one in plan_tiles(shape, tile, halo, alignment):
        kept[(one.frame, *one.keep)] += 1
        for read, keep, size in zip(one.read, one.keep, sizes, strict=True):
            assert 0 <= read.start <= max(0, keep.start - halo)
            assert min(size, keep.stop + halo) <= read.stop <= size
            assert read.start % alignment == 0
            assert read.stop - read.start <= tile + 2 * halo + 3 * alignment
        window = np.empty([read.stop - read.start for read in one.read])
        assert one.core(window).shape == tuple(keep.stop - keep.start for keep in one.keep)
    assert (kept == 1).all()


@given(st.lists(st.integers(1, 40), min_size=2, max_size=3), st.integers(1, 25), st.integers(0, 12), st.data())
def test_tiles_of_a_window_are_those_of_the_whole_with_less_kept(sizes, tile, halo, data):
    window = []
    for size in sizes:
        start = data.draw(st.integers(0, size - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, size))))
    of_whole = {(one.frame, *((s.start, s.stop) for s in one.read)) for one in plan_tiles((3, *sizes), tile, halo, 4)}
    kept = np.zeros((3, *sizes), int)
    for one in plan_tiles((3, *sizes), tile, halo, 4, [0, 2], tuple(window)):
        kept[(one.frame, *one.keep)] += 1
        assert (one.frame, *((s.start, s.stop) for s in one.read)) in of_whole
    expected = np.zeros_like(kept)
    expected[(slice(0, 3, 2), *window)] = 1
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("method", ["gaussian", "median", "box", "nlm"])
def test_a_filter_in_tiles_is_the_filter_of_the_whole(tmp_path, monkeypatch, method):
    values = np.random.default_rng(0).poisson(40, (150, 90)).astype(np.float32)
    tifffile.imwrite(tmp_path / "in.tif", values)
    asked = []
    stack = open_stack(tmp_path / "in.tif")
    for name, tile in (("tiles.tif", 33), ("whole.tif", 1000)):
        filter_stack(stack, tmp_path / name, method, 3.0, tile=tile)
    np.testing.assert_allclose(*(tifffile.imread(tmp_path / name) for name in ("tiles.tif", "whole.tif")), atol=1e-4)
    read = type(stack).read
    monkeypatch.setattr(
        type(stack), "read", lambda self, frame, window: asked.append(window) or read(self, frame, window)
    )
    monkeypatch.setattr(filters, "CALIBRATION", 32)
    filter_stack(stack, tmp_path / "again.tif", method, 3.0, tile=33)
    widest = max(side.stop - side.start for window in asked for side in window)
    assert widest <= 33 + 2 * 16  # the memory is a tile's


def test_a_gaussian_is_scipys(tmp_path):
    values = np.random.default_rng(0).integers(0, 60_000, (2, 70, 50)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="minisblack", metadata={"axes": "TYX"})
    filter_stack(open_stack(tmp_path / "in.tif"), tmp_path / "out.tif", "gaussian", 1.3, tile=32)
    expected = [ndimage.gaussian_filter(frame.astype(float), 1.3) for frame in values]
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif"), expected, atol=0.51)


def test_tiles_are_items_with_their_place(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, (21, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", values)
    tiles = Tiles(open_stack(tmp_path / "in.tif"), halo=3, alignment=4, size=8)
    for item in (tiles[index] for index in range(len(tiles))):
        tile = tiles.tiles[item["index"]]
        np.testing.assert_array_equal(item["image"][0], values[tile.read])
