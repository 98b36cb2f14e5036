"""`warpzoo.register_sequence`: frames of a microscope as programs hold them in, and the result likewise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.images.image import Image
from warpzoo.images.resampling import Resampling
from warpzoo.images.series import Series, WrittenSeries, channel_number, open_series, open_timed
from warpzoo.images.source import PixelSize, Source, in_pixels
from warpzoo.registration.computing import computing
from warpzoo.registration.sequence import STEPS, prepared, sequence_methods, time_axis_of, usual_method
from warpzoo.registration.series import SeriesCompanions, own_reference
from warpzoo.registration.series import register_series as register_frames
from warpzoo.registration.series_interface import SeriesResult
from warpzoo.registration.series_results import SEQUENCE

AXES = {3: "TYX", 4: "TZYX", 5: "TZCYX"}


def register_sequence(
    frames: Any,
    method: str | None = None,
    *,
    axes: str | None = None,
    reference: str | int = "first",
    channel: int | str | None = None,
    points: str | Path | None = None,
    roi: str | Sequence[int] | np.ndarray | None = None,
    train: str | None = None,
    refine: str | float = STEPS,
    resolution: float | None = None,
    consistent: bool = True,
    time_axis: int | None = None,
    pixel_size: float | Sequence[float] | None = None,
    seconds: float | None = None,
    interpolation: str = "linear",
    outside: float | None = None,
    strict: bool = False,
    safe: bool = False,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    weights: str | None = None,
    variant: str | None = None,
) -> SeriesResult:
    """Registers the frames of a time-lapse to one of them, as the command `warpzoo sequence` does.

    Args:
        frames: an array or tensor, one of dask or zarr (whose frames are read when they are needed), a list of frames,
            or the path of a file or of a folder of numbered files.
        method: a chain of methods, see `warpzoo methods`; default: a network that denoises, or affine.
        axes: of the array, the slowest first; default: TYX, TZYX or, with a channel, TCYX, or TZCYX.
        reference: "first", "last", "previous", "mean" or the number of a frame.
        channel: which of several channels is registered, by its number or its name in an OME-TIFF; all are warped by
            what it gives.
        points, train, refine, resolution, consistent, time_axis, safe: as of the command; what `train` learns is not
            kept. Positions in an array are taken along by `moved` of the result.
        roi: where the reference is compared: (x, y, width, height), an array of its shape that is above 0 there, or as
            of the command.
        pixel_size: of an array, one number, (x, y) or (x, y, z) in µm, for what is saved.
        seconds: from one frame of an array to the next, likewise.

    Returns:
        a result with `warped` and `denoised`, arrays with the axes of what went in, `matrices`, `frames` (numbers of
        each), `flagged`, `moved(frame, positions)` and `save(folder)`.

    Example:
        >>> result = warpzoo.register_sequence(frames, "affine")
        >>> result.warped, result.matrices[7], result.flagged
    """
    if points is not None and not isinstance(points, (str, Path)):
        raise ValueError(
            f"points must be the path of a table, got {type(points).__name__}: the result's `moved` takes arrays."
        )
    if isinstance(frames, (str, Path)):
        source = open_timed(frames, channels=True)
    else:
        source = source_of(frames, axes, channel, pixel_size, seconds)
    channel = channel_number(source, channel)
    axis = time_axis_of(source)[0] if time_axis is None else time_axis
    series = open_series(source, time_axis=axis, channel=channel)
    whole = None if channel is None else open_series(source, time_axis=axis, channels=True)
    own_reference(reference, len(series), SEQUENCE.reference)
    resampling = Resampling(interpolation, outside)
    resampling.check(series.header.dtype)
    chain = method or usual_method(series.grid.dims)
    methods = sequence_methods(chain, refine, weights, variant, device, resolution=resolution)
    given: dict[str, Any] = {"series": series, "companions": SeriesCompanions(whole=whole, channel=channel or 0)}
    with computing(seed, threads), TemporaryDirectory() as folder:
        learnt = Path(folder) / "learnt"
        learnt.mkdir()
        prepared(given, methods, region(roi, series), None if points is None else Path(points), train, seed, learnt)
        done = register_frames(
            **given,
            methods=methods,
            to=str(reference),
            resampling=resampling,
            strict=strict,
            safe=safe,
            consistent=consistent,
        )
    tensor = isinstance(frames, Tensor)
    return SeriesResult(done, lambda images: _joined(whole or series, images, frames if tensor else None), SEQUENCE)


def region(roi: str | Sequence[int] | np.ndarray | None, series: Series) -> str | Image | None:
    """A region as `prepared` takes it."""
    if roi is None or isinstance(roi, str):
        return roi
    values = np.asarray(roi)
    if values.ndim == 1:
        return ",".join(map(str, values.tolist()))
    if values.shape != series.grid.shape[::-1]:
        raise ValueError(f"roi must have the shape of a frame, {series.grid.shape[::-1]}, got {values.shape}.")
    return Image(torch.from_numpy((values.T > 0)[None].astype(np.float32)), series.grid, series.header)


class Lazy:
    """What another library reads of an array when it is indexed."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self.values[index])


def source_of(
    frames: Any,
    axes: str | None,
    channel: int | str | None,
    pixel_size: float | Sequence[float] | None,
    seconds: float | None,
) -> Source:
    """An array as a file would hold it."""
    values = frames
    if isinstance(frames, (list, tuple)):
        shapes = {np.shape(frame) for frame in frames}
        if len(shapes) != 1:
            raise ValueError(f"frames must be of one shape, got {', '.join(map(str, sorted(shapes))) or 'none'}.")
        values = np.stack([np.asarray(frame) for frame in frames])
    elif isinstance(frames, Tensor):
        values = frames.detach().cpu().numpy()
    dtype = getattr(values, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf":
        got = type(frames).__name__ if dtype is None else f"{type(frames).__name__} of {dtype}"
        raise ValueError(f"frames must be a path or an array of real numbers, got {got}.")
    if dtype.kind == "b":
        values = np.asarray(values).astype(np.uint8)
    named = (axes or "").upper() or ("TCYX" if values.ndim == 4 and channel is not None else AXES.get(values.ndim, ""))
    if len(named) != values.ndim or len(set(named)) != len(named) or "T" not in named:
        raise ValueError(
            f"axes must be a letter for each of {values.ndim} axes, T among them, such as TYX or TCYX, got {named!r} "
            f"for frames of shape {values.shape}."
        )
    sides = [pixel_size] * 3 if isinstance(pixel_size, (int, float)) else [*(pixel_size or ())]
    x, y, z = (*sides, *[1.0] * 3)[:3]
    pixel = None if pixel_size is None else PixelSize(x, y, z, "µm")
    stored = values if isinstance(values, np.ndarray) else Lazy(values)
    return in_pixels(Path("frames"), named, values.shape, values.dtype, stored, {}, seconds, pixel)


def _joined(series: Series, images: list[Image], like: Tensor | None) -> Any:
    """Frames as one array, of the type and with the axes that they came in."""
    assert series.stack is not None
    layout = series.stack.layout
    joined = np.zeros(layout.sizes[::-1], series.header.dtype)
    written = WrittenSeries(joined, layout)
    for frame, image in enumerate(images):
        written.put(frame, image)
    return joined if like is None else like.new_tensor(joined)
