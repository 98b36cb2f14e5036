"""Frames of a series registered to each other, and all their affine transforms solved together.

Convention: as of `consistency`; what was found between frames i and j is kept as that of a pair, from i to j.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from warpzoo.images.content import window
from warpzoo.images.image import Image
from warpzoo.registration.alignment import align_pairs, best_of, in_voxels, in_world
from warpzoo.registration.consistency import solved_together
from warpzoo.registration.found import Found, Store, matrix_alone, name_of, placed
from warpzoo.registration.frames import DOUBTFUL, FrameMethod
from warpzoo.registration.groups import RECENT, group_of
from warpzoo.registration.pair import Method

SPANS = (1, 4)
"""How many frames on the partner of a frame is."""
SHOWN = 0.25
"""Of the displayed intensities, above which a voxel shows something that has to lie right."""
FEWEST, MOST_POINTS = 100, 2000
MOVED = 0.05
"""Of the longest side: what was found for a frame alone, and lies further off than that, was wrong."""


def is_free(methods: Sequence[Method]) -> bool:
    """Whether what the last of them finds may be any affine transform, as those that are solved together are."""
    return bool(methods) and not getattr(methods[-1], "constrained", False)


def linear_count(methods: Sequence[Method]) -> int:
    """How many methods of a chain, from its beginning on, find affine transforms alone."""
    count = next((number for number, one in enumerate(methods) if not getattr(one, "linear", False)), len(methods))
    return count


def settle(
    method: FrameMethod, reference: Image, store: Store, number: int, failed: Mapping[int, str], own: int | None
) -> None:
    """Keeps, as a round of that number, the affine transforms of all frames that are solved together from those of the
    round before and those between frames, which are found here."""
    series = method.series
    frame_0 = series[0]
    before = {
        frame: _read(store, name_of(number - 1, frame), reference, frame_0)
        for frame in range(len(series))
        if frame not in failed
    }
    lost = lost_among({frame: one.likeness for frame, one in before.items() if frame != own})
    frames = {frame: one.matrix for frame, one in before.items() if frame not in lost}
    there = [*frames]
    wanted = [(there[place - span], later) for place, later in enumerate(there) for span in SPANS if span <= place]
    found = {pair: store.read(_pair(pair), frame_0, frame_0) for pair in wanted}
    missing, size = [pair for pair in wanted if found[pair] is None], len(SPANS) * group_of(series.grid)
    with tqdm(desc="Registering, pairs", total=len(missing), unit="pair", disable=None) as bar:
        for some in (missing[start : start + size] for start in range(0, len(missing), size)):
            for pair, one in zip(some, _between(method, some, frames), strict=True):
                store.write(_pair(pair), one, frame_0, frame_0)
                found[pair] = one
            bar.update(len(some))
    pairs = {pair: one.matrix for pair, one in found.items() if one is not None}
    seen = method.cleaning(reference) if own is None else method.cleaning.frame(own)
    points = shown_points(seen.clean)
    solved = solved_together(frames, pairs, points, own)
    solved |= {frame: _between_neighbours(frame, solved) for frame in lost}
    for frame in range(len(series)):
        name = name_of(number, frame)
        if frame in failed:
            store.write(name, _read(store, name_of(number - 1, frame), reference, frame_0), reference, frame_0)
        else:
            now = _moved(before[frame], solved[frame], reference, points)
            near = frame in lost and not now.moved
            store.write(name, before[frame] if near else now, reference, frame_0)


def lost_among(rated: Mapping[int, float]) -> list[int]:
    """The frames that are much less alike than those on both sides of them are, as one of noise alone is."""
    frames = sorted(rated)
    lost = []
    for place, frame in enumerate(frames):
        sides = frames[max(0, place - RECENT) : place], frames[place + 1 : place + 1 + RECENT]
        usual = [float(np.median([rated[one] for one in side])) for side in sides if side]
        if usual and rated[frame] < DOUBTFUL * min(usual):
            lost.append(frame)
    return lost


def _pair(pair: tuple[int, int]) -> str:
    return f"pairs/frame_{pair[0]:04d}_{pair[1]:04d}"


def _between(method: FrameMethod, pairs: Sequence[tuple[int, int]], frames: Mapping[int, np.ndarray]) -> list[Found]:
    """From where each pair is expected to lie or from nowhere, whichever makes the frames more alike."""
    grid = method.series.grid
    fixed, moving = ([method.cleaning.frame(pair[side]).levels for pair in pairs] for side in (0, 1))
    expected = np.stack([in_voxels(frames[later] @ np.linalg.inv(frames[one]), grid, grid) for one, later in pairs])
    nowhere = np.tile(np.eye(grid.dims + 1), (len(pairs), 1, 1))
    aligned = align_pairs(fixed, moving, best_of(fixed, moving, [expected, nowhere]))
    return [matrix_alone(in_world(one.matrix, grid, grid), grid) for one in aligned]


def _between_neighbours(frame: int, solved: Mapping[int, np.ndarray]) -> np.ndarray:
    """The matrix between those of the nearest frames before and after it that were solved."""
    others = np.array(sorted(solved))
    entries = np.stack([solved[other].ravel() for other in others])
    matrix = np.array([np.interp(frame, others, column) for column in entries.T])
    return matrix.reshape(solved[int(others[0])].shape)


def _moved(found: Found, matrix: np.ndarray, reference: Image, points: np.ndarray) -> Found:
    """What was found, with the solved matrix; if that is another one, what was doubtful of the first is no longer."""
    homogeneous = np.column_stack([points, np.ones(len(points))])
    apart = float(np.linalg.norm(homogeneous @ (found.matrix - matrix)[:-1].T, axis=1).mean())
    longest = max(size * side for size, side in zip(reference.grid.shape, reference.grid.spacing, strict=True))
    if apart > MOVED * longest:
        unit = "pixels" if reference.header.pixels else "mm"
        moved = f"placed by its neighbours, {apart:.3g} {unit} from what was found for it alone"
        found = replace(found, findings=(), moved=moved)
    return replace(found, load=lambda: placed(matrix, reference.grid), matrix=matrix)


def _read(store: Store, name: str, fixed: Image, moving: Image) -> Found:
    found = store.read(name, fixed, moving)
    assert found is not None
    return found


def shown_in(image: Image) -> Tensor:
    """The voxels that show something (*spatial); all of them if few do."""
    low, high = window(image.array)
    bright = image.array[0] > low + SHOWN * (high - low)
    return bright if int(bright.sum()) >= FEWEST else torch.ones_like(bright)


def shown_points(image: Image) -> np.ndarray:
    """Voxels that show something, in the world (count, dims)."""
    voxels = shown_in(image).nonzero()
    voxels = voxels[:: max(1, len(voxels) // MOST_POINTS)]
    return image.grid.to_world(voxels.double()).numpy()
