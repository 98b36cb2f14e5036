from __future__ import annotations

import numpy as np
import pytest
import tifffile

from warpzoo.denoising.patches import Patches
from warpzoo.images.stacks import open_stack


@pytest.fixture
def stack(tmp_path):
    """Every pixel of (3, 40, 50) has a value of its own."""
    values = np.arange(3 * 40 * 50, dtype=np.uint16).reshape(3, 40, 50)
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="minisblack", metadata={"axes": "TYX"})
    return open_stack(tmp_path / "in.tif")


def test_patches_are_pieces_of_the_image_mirrored_and_turned(stack):
    patches = Patches([stack], 8)
    steps = set()
    for index in range(64):
        patch = patches[index]["image"].numpy()[0]
        right, down = (int(np.unique(np.diff(patch, axis=axis)).item()) for axis in (1, 0))  # one step everywhere
        steps.add((right, down))
    assert steps == {(sign * a, other * b) for a, b in ((1, 50), (50, 1)) for sign in (1, -1) for other in (1, -1)}
    straight = Patches([stack], 8, turn=False)
    assert {float(np.diff(straight[index]["image"][0], axis=1)[0, 0]) for index in range(20)} == {1}


def test_the_same_seed_draws_the_same_and_another_others(stack):
    one, same, other = (Patches([stack], 8, seed=seed) for seed in (0, 0, 1))
    assert all((one[index]["image"] == same[index]["image"]).all() for index in range(4))
    assert any((one[index]["image"] != other[index]["image"]).any() for index in range(4))
    assert any((one[0]["image"] != one[index]["image"]).any() for index in range(1, 4))


def test_an_image_smaller_than_a_patch_is_mirrored(stack):
    patch = Patches([stack], [64, 64])[0]["image"][0].numpy()
    assert patch.shape == (64, 64)
    frame = patch.min() // 2000 * 2000 + np.arange(2000, dtype=np.float32).reshape(40, 50)
    mirrored = np.pad(frame, ((0, 24), (0, 14)), mode="symmetric")
    turns = [np.flip(turned, axes) for turned in (mirrored, mirrored.T) for axes in ((), (0,), (1,), (0, 1))]
    assert any(np.array_equal(patch, one) for one in turns)


def test_every_image_is_drawn_from_as_often_as_it_has_pixels(stack, tmp_path):
    tifffile.imwrite(tmp_path / "small.tif", np.full((20, 25), 60_000, np.uint16))
    patches = Patches([stack, open_stack(tmp_path / "small.tif")], 8)
    share = np.mean([patches[index]["image"].max() == 60_000 for index in range(600)])
    assert share == pytest.approx(500 / 6500, abs=0.03)


def test_wrong_sizes_and_no_images(stack):
    with pytest.raises(ValueError, match="2 spatial axes"):
        Patches([stack], [8, 8, 8])
    with pytest.raises(ValueError, match="data must be one stack or more"):
        Patches([])
