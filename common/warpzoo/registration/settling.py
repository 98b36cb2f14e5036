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

from warpzoo.geometry.composition import split
from warpzoo.geometry.transforms import Affine
from warpzoo.images.content import window
from warpzoo.images.image import Image
from warpzoo.registration.alignment import Alignment, correlation
from warpzoo.registration.consistency import solved_together
from warpzoo.registration.frames import Found, FrameMethod, Store, name_of
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
    there = [frame for frame in range(len(series)) if frame not in failed]
    frame_0 = series[0]
    before = {frame: _read(store, name_of(number - 1, frame), reference, frame_0) for frame in there}
    frames, pairs = {frame: one.matrix for frame, one in before.items()}, {}
    for place, later in enumerate(tqdm(there, desc="Registering, pairs", unit="frame", disable=None)):
        for earlier in (there[place - span] for span in SPANS if span <= place):
            name = f"pairs/frame_{earlier:04d}_{later:04d}"
            found = store.read(name, frame_0, frame_0)
            if found is None:
                found = _between(method, earlier, later, frames[later] @ np.linalg.inv(frames[earlier]))
                store.write(name, found, frame_0, frame_0)
            pairs[earlier, later] = found.matrix
    points = shown_points(method.cleaning(reference).clean)
    solved = solved_together(frames, pairs, points, own)
    for frame in range(len(series)):
        name = name_of(number, frame)
        if frame in failed:
            store.write(name, _read(store, name_of(number - 1, frame), reference, frame_0), reference, frame_0)
        else:
            store.write(name, _moved(before[frame], solved[frame], reference, points), reference, frame_0)


def _between(method: FrameMethod, earlier: int, later: int, expected: np.ndarray) -> Found:
    """From the expected place or from none, whichever makes the frames more alike."""
    fixed, moving = method.cleaning.frame(earlier).clean, method.cleaning.frame(later).clean
    nowhere = np.eye(len(expected))
    best = max((expected, nowhere), key=lambda matrix: correlation(fixed, moving, matrix))
    transform = Alignment()(fixed, moving, Affine.from_world(torch.from_numpy(best[None, :-1]), fixed.grid))
    return Found(lambda: transform, split(transform, fixed.grid.dims)[1])


def _moved(found: Found, matrix: np.ndarray, reference: Image, points: np.ndarray) -> Found:
    """What was found, with the solved matrix; if that is another one, what was doubtful of the first is no longer."""
    homogeneous = np.column_stack([points, np.ones(len(points))])
    apart = float(np.linalg.norm(homogeneous @ (found.matrix - matrix)[:-1].T, axis=1).mean())
    longest = max(size * side for size, side in zip(reference.grid.shape, reference.grid.spacing, strict=True))
    if apart > MOVED * longest:
        unit = "pixels" if reference.header.pixels else "mm"
        moved = f"placed by its neighbours, {apart:.3g} {unit} from what was found for it alone"
        found = replace(found, findings=(), moved=moved)
    transform = Affine.from_world(torch.from_numpy(matrix[None, :-1]), reference.grid)
    return replace(found, load=lambda: transform, matrix=matrix)


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
