"""The frames of a series, one after the other: each from where the frame before it was found, if that is nearer.

Convention: frames count from 0, and their transforms take points of the reference to the frame.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from tqdm import tqdm

from warpzoo.geometry.composition import composed, identity, split
from warpzoo.geometry.transforms import Affine, DisplacementField, Transform, resample
from warpzoo.images.image import Image
from warpzoo.images.series import Series
from warpzoo.registration.alignment import Alignment
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.pair import Method, register_pair
from warpzoo.registration.preflight import broken_values
from warpzoo.registration.safety import MOST_VOXELS, likeness

SMOOTHING = 1.0
"""Voxels, the standard deviation with which frames are smoothed for matrices alone to be found: noise that is on the
voxels of both images, or of a mean and its frames, would draw them onto or off each other's voxels, as interpolation
smooths it between them (SPM and MCFLIRT smooth for the same reason)."""
SMOOTHED = ("rigid", "affine", "align")
"""The methods that it is done for."""
FEW_VOXELS = 2**14
"""That denoised frames are compared at: they show nothing that is finer."""
KEPT, KEPT_VOXELS = 6, 2**22
"""Frames that are kept as they were cleaned, which takes long: so many at least, and as many as have so many voxels
together."""
RECENT = 5
"""Frames before that say what likeness is usual."""
DOUBTFUL = 0.8
"""Of it, below which a frame is registered again without where they were; what that finds has to reach it."""


@dataclass(frozen=True)
class Found:
    """What registering a frame gave.

    load: gives the transform, which a store may have on disk.
    matrix: the affine part of the transform, at its end, in the world.
    likeness: of the reference and the frame by it, see `safety.likeness`.
    failed: why the frame could not be registered; empty if it was.
    findings: what is doubtful about it.
    moved: that its neighbours placed it, far from where it was found itself; empty if they did not.
    resolution: as of a `Registration`.
    """

    load: Callable[[], Transform]
    matrix: np.ndarray
    likeness: float = 0.0
    failed: str = ""
    findings: tuple[str, ...] = ()
    moved: str = ""
    seconds: float = 0.0
    resolution: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def transform(self) -> Transform:
        return self.load()


class Store(Protocol):
    """Where what was found is kept, by name; `fixed` and `moving` are the images that the transform lies between."""

    def read(self, name: str, fixed: Image, moving: Image) -> Found | None: ...

    def write(self, name: str, found: Found, fixed: Image, moving: Image) -> None: ...


class InMemory(dict[str, Found]):
    """A store for as long as the program runs."""

    def read(self, name: str, fixed: Image, moving: Image) -> Found | None:
        return self.get(name)

    def write(self, name: str, found: Found, fixed: Image, moving: Image) -> None:
        self[name] = found


class Seen(NamedTuple):
    """An image as it is, and as methods see it that come after a network which denoises."""

    raw: Image
    clean: Image


class Cleaning:
    """What the methods of a chain are given of images.

    raw: how many of the methods are given images as they are, the first ones.
    """

    def __init__(self, series: Series, methods: Sequence[Method]) -> None:
        self.series, self.raw = series, 0
        self.clean: Callable[[Image], Image] | None = None
        self.kept: OrderedDict[int, Seen] = OrderedDict()
        for number, method in enumerate(methods, 1):
            if getattr(method, "denoises", False):
                self.raw, self.clean = number, method.denoised  # type: ignore[attr-defined]
        if self.clean is None and all(method.name in SMOOTHED for method in methods):
            self.clean = smoothed

    @property
    def denoises(self) -> bool:
        return self.raw > 0

    def __call__(self, image: Image) -> Seen:
        return Seen(image, image if self.clean is None else self.clean(image))

    def frame(self, number: int) -> Seen:
        if number not in self.kept:
            seen = self.kept[number] = self(self.series[number])
            if len(self.kept) > max(KEPT, KEPT_VOXELS // seen.raw.array.numel()):
                self.kept.popitem(last=False)
        self.kept.move_to_end(number)
        return self.kept[number]


def smoothed(image: Image) -> Image:
    from scipy.ndimage import gaussian_filter  # slow to import

    smooth = gaussian_filter(image.array.numpy(), [0.0, *[SMOOTHING] * image.grid.dims], mode="nearest")
    return replace(image, array=torch.from_numpy(smooth))


@dataclass(frozen=True)
class FrameMethod:
    """How one frame is registered to a reference.

    raw: how many of the methods are given images as they are; the others see them as `cleaning` gives them.
    settled: whether frames start where the round before has found them, and nowhere else.
    """

    series: Series
    methods: Sequence[Method]
    guidance: Callable[[int], Guidance]
    start: Transform | None
    strict: bool
    safe: bool
    cleaning: Cleaning
    raw: int = 0
    settled: bool = False

    def __call__(self, reference: Seen, frame: int, known: Sequence[np.ndarray], typical: float | None) -> Found:
        """From whichever start makes it more alike, the given one or an affine map that is `known` of a frame before
        it; from the given one as well if what that finds is much less alike than is `typical`, and that is not."""
        begun, image = time.perf_counter(), self.series[frame]
        if broken := list(broken_values(image)):
            return resting(reference.raw, str(broken[0]))
        seen = self.cleaning.frame(frame)
        guidance, _ = self.guidance(frame).fitted(reference.raw, image)
        grid = reference.raw.grid
        starts = [self.start, *(Affine.from_world(torch.from_numpy(one[None, :-1]), grid) for one in known)]
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
        """What the methods find from there, the first of them on the images as they are."""
        methods = [self._near(method, frame) for method in self.methods]
        parts = methods[: self.raw], methods[self.raw :]
        resolution: dict[str, Sequence[float]] = {}
        findings: list[str] = []
        for methods, fixed, moving in zip(parts, reference, seen, strict=True):
            while methods and isinstance(methods[0], Alignment):  # never gives what is less alike
                begin = methods[0](fixed, moving, begin or self.start, guidance)
                resolution[methods[0].name] = methods[0].finest(fixed, begin).spacing
                methods = methods[1:]
            if not methods:
                continue
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
            )
            begin = done.transform
            resolution |= done.resolution
            findings += map(str, done.findings)
        assert begin is not None
        transform = begin
        rated = self.likeness(reference, seen, transform, guidance)
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


def resting(reference: Image, failed: str = "") -> Found:
    """The identity: of the frame that is the reference itself, and of one that failed, for that reason."""
    return Found(lambda: identity(reference.grid), np.eye(reference.grid.dims + 1), failed=failed)


def name_of(number: int, frame: int) -> str:
    """What is found of a frame is kept as, in the given round."""
    return f"{number}/frame_{frame:04d}"


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
    frame_0, before, seen = series[0], None, None
    first, nearest = own or 0, own or 0
    order = [*range(first, len(series)), *range(first - 1, -1, -1)]
    for frame in tqdm(order, desc=f"Registering, round {number + 1}", unit="frame", disable=None):
        if frame == first - 1:
            before, nearest = None, first
        name = name_of(number, frame)
        found = store.read(name, reference, frame_0)
        if found is None:
            seen = method.cleaning(reference) if seen is None else seen
            earlier = store.read(name_of(number - 1, frame), reference, frame_0) if number else None
            placed = [before] if before is not None and _moves(before.matrix) and not previous else []
            placed += [earlier] if earlier is not None and not earlier.failed else []
            known = [one.matrix for one in placed]
            if frame == own:
                found = resting(reference)
            else:
                try:
                    usual = float(np.median(rated[-RECENT:])) if rated else None
                    if previous and before is not None:
                        found = _after(before, method(method.cleaning.frame(nearest), frame, known, usual), reference)
                    else:
                        found = method(seen, frame, known, usual)
                except (ValueError, RuntimeError) as error:
                    if not rated:  # nothing works, as with a method for other images
                        raise
                    found = resting(reference, str(error))
            if method.settled and earlier is not None:
                found = replace(found, moved=earlier.moved)
            store.write(name, found, reference, frame_0)
        if found.failed and method.strict:
            raise ValueError(f"frame {frame}: {found.failed}")
        if found.failed:
            failed[frame] = found.failed
        elif frame != own:
            before, nearest = found, frame
            rated.append(found.likeness)
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
