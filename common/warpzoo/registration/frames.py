"""The frames of a series, one after the other: each from where the frame before it was found, if that is nearer.

Convention: frames count from 0, and their transforms take points of the reference to the frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from tqdm import tqdm

from warpzoo.geometry.composition import composed, split
from warpzoo.geometry.transforms import Affine, DisplacementField, Transform, resample
from warpzoo.images.image import Image
from warpzoo.images.series import Series
from warpzoo.registration.alignment import Alignment
from warpzoo.registration.cleaning import Cleaning, Seen
from warpzoo.registration.found import Found, Store, name_of, placed, resting
from warpzoo.registration.groups import RECENT, GroupMethod, group_of
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.likeness import MOST_VOXELS, likeness
from warpzoo.registration.network import NetworkMethod
from warpzoo.registration.pair import Method, register_pair
from warpzoo.registration.preflight import broken_values

FEW_VOXELS = 2**14
"""That denoised frames are compared at: they show nothing that is finer."""
DOUBTFUL = 0.8
"""Of it, below which a frame is registered again without where they were; what that finds has to reach it."""


@dataclass(frozen=True)
class FrameMethod:
    """How one frame is registered to a reference.

    raw: how many of the methods are given images as they are; the others see them as `cleaning` gives them.
    settled: whether frames start where the round before has found them, and nowhere else.
    """

    series: Series
    methods: Sequence[Method]
    guidance: Callable[[int | None], Guidance]
    start: Transform | None
    strict: bool
    safe: bool
    cleaning: Cleaning
    raw: int = 0
    settled: bool = False

    @cached_property
    def group(self) -> GroupMethod | None:
        """How several frames are registered at once, if that can be done."""
        guidance = self.guidance(None)
        if self.settled or len(self.methods) != 2 or "moving" in guidance.masks:
            return None
        network, alignment = self.methods
        if not isinstance(network, NetworkMethod) or network.adapt or not isinstance(alignment, Alignment):
            return None
        if split(self.start, self.series.grid.dims)[0] is not None:
            return None
        return GroupMethod(network, alignment, self.start, self.strict, self.cleaning, guidance)

    def __call__(self, reference: Seen, frame: int, known: Sequence[np.ndarray], typical: float | None) -> Found:
        """From whichever start makes it more alike, the given one or an affine map that is `known` of a frame before
        it; from the given one as well if what that finds is much less alike than is `typical`, and that is not."""
        begun, image = time.perf_counter(), self.series[frame]
        if broken := list(broken_values(image)):
            return resting(reference.raw, str(broken[0]))
        seen = self.cleaning.frame(frame)
        guidance, _ = self.guidance(frame).fitted(reference.raw, image)
        grid = reference.raw.grid
        starts = [self.start, *(placed(one, grid) for one in known)]
        if self.settled:
            return replace(
                self.begun_at(reference, seen, starts[-1], guidance, frame), seconds=time.perf_counter() - begun
            )
        alike = [self.likeness(reference, seen, one, guidance) for one in starts]
        best = int(np.argmax(alike[::-1]))  # of equal ones the last
        chosen = len(starts) - 1 - best
        found = self.begun_at(reference, seen, starts[chosen] if chosen else None, guidance, frame)
        away = chosen and _moves(known[chosen - 1])
        if away and typical is not None and found.likeness < DOUBTFUL * typical:
            other = self.begun_at(reference, seen, None, guidance, frame)
            found = other if other.likeness >= max(found.likeness, DOUBTFUL * typical) else found
        return replace(found, seconds=time.perf_counter() - begun)

    def begun_at(self, reference: Seen, seen: Seen, begin: Transform | None, guidance: Guidance, frame: int) -> Found:
        """What the methods find from there, the first of them on the images as they are: if others follow, they go on
        from that only if the images without noise are more alike by it."""
        methods = [self._near(method, frame) for method in self.methods]
        parts = methods[: self.raw], methods[self.raw :]
        resolution: dict[str, Sequence[float]] = {}
        findings: list[str] = []
        images = (reference.raw, seen.raw), (reference.clean, seen.clean)

        def alike(transform: Transform | None) -> float:
            return self.likeness(reference, seen, transform, guidance)

        for methods, (fixed, moving) in zip(parts, images, strict=True):
            while methods and isinstance(methods[0], Alignment):  # never gives what is less alike
                begin = methods[0](fixed, moving, begin or self.start, guidance)
                resolution[methods[0].name] = methods[0].finest(fixed, begin).spacing
                methods = methods[1:]
            if not methods:
                continue
            others_follow = methods is parts[0] and bool(parts[1])
            done = register_pair(
                fixed,
                moving,
                methods,
                self.start,
                guidance=guidance,
                strict=self.strict,
                interruptible=False,
                safe=self.safe,
                begin=begin,
                compared=not others_follow,
            )
            if not others_follow or alike(done.transform) >= alike(begin or self.start):
                begin = done.transform
            resolution |= done.resolution
            findings += map(str, done.findings)
        assert begin is not None
        transform = begin
        rated = alike(transform)
        matrix = split(transform, reference.raw.grid.dims)[1]
        said = tuple(dict.fromkeys(findings))
        return Found(lambda: transform, matrix, rated, findings=said, resolution=resolution)

    def likeness(self, reference: Seen, seen: Seen, transform: Transform | None, guidance: Guidance) -> float:
        most = FEW_VOXELS if self.cleaning.denoises else MOST_VOXELS
        return likeness(reference.clean, seen.clean, transform, guidance, most).total

    def _near(self, method: Method, frame: int) -> Method:
        """The method with the frames beside that one, if it looks at several at once."""
        if not hasattr(method, "near"):
            return method
        beside = [one for one in (frame - 1, frame + 1) if 0 <= one < len(self.series)]
        images = [(one - frame, self.series[one]) for one in beside]
        near: Method = method.near([(away, image) for away, image in images if not any(broken_values(image))])
        return near


def register_frames(
    method: FrameMethod,
    reference: Image,
    store: Store,
    number: int,
    own: int | None = None,
    previous: bool = False,
) -> dict[int, str]:
    """Registers, in a round of that number, all frames that the store does not have; returns why some failed.

    `own` is the frame that is the reference itself: those after it are registered first, each from where the one before
    it was, and then those before it, the last one first. With `previous` each frame is registered to its neighbour, and
    its transform composed with that one's.
    """
    series, failed, rated = method.series, dict[int, str](), list[float]()
    frame_0, first, group = series[0], own or 0, None if previous else method.group
    size = 1 if group is None else group_of(series.grid)
    seen: Seen | None = None
    before: tuple[int, Found] | None = None

    def find(frames: list[int]) -> dict[int, Found]:
        nonlocal seen
        if seen is None:
            seen = method.cleaning(reference) if own is None else method.cleaning.frame(own)
        usual = float(np.median(rated[-RECENT:])) if rated else None
        earlier = {frame: store.read(name_of(number - 1, frame), reference, frame_0) for frame in frames if number}
        known = {frame: one.matrix for frame, one in earlier.items() if one is not None and not one.failed}
        try:
            if group is not None:
                last = None if own is None else (seen, np.eye(reference.grid.dims + 1))
                last = last if before is None else (method.cleaning.frame(before[0]), before[1].matrix)
                return group(seen, frames, last, known, rated)
            frame = frames[0]
            if previous and before is not None:
                return {frame: _after(before[1], method(method.cleaning.frame(before[0]), frame, [], usual), reference)}
            moved = [before[1].matrix] if before is not None and _moves(before[1].matrix) and not previous else []
            found = method(seen, frame, [*moved, *known.values()], usual)
            was = earlier.get(frame)
            return {frame: replace(found, moved=was.moved) if method.settled and was is not None else found}
        except (ValueError, RuntimeError) as error:
            if not rated:  # nothing works, as with a method for other images
                raise
            return {frame: resting(reference, str(error)) for frame in frames}

    with tqdm(desc=f"Registering, round {number + 1}", total=len(series), unit="frame", disable=None) as bar:
        for way in (range(first, len(series)), range(first - 1, -1, -1)):
            before = None
            for some in (way[start : start + size] for start in range(0, len(way), size)):
                there = {frame: store.read(name_of(number, frame), reference, frame_0) for frame in some}
                missing = [frame for frame in some if there[frame] is None]
                new = {frame: resting(reference) for frame in missing if frame == own}
                if others := [frame for frame in missing if frame != own]:
                    new |= find(others)
                for frame in some:
                    found = new.get(frame) or there[frame]
                    assert found is not None
                    if frame in new:
                        store.write(name_of(number, frame), found, reference, frame_0)
                    if found.failed and method.strict:
                        raise ValueError(f"frame {frame}: {found.failed}")
                    if found.failed:
                        failed[frame] = found.failed
                    elif frame != own:
                        before = frame, found
                        rated.append(found.likeness)
                bar.update(len(some))
    return failed


def _after(before: Found, found: Found, reference: Image) -> Found:
    """What was found from a neighbour, after what was found for that one."""
    if found.failed:
        return found
    transform = composed(before.transform, found.transform)
    if not isinstance(transform, Affine):
        transform = DisplacementField(transform.field(reference.grid).detach(), reference.grid)
    return replace(found, load=lambda: transform, matrix=split(transform, reference.grid.dims)[1])


def mean_of(series: Series, store: Store, number: int, failed: Mapping[int, str], reference: Image) -> Image:
    """The mean of the frames on the reference's grid by what a round has found, each where it has been seen; where none
    has, the reference."""
    grid = reference.grid
    total, seen = np.zeros(reference.array.shape), np.zeros(grid.shape)
    for frame in (one for one in range(len(series)) if one not in failed):
        image = series[frame]
        found = store.read(name_of(number, frame), reference, image)
        assert found is not None
        with torch.no_grad():
            values = resample(image.array[None], image.grid, found.transform, grid, padding="border")[0]
            ones = torch.ones(1, 1, *image.grid.shape)
            inside = resample(ones, image.grid, found.transform, grid, mode="nearest")[0, 0]
        total += (values * inside).numpy()
        seen += inside.numpy()
    mean = np.where(seen > 0, total / np.maximum(seen, 1), reference.array.numpy())
    return reference.on(reference, torch.from_numpy(mean).float())


def _moves(matrix: np.ndarray) -> bool:
    """Whether it is not the identity, as of methods that find no matrix."""
    return not np.array_equal(matrix, np.eye(len(matrix)))
