"""`warpzoo.register_series`: images with time as programs hold them in, and the result as what went in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.transforms import Transform
from warpzoo.images.conversion import as_image, as_image_of, is_array
from warpzoo.images.image import Image
from warpzoo.images.resampling import Resampling
from warpzoo.images.series import Series, open_series
from warpzoo.registration.computing import computing
from warpzoo.registration.interface import known_start
from warpzoo.registration.methods import find_methods
from warpzoo.registration.results import chosen_outputs
from warpzoo.registration.series import OF_FRAMES, SeriesCompanions, SeriesRegistration
from warpzoo.registration.series import register_series as register_frames
from warpzoo.registration.series_measures import Registered, flags, matrix_in_pixels, row_of
from warpzoo.registration.series_results import SERIES, Names
from warpzoo.transforms.placed import PlacedTransform

Back = Callable[[list[Image]], Any]


@dataclass(frozen=True)
class SeriesResult:
    """What `warpzoo.register_series` gives; frames count from 0.

    registration: the same in the package's own terms; `registration[frame]` is that of a frame.
    """

    registration: SeriesRegistration
    _back: Back
    names: Names = SERIES

    @cached_property
    def warped(self) -> Any:
        """The frames on the fixed image's grid, of the kind that the moving image came as; for a path, a list of
        `warpzoo.Image`."""
        done = self.registration
        if done.companions.whole is None:
            return self._back([done[frame].warped for frame in range(len(done))])
        return self._back([done.warp(frame, done.whole(frame)) for frame in range(len(done))])

    @cached_property
    def denoised(self) -> Any:
        """The frames as `warped`, denoised by the network; of one channel, the others are as they were."""
        done = self.registration
        if not done.denoises:
            raise ValueError(f"denoised must be asked of a method that denoises, got {done.method}.")
        clean = (done.in_whole(frame, done.clean(frame)) for frame in range(len(done)))
        return self._back([done.warp(frame, image) for frame, image in enumerate(clean)])

    @cached_property
    def matrices(self) -> np.ndarray:
        """(frames, dims + 1, dims + 1), from pixels of the fixed image to pixels of the frames, x first: as
        `skimage.transform.warp` takes them. Of a transform that is no matrix, the nearest one."""
        done = self.registration
        return np.stack([matrix_in_pixels(done[frame]) for frame in range(len(done))])

    def moved(self, frame: int, positions: np.ndarray) -> np.ndarray:
        """Positions (count, dims) in a frame's pixels, x first, in those of the fixed image."""
        return self.registration.in_reference(frame, np.asarray(positions, float))

    @cached_property
    def transforms(self) -> list[PlacedTransform]:
        """Of every frame; of one that failed what lies between those of its neighbours."""
        done = self.registration
        return [PlacedTransform(done.transform(frame), done.fixed, done.frame) for frame in range(len(done))]

    @cached_property
    def frames(self) -> list[dict[str, Any]]:
        """The numbers of every frame, as in frames.csv: motion, likeness before and after, whether it is ok."""
        done, rows = self.registration, list[dict[str, Any]]()
        before: Registered | None = None
        for frame in range(len(done)):
            registration = done[frame]
            clean = registration.warp(done.clean(frame)) if done.denoises else None
            registered = Registered.of(registration, clean)
            rows.append(row_of(done, frame, registered, before))
            before = registered if rows[-1]["ok"] else before
        return rows

    @property
    def flagged(self) -> dict[int, str]:
        """Of each frame that failed, or is unlike the others after it was registered, a sentence."""
        return flags(self.registration, self.frames)

    @property
    def reference(self) -> Image:
        """What the frames were registered to: the fixed image, the first frame or the mean."""
        return self.registration.reference

    def save(self, folder: str | Path, report: bool = True, only: str | Sequence[str] | None = None) -> Path:
        """Writes into a folder what the command writes, `only` some of it ("warped,transform"); returns the folder."""
        from warpzoo.registration.results import SEQUENCE_OUTPUTS, SERIES_OUTPUTS
        from warpzoo.registration.series_results import write_series

        done = self.registration
        paths = {"fixed": done.fixed.header.path, "moving": done.series.path}
        files = {role: path for role, path in paths.items() if path.exists()}
        usual = SERIES_OUTPUTS if self.names is SERIES else SEQUENCE_OUTPUTS
        write_series(Path(folder), done, files, {}, chosen_outputs(only or usual, report), names=self.names)
        return Path(folder)


def register_series(
    moving: Any,
    fixed: Any = None,
    to: str | None = None,
    method: str = OF_FRAMES,
    *,
    spacing: float | Sequence[float] | None = None,
    time_axis: int | None = None,
    start: PlacedTransform | str | Path | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    channels: bool = False,
    similarity: str | None = None,
    refine: str | float = 0,
    adapt: str | float = 0,
    weights: str | None = None,
    variant: str | None = None,
    device: str | None = None,
    resolution: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    interpolation: str = "linear",
    outside: float | None = None,
    strict: bool = False,
    safe: bool = False,
) -> SeriesResult:
    """Registers every frame of a moving image with time to one image.

    Args:
        moving: a path, an array or tensor (time, *spatial), a list of images of any kind that `warpzoo.register` takes,
            or a 4-D image of nibabel.
        fixed: the image that each frame is registered to; with `to`, the one that the frames' own reference is
            registered to.
        to: "first", "last", "previous", "mean" or the number of a frame: what the frames are registered to; their mean
            is made anew twice.
        method: as of `warpzoo.register`, as are the arguments that are not named here.
        spacing: of arrays and tensors.
        time_axis: which axis of a file or an array is time, counted from 0; default: what the file says, 0 of arrays.
        start: what is known of the transform from the fixed image.
        fixed_mask: above 0 where the fixed image (without one the frames' own reference) is to be compared, for all
            frames.
        moving_mask: likewise of every frame: one image for all, or a path of a series.
        channels: whether frames have several channels; arrays are then (time, channels, *spatial).

    Example:
        >>> result = warpzoo.register_series(frames, to="mean", method="rigid")
        >>> result.warped, result.frames[3]["shift_x"], result.transforms[3].apply(labels=labels)
    """
    resampling = Resampling(interpolation, outside)
    methods = find_methods(method, similarity, refine, adapt, weights, variant, device, resolution)
    series, back = as_series(moving, spacing, channels, time_axis)
    image = (
        None if fixed is None else as_image(fixed, spacing if is_array(fixed) else None, "fixed", False, channels)[0]
    )
    reference = series[0] if image is None else image
    masks: dict[str, Image | Series] = {}
    if fixed_mask is not None:
        masks["fixed"] = as_image_of(fixed_mask, reference, None, "fixed_mask")[0]
    if moving_mask is not None:
        masks["moving"] = as_image_of(moving_mask, series[0], None, "moving_mask")[0]
    known: Transform | None = known_start(start, reference, series[0])
    with computing(seed, threads):
        done = register_frames(
            series, methods, image, to, known, SeriesCompanions(masks), resampling, strict=strict, safe=safe
        )
    return SeriesResult(done, back)


def as_series(
    moving: Any, spacing: float | Sequence[float] | None, channels: bool, time_axis: int | None
) -> tuple[Series, Back]:
    """The frames, and what makes of as many images what they came as."""
    if isinstance(moving, (str, Path)):
        return open_series(moving, channels=channels, time_axis=time_axis), lambda images: images
    if is_array(moving):
        axis = 0 if time_axis is None else time_axis
        if not 0 <= axis < moving.ndim:
            raise ValueError(f"time_axis must be in [0, {moving.ndim - 1}], got {time_axis}.")
        frames = moving.movedim(axis, 0) if isinstance(moving, Tensor) else np.moveaxis(moving, axis, 0)
        series, one = _of_list([*frames], spacing, channels)
        return series, lambda images: _stacked([one(image) for image in images], axis)
    if time_axis is not None:
        raise ValueError(f"time_axis must only be given with a file or an array, got {time_axis}.")
    if type(moving).__module__.partition(".")[0] == "nibabel":
        if len(moving.shape) < 4:
            raise ValueError(f"moving must have four axes, the last of which is time, got shape {moving.shape}.")
        series, one = _of_list([moving.slicer[:, :, :, frame] for frame in range(moving.shape[3])], None, channels)
        return series, lambda images: _joined(moving, [one(image) for image in images])
    if not isinstance(moving, Sequence):
        raise ValueError(f"moving must be a path, an array or a list of images, got {type(moving).__name__}.")
    series, one = _of_list(moving, spacing, channels)
    return series, lambda images: [one(image) for image in images]


def _stacked(frames: list[Any], axis: int) -> Any:
    return torch.stack(frames, axis) if isinstance(frames[0], Tensor) else np.stack(frames, axis)


def _joined(like: Any, frames: list[Any]) -> Any:
    joined = type(like)(np.stack([np.asanyarray(one.dataobj) for one in frames], 3), frames[0].affine)
    joined.header.set_zooms((*joined.header.get_zooms()[:3], *like.header.get_zooms()[3:4]))
    return joined


def _of_list(
    frames: Sequence[Any], spacing: float | Sequence[float] | None, channels: bool
) -> tuple[Series, Callable[[Image], Any]]:
    if len(frames) < 2:
        raise ValueError(f"moving must have two frames or more, got {len(frames)}.")

    def converted(frame: int) -> tuple[Image, Callable[[Image], Any]]:
        one = frames[frame]
        return as_image(one, spacing if is_array(one) else None, "moving", False, channels)

    first, back = converted(0)

    def read(frame: int) -> Image:
        image = converted(frame)[0]
        if image.grid != first.grid:
            raise ValueError(f"frames must lie on one grid, got {first.grid} and, of frame {frame}, {image.grid}.")
        return image

    return Series(Path("moving"), len(frames), first.grid, first.header, read), back
