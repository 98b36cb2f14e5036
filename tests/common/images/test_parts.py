"""Parts of a file that several processes write: each voxel lies in one, each chunk in one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from warpzoo.files import FileError
from warpzoo.images.parts import Parts, begin, check_shared, end, units_of, written_at_once
from warpzoo.images.stacks import Layout, open_stack

AXES = st.tuples(st.integers(1, 7), st.integers(1, 4))
"""How long a file is along an axis, and its chunks."""


@given(AXES, AXES, AXES, AXES, st.integers(1, 2), st.integers(1, 8), st.booleans())
def test_every_voxel_lies_in_one_part_and_every_chunk(x, y, other, time, channels, tile, volumes):
    sizes, units = zip(x, y, other, (channels, 1), time, strict=True)
    layout = Layout(sizes, (0, 1, 2) if volumes else (0, 1), channels=3, channel=channels - 1)
    parts = Parts(layout, units, tile)
    seen = np.zeros(sizes, int)
    owner = np.zeros([-(-size // unit) for size, unit in zip(sizes, units, strict=True)], int) - 1
    for number, part in enumerate(parts[one] for one in range(len(parts))):
        seen[part.index] += 1
        chunks = tuple(
            slice(one.start // unit, -(-one.stop // unit)) for one, unit in zip(part.index, units, strict=True)
        )
        assert (owner[chunks] == -1).all(), "a chunk of two parts"
        owner[chunks] = number
        by_frame, whole = np.zeros(sizes, int), np.zeros(sizes, int)
        for frame in part.frames:
            for channel in part.channels:
                by_frame[layout.index(frame, part.window, channel)] += 1
        whole[part.index] = 1
        np.testing.assert_array_equal(by_frame, whole)
    assert (seen == 1).all()
    # how many tiles each part sees along an axis, counted voxel by voxel
    seen_by = [{(voxel // parts.sides[axis], voxel // tile) for voxel in range(sizes[axis])} for axis in layout.spatial]
    tiles = [-(-sizes[axis] // tile) for axis in layout.spatial]
    assert parts.times() == pytest.approx(np.prod([len(one) for one in seen_by]) / np.prod(tiles))


def test_a_tile_that_fits_is_recommended():
    layout = Layout((5000, 5000), (0, 1))
    parts = Parts(layout, (300, 300), 512)
    assert parts.times() > 1.5
    better = parts.better_tile(16)
    assert better == 1200
    assert Parts(layout, (300, 300), better).times() == 1
    assert Parts(layout, (2160, 2560), 512).better_tile(16) is None


@pytest.mark.parametrize("version", [2, 3])
def test_parts_are_written_as_a_whole(tmp_path: Path, version: int) -> None:
    """By zarr: what is read is what was written, and chunks are those of the file that was read."""
    values = np.random.default_rng(0).integers(0, 99, (3, 40, 50)).astype(np.uint8)
    path = ome_zarr(tmp_path / "in.zarr", values, (2, 8, 8), version, shards=(2, 16, 16) if version == 3 else None)
    stack = open_stack(path)
    assert units_of(stack) == ((16, 16, 2) if version == 3 else (8, 8, 2))
    parts, unfinished = Parts(stack.layout, units_of(stack), 20), tmp_path / "image.zarr"
    begin(stack, unfinished, np.dtype(np.float32))
    for number in range(len(parts)):
        part = parts[number]
        with written_at_once(stack, unfinished, part) as written:
            for frame in part.frames:
                written.put(frame, part.window, stack.read(frame, part.window) + 0.5)
    left = unfinished / "0" / "c.0123.partial"  # as of a process that was killed
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half")
    end(stack, unfinished, tmp_path / "out.zarr")
    out = zarr.open_group(tmp_path / "out.zarr", mode="r")["0"]
    np.testing.assert_array_equal(out[...], values + 0.5)
    assert (out.chunks, out.shards) == ((2, 8, 8), (2, 16, 16) if version == 3 else None)
    assert not [*(tmp_path / "out.zarr").rglob("*.partial")]
    with pytest.raises(FileError, match="there already"):
        end(stack, unfinished, tmp_path / "out.zarr")


def test_half_a_part_leaves_nothing(tmp_path: Path) -> None:
    stack = open_stack(ome_zarr(tmp_path / "in.zarr", np.ones((2, 9, 9), np.uint8), (1, 9, 9)))
    begin(stack, tmp_path / "image.zarr", np.dtype(np.uint8))
    part = Parts(stack.layout, units_of(stack), 9)[0]
    with suppress(KeyError), written_at_once(stack, tmp_path / "image.zarr", part) as written:
        written.put(0, part.window, np.ones((9, 9), np.float32))
        raise KeyError
    assert not zarr.open_group(tmp_path / "image.zarr", mode="r")["0"][...].any()


def test_other_files_are_refused(tmp_path: Path) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "in.tif", np.ones((9, 9), np.uint8))
    with pytest.raises(FileError, match=r"in.tif must be an OME-Zarr .* without --cluster, one process does"):
        check_shared(open_stack(tmp_path / "in.tif"))


def ome_zarr(
    path: Path,
    values: np.ndarray,
    chunks: tuple[int, ...],
    version: int = 2,
    shards: tuple[int, ...] | None = None,
    levels: int = 1,
) -> Path:
    """An image with that many levels, each half as many rows and columns as the one before."""
    named = [{"name": name, "type": {"t": "time", "c": "channel"}.get(name, "space")} for name in "tczyx"]
    axes = {3: [named[0], *named[3:]], 4: [*named[:1], *named[2:]], 5: named}[values.ndim]
    scales = [[*[1.0] * (values.ndim - 2), *[2.0**level] * 2] for level in range(levels)]
    datasets = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for level, scale in enumerate(scales)
    ]
    described = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    attributes = {"multiscales": described} if version == 2 else {"ome": {"version": "0.5", "multiscales": described}}
    group = zarr.create_group(path, zarr_format=version, attributes=attributes)
    encoding = {"name": "v2", "separator": "/"} if version == 2 else None
    for level in range(levels):
        like = values[..., :: 2**level, :: 2**level]
        array = group.create_array(
            str(level), shape=like.shape, dtype=like.dtype, chunks=chunks, shards=shards, chunk_key_encoding=encoding
        )
        array[...] = like
    return path
