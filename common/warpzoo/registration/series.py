"""A moving image with time: its frames are registered to one image, each may fail alone, all are resampled once.

Convention: frames count from 0. What they are registered to is an image of its own, one of the frames, the frame before
each, whose transforms are composed, or the mean of all frames: as in SPM, MCFLIRT and ANTs, all are first registered to
the first one, then to the mean of what that gives, and then to the mean of what that gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from warpzoo.errors import raise_if
from warpzoo.geometry.composition import between, composed, identity, split
from warpzoo.geometry.transforms import Transform
from warpzoo.images.content import finite
from warpzoo.images.image import Image
from warpzoo.images.resampling import Resampling
from warpzoo.images.series import Series
from warpzoo.registration.cleaning import Cleaning
from warpzoo.registration.found import Found, InMemory, Store, name_of
from warpzoo.registration.frames import FrameMethod, mean_of, register_frames
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.pair import Companions, Method, Registration, register_pair
from warpzoo.registration.preflight import broken_values, preflight
from warpzoo.registration.settling import is_free, linear_count, settle, shown_in
from warpzoo.transforms.landmarks import Landmarks
from warpzoo.transforms.tracks import Tracks

REFERENCES = ("first", "last", "previous", "mean")
"""What frames may be registered to beside an image of its own, and a frame by its number."""
OF_FRAMES = "affine,svf"
"""The methods of a frame if none are named."""
MEANS = 2
"""How many means frames are registered to, one after the other."""
Ahead = Callable[[FrameMethod, Image, int, int | None], None]
"""How a frame is found, the reference, the round's number, and the frame that is the reference itself."""
ACROSS = "reference"
"""What the transform from the fixed image to the reference of the frames is kept as."""


@dataclass(frozen=True)
class SeriesCompanions:
    """What belongs to a series beside its frames: the fixed image's once, the moving image's for every frame.

    whole: the series with all its channels, where it is registered by one of them, `channel`.
    tracks: points of the frames, in pixels.
    masks: of "fixed", an image, and of "moving", an image for all frames or a series.
    points: the moving landmarks of each frame that has some; `fixed_points` are in the same order.
    """

    masks: Mapping[str, Image | Series] = field(default_factory=dict)
    fixed_labels: Image | None = None
    labels: Series | None = None
    fixed_points: Landmarks | None = None
    points: Mapping[int, Landmarks] = field(default_factory=dict)
    also: Mapping[str, Series] = field(default_factory=dict)
    whole: Series | None = None
    channel: int = 0
    tracks: Tracks | None = None

    def check(self, series: Series) -> None:
        others = [self.labels, *self.also.values(), *self.masks.values()]
        for other in (one for one in others if isinstance(one, Series)):
            if len(other) != len(series):
                raise ValueError(
                    f"{other.path} must have a frame for each of the {len(series)} of {series.path}, got {len(other)}."
                )
        if self.points and not 0 <= min(self.points) <= max(self.points) < len(series):
            raise ValueError(
                f"moving_points must be in the frames 0 to {len(series) - 1}, got frame {max(self.points)}."
            )

    def of(self, frame: int) -> Companions:
        labels = {"fixed": self.fixed_labels, "moving": None if self.labels is None else self.labels[frame]}
        points = {"fixed": self.fixed_points if frame in self.points else None, "moving": self.points.get(frame)}
        return Companions(
            {side: one for side, one in labels.items() if one is not None},
            {side: one for side, one in points.items() if one is not None},
            {name: other[frame] for name, other in self.also.items()},
        )

    def guidance(self, frame: int | None, fixed: bool = True) -> Guidance:
        """The masks of a frame; those that hold for all if there is none."""
        masks = {side: mask for side, mask in self.masks.items() if side != "fixed" or fixed}
        chosen = {
            side: mask[frame] if isinstance(mask, Series) and frame is not None else mask
            for side, mask in masks.items()
        }
        return Guidance({side: mask for side, mask in chosen.items() if isinstance(mask, Image)})


@dataclass(frozen=True)
class SeriesRegistration:
    """What registering a series gave: `self[frame]` is the registration of a frame.

    fixed: the image on whose grid results lie: the one that was given, or the reference of the frames.
    to: what the frames were registered to: "fixed", one of `REFERENCES`, or the number of a frame.
    found: of each frame; `across` is the transform from the fixed image to the reference, if that is another one.
    """

    series: Series
    fixed: Image
    to: str
    method: str
    store: Store
    last: int
    reference: Image
    failed: Mapping[int, str]
    companions: SeriesCompanions = SeriesCompanions()
    resampling: Resampling = Resampling()
    cleaning: Cleaning | None = None

    def __len__(self) -> int:
        return len(self.series)

    def sources(self, frame: int) -> list[int]:
        """The frames whose transforms a frame is resampled with: its own, or the nearest ones before and after it that
        did not fail, of which one may be missing."""
        if frame not in self.failed:
            return [frame]
        there = [one for one in range(len(self)) if one not in self.failed]
        before, after = [one for one in there if one < frame], [one for one in there if one > frame]
        return [*before[-1:], *after[:1]]

    def found(self, frame: int) -> Found:
        found = self.store.read(name_of(self.last, frame), self.reference, self.frame)
        assert found is not None
        return found

    @cached_property
    def frame(self) -> Image:
        """One of them: all lie on its grid."""
        return self.series[0]

    @cached_property
    def shown(self) -> Tensor:
        """The voxels of the fixed image that show something, (*spatial)."""
        return shown_in(self.fixed)

    def transform(self, frame: int) -> Transform:
        """From the fixed image to the frame."""
        sources = self.sources(frame)
        parts = [self.found(one).transform for one in sources]
        found = parts[0] if parts else identity(self.reference.grid)
        if len(parts) == 2:
            share = (frame - sources[0]) / (sources[1] - sources[0])
            found = between(parts[0], parts[1], share, self.reference.grid)
        across = self.store.read(ACROSS, self.fixed, self.reference)
        return found if across is None else composed(across.transform, found)

    def whole(self, frame: int) -> Image:
        """A frame with all its channels, as it can be resampled: what is NaN or infinite cannot be interpolated."""
        image = (self.companions.whole or self.series)[frame]
        return replace(image, array=finite(image.array)) if frame in self.failed else image

    def in_whole(self, frame: int, image: Image) -> Image:
        """The image as the channel of the frame that was registered, beside the others."""
        whole = self.whole(frame)
        if self.companions.whole is None:
            return image
        array = whole.array.clone()
        array[self.companions.channel] = image.array[0]
        return replace(whole, array=array)

    def warp(self, frame: int, image: Image) -> Image:
        """An image of a frame on the fixed grid; what lies outside has the least value of its channel."""
        registration = self[frame]
        parts = [registration.warp(replace(image, array=one[None])) for one in image.array]
        return replace(parts[0], array=torch.cat([one.array for one in parts]))

    @property
    def denoises(self) -> bool:
        """Whether there are frames without noise."""
        return self.cleaning is not None and self.cleaning.denoises

    @cached_property
    def clean_fixed(self) -> Image:
        """The fixed image without noise."""
        assert self.cleaning is not None
        return self.cleaning(self.fixed).clean

    def clean(self, frame: int) -> Image:
        """A frame as the network sees it without noise."""
        assert self.cleaning is not None
        image = self.series[frame]
        if frame in self.failed:
            return self.cleaning(replace(image, array=finite(image.array))).clean
        return self.cleaning.frame(frame).clean

    def in_reference(self, frame: int, positions: np.ndarray) -> np.ndarray:
        """Positions (count, dims) in a frame's pixels in those of the reference."""
        if not len(positions):
            return positions
        back = self.transform(frame).inverse()
        points = torch.from_numpy(positions)
        world = back.world(self.frame.grid.to_world(points))[0].detach().double()
        moved: np.ndarray = self.fixed.grid.to_voxels(world).numpy()
        return moved

    def __getitem__(self, frame: int) -> Registration:
        image, guidance = self.series[frame], Guidance()
        if frame in self.failed:
            image = replace(image, array=finite(image.array))
        else:
            guidance, _ = self.companions.guidance(frame).fitted(self.fixed, image)
        companions = self.companions.of(frame)
        return Registration(
            self.fixed, image, self.transform(frame), self.method, companions, guidance, self.resampling
        )


def register_series(
    series: Series,
    methods: Sequence[Method],
    fixed: Image | None = None,
    to: str | None = None,
    start: Transform | None = None,
    companions: SeriesCompanions | None = None,
    resampling: Resampling | None = None,
    strict: bool = False,
    safe: bool = False,
    store: Store | None = None,
    consistent: bool = False,
    ahead: Ahead | None = None,
) -> SeriesRegistration:
    """Registers every frame of a series to one image; those that the store has already are not registered again.

    Args:
        fixed: the image that frames are registered to, or, with `to`, that the reference of the frames is registered
            to: each frame is then resampled once, by both transforms.
        to: "first", "last", "previous", "mean" or the number of a frame: the reference is one of the frames' own.
        start: what is known of the transform from the fixed image.
        companions: masks, and what is warped along.
        strict, safe: as for `register_pair`, for each frame.
        consistent: whether frames are also registered to each other, and the affine transforms of all solved together,
            before the methods that find deformations; of frames that have a reference of their own.
        ahead: finds frames of a round, into the store, whose frames do not depend on one another: of the methods that
            come after all matrices were solved together.
    """
    if fixed is None and to is None:
        raise ValueError("fixed must be given, or to: first or mean; there is nothing to register the frames to.")
    own = None if to is None else own_reference(to, len(series))
    companions, store = companions or SeriesCompanions(), InMemory() if store is None else store
    companions.check(series)
    if fixed is not None and fixed.grid.dims != series.grid.dims:
        raise_if(preflight(fixed, series[0]))
    alone = fixed is None or to is None
    cleaning = Cleaning(series, methods)
    count = linear_count(methods)
    together = consistent and to is not None and is_free(methods[:count])
    count = count if together else len(methods)
    guidance = partial(companions.guidance, fixed=alone)
    method = FrameMethod(
        *(series, methods[:count], guidance, start if alone else None, strict, safe, cleaning),
        raw=min(cleaning.raw, count),
    )
    last = 0
    if to is None:
        assert fixed is not None
        reference, failed = fixed, register_frames(method, fixed, store, 0)
    else:
        first = _shown(series, own)
        reference = series[first]
        failed = register_frames(method, reference, store, 0, first, previous=to == "previous")
        for last in range(1, MEANS + 1) if to == "mean" else ():
            reference = mean_of(series, store, last - 1, failed, reference)
            failed = register_frames(method, reference, store, last)
        if together and count:
            last += 1
            settle(method, reference, store, last, failed, None if to == "mean" else first)
        if count < len(methods):
            last += 1
            rest = replace(method, methods=methods[count:], raw=max(0, cleaning.raw - count), settled=count > 0)
            own = None if to == "mean" else first
            if ahead is not None and count:
                ahead(rest, reference, last, own)
            failed = register_frames(rest, reference, store, last, own)
    if len(failed) == len(series):
        raise ValueError(f"no frame of {series.path} could be registered; the first: {failed[0]}")
    if fixed is not None and to is not None and store.read(ACROSS, fixed, reference) is None:
        masks = companions.guidance(None)
        across = register_pair(
            fixed, reference, methods, start, guidance=masks, strict=strict, interruptible=False, safe=safe
        )
        matrix = split(across.transform, fixed.grid.dims)[1]
        found = Found(lambda: across.transform, matrix, findings=tuple(map(str, across.findings)))
        store.write(ACROSS, found, fixed, reference)
    names = ",".join(one.name for one in methods)
    return SeriesRegistration(
        series,
        reference if fixed is None else fixed,
        to or "fixed",
        names,
        store,
        last,
        reference,
        failed,
        companions,
        resampling or Resampling(),
        cleaning,
    )


def own_reference(to: str | int, count: int | None = None, name: str = "to") -> int | None:
    """The frame that the others are registered to, where that is one of them: None of "mean", -1 of "last" if it is not
    known how many there are. `name` is what the option is called."""
    number = {"first": 0, "previous": 0, "last": -1 if count is None else count - 1}.get(str(to))
    if str(to).isdecimal():
        number = int(to)
    if to != "mean" and (number is None or (count is not None and number >= count)):
        most = "" if count is None else f" from 0 to {count - 1}"
        raise ValueError(f"{name} must be first, last, previous, mean or the number of a frame{most}, got {to!r}.")
    return number


def _shown(series: Series, own: int | None) -> int:
    """The frame that the others are registered to at first."""
    for frame in range(len(series)) if own is None else [own]:
        broken = list(broken_values(series[frame]))
        if not broken:
            return frame
    way_out = "It cannot be what the others are registered to: choose mean, or a frame that shows something."
    raise ValueError(f"frame {frame}: {broken[0].message} {'No frame shows anything.' if own is None else way_out}")
