"""Frames that a network places and Gauss–Newton refines, several at once: what a step costs is hardly more for many.

Each frame is aligned to the one before it, and begins where these alignments, one after the other, lead to. The network
is asked where that makes a frame less like the reference than is usual, and of the first frame.

Convention: as of `frames`; likeness is the correlation of the denoised images at the finest level of the alignment.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from torch import Tensor

from warpzoo.errors import raise_if
from warpzoo.geometry.composition import split
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Transform
from warpzoo.images.image import Image
from warpzoo.registration.alignment import Aligned, Alignment, align_pairs, best_of, in_voxels, in_world
from warpzoo.registration.cleaning import Cleaning, Seen
from warpzoo.registration.found import Found, matrix_alone, resting
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.network import NetworkMethod
from warpzoo.registration.preflight import broken_values, preflight

GROUP, GROUP_VOXELS = 16, 2**22
"""Frames at once: no more than that, and than have so many voxels together; one at least."""
RECENT = 5
"""Frames before that say what is usual."""
USUAL, SLIGHT = 1.5, 0.01
"""What a frame lacks of a correlation of 1 is unusual if it is more than so many times what others lack and so much."""


def group_of(grid: Grid) -> int:
    """How many frames are registered at once."""
    return max(1, min(GROUP, GROUP_VOXELS // prod(grid.shape)))


@dataclass(frozen=True)
class GroupMethod:
    """How several frames are registered to a reference.

    start: where a frame begins of which nothing is known.
    guidance: what holds for all frames.
    """

    network: NetworkMethod
    alignment: Alignment
    start: Transform | None
    strict: bool
    cleaning: Cleaning
    guidance: Guidance

    def __call__(
        self,
        reference: Seen,
        frames: Sequence[int],
        before: tuple[Seen, np.ndarray] | None,
        known: Mapping[int, np.ndarray],
        recent: Sequence[float],
    ) -> dict[int, Found]:
        """From where a frame `before` them was found and, of each, from a matrix of the world that is `known`.

        `recent` is the likeness of the ones before, the last one last.
        """
        begun = time.perf_counter()
        images = {frame: self.cleaning.series[frame] for frame in frames}
        broken = {frame: list(broken_values(image)) for frame, image in images.items()}
        found = {frame: resting(reference.raw, str(why[0])) for frame, why in broken.items() if why}
        there = [frame for frame in frames if frame not in found]
        if not there:
            return found
        seen = [self.cleaning.frame(frame) for frame in there]
        grids = reference.raw.grid, seen[0].raw.grid
        doubts = [tuple(self._doubts(reference.raw, one.raw)) for one in seen]
        nowhere = in_voxels(split(self.start, grids[0].dims)[1], *grids)
        candidates = [np.tile(nowhere, (len(there), 1, 1))]
        if before is not None and len(known) < len(frames):
            candidates.append(self._in_turn([before[0], *seen], in_voxels(before[1], *grids)))
        if known:
            candidates.append(np.stack([in_voxels(known.get(frame, nowhere), *grids) for frame in there]))
        mask = self._mask(reference.raw, seen[0].raw)
        levels = [one.levels for one in seen]
        same = [reference.levels] * len(there)
        aligned = align_pairs(same, levels, best_of(same, levels, candidates[::-1], mask), self.alignment.steps, mask)
        rated = [*recent]
        for number, one in enumerate(seen):
            if not rated or unusual(aligned[number].correlation, rated):
                answer = self._answer(reference, one, mask)
                aligned[number] = max(answer, aligned[number], key=lambda other: other.correlation)
            rated.append(aligned[number].correlation)
        seconds = (time.perf_counter() - begun) / len(there)
        spacing = {
            self.network.name: self.network.finest(reference.raw, None).spacing,
            self.alignment.name: self.alignment.finest(reference.raw, None).spacing,
        }
        for frame, best, said in zip(there, aligned, doubts, strict=True):
            matrix = in_world(best.matrix, *grids)
            found[frame] = replace(
                matrix_alone(matrix, grids[0]),
                likeness=best.correlation,
                findings=said,
                seconds=seconds,
                resolution=spacing,
            )
        return found

    def _in_turn(self, seen: Sequence[Seen], first: np.ndarray) -> np.ndarray:
        """Where all but the first come to lie if each is aligned to the one before it, and the first lies there."""
        levels = [one.levels for one in seen]
        nowhere = np.tile(np.eye(len(first)), (len(seen) - 1, 1, 1))
        steps = align_pairs(levels[:-1], levels[1:], nowhere, self.alignment.steps, roughly=True)
        places = [first]
        for step in steps:
            places.append(step.matrix @ places[-1])
        return np.stack(places[1:])

    def _answer(self, reference: Seen, seen: Seen, mask: Tensor | None) -> Aligned:
        """What the network says, made better."""
        said = split(self.network(reference.raw, seen.raw, self.start), reference.raw.grid.dims)[1]
        known = in_voxels(said, reference.raw.grid, seen.raw.grid)
        return align_pairs([reference.levels], [seen.levels], known[None], self.alignment.steps, mask)[0]

    def _doubts(self, reference: Image, image: Image) -> list[str]:
        findings = preflight(reference, image, self.network.expectations, placed=True)
        raise_if(findings, self.strict)
        return [*dict.fromkeys(map(str, findings))]

    def _mask(self, reference: Image, image: Image) -> Tensor | None:
        guidance, _ = self.guidance.fitted(reference, image)
        mask = guidance.mask("fixed")
        return mask


def unusual(alike: float, rated: Sequence[float]) -> bool:
    """Whether a frame is less like the reference than those before it, the last one last."""
    return 1 - alike > USUAL * (1 - float(np.median(rated[-RECENT:]))) + SLIGHT
