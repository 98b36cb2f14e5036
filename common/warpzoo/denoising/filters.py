"""Classical filters, for comparison and for quick results, from scipy and scikit-image.

Their one size is in pixels (Gaussian: the standard deviation; median, box and box3d: the side), or in standard
deviations of the noise (nlm, tv, wavelet: their strength). By default it is found without a clean image, by
J-invariance: the size with which the filter best predicts pixels that it does not see (Batson & Royer 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage import restoration
from tqdm import tqdm

from warpzoo.denoising.tiles import plan_tiles
from warpzoo.images.stacks import Stack, Window, Written, create_like

CALIBRATION = 256
"""Side, in pixels, of the window on which sizes are chosen."""


@dataclass(frozen=True)
class Filter:
    """`apply(image, size, noise)` with the noise's standard deviation; candidate sizes; the reach in pixels.

    A reach of None is the whole image: frames are then not divided into tiles.
    """

    apply: Callable[[np.ndarray, float, float], np.ndarray]
    sizes: tuple[float, ...]
    reach: Callable[[float], int] | None


def _gaussian(image: np.ndarray, size: float, _: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, size)


def _median(image: np.ndarray, size: float, _: float) -> np.ndarray:
    return ndimage.median_filter(image, int(size))


def _box(image: np.ndarray, size: float, _: float) -> np.ndarray:
    return ndimage.uniform_filter(image, int(size))


def _nlm(image: np.ndarray, size: float, noise: float) -> np.ndarray:
    return restoration.denoise_nl_means(image, patch_size=5, patch_distance=7, h=size * noise, fast_mode=True)


def _tv(image: np.ndarray, size: float, noise: float) -> np.ndarray:
    return restoration.denoise_tv_chambolle(image, weight=size * noise)


def _wavelet(image: np.ndarray, size: float, noise: float) -> np.ndarray:
    return restoration.denoise_wavelet(image, sigma=size * noise, wavelet="db2", mode="soft", method="BayesShrink")


STRENGTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
FILTERS = {
    "gaussian": Filter(_gaussian, tuple(np.arange(0.5, 4.05, 0.1).round(1).tolist()), lambda size: int(4 * size + 0.5)),
    "median": Filter(_median, (3, 5, 7, 9), lambda size: int(size)),
    "box": Filter(_box, (3, 5, 7, 9), lambda size: int(size)),
    "box3d": Filter(_box, (3, 5, 7), lambda size: int(size)),
    "nlm": Filter(_nlm, STRENGTHS, lambda size: 16),
    "tv": Filter(_tv, STRENGTHS, None),
    "wavelet": Filter(_wavelet, STRENGTHS, None),
}
SIDES = ("median", "box", "box3d")
"""Filters whose size is the side of a window."""


@dataclass(frozen=True)
class Filtering:
    """A filter of a size for an image with that much noise, in tiles of so many pixels a side, or whole frames."""

    method: str
    size: float
    noise: float
    tile: int

    def __call__(
        self, stack: Stack, written: Written, frames: Iterable[int] | None = None, window: Window | None = None
    ) -> None:
        """Writes the filtered stack, or a window of some frames of it, tile by tile."""
        chosen = FILTERS[self.method]
        reach = 0 if chosen.reach is None else chosen.reach(self.size)
        tiles = plan_tiles(stack.shape, self.tile, reach, 1, frames, window)
        for one in tqdm(tiles, desc="Filtering", unit="tile", disable=None):
            filtered = chosen.apply(stack.read(one.frame, one.read), self.size, self.noise)
            written.put(one.frame, one.keep, one.core(filtered).astype(np.float32))


def filter_stack(
    stack: Stack,
    output: str | Path | np.ndarray,
    method: str,
    size: float | None = None,
    dtype: str | None = None,
    tile: int = 1024,
) -> float:
    """Writes the filtered stack, tile by tile; returns the size that was used."""
    filtering = filtering_of(stack, method, size, tile)
    with create_like(stack, output, dtype) as written:
        filtering(stack, written)
    return filtering.size


def filtering_of(stack: Stack, method: str, size: float | None = None, tile: int = 1024) -> Filtering:
    """The filter of that size, or of the one that is best for the stack."""
    if method == "box3d" and stack.dims != 3:
        raise ValueError(f"spatial_dims must be 3 for the filter box3d, got 2-D images ({stack.path}).")
    window = busiest_window(stack)
    noise = noise_deviation(window)
    if size is None:
        size = choose_size(window, method, noise)
    if not size > 0:
        raise ValueError(f"size must be above 0, got {size}.")
    if method in SIDES and (size != int(size) or size % 2 == 0):
        raise ValueError(f"size must be an odd number of pixels for {method}, got {size:g} (no centre).")
    return Filtering(method, size, noise, max(stack.shape) if FILTERS[method].reach is None else tile)


def choose_size(image: np.ndarray, method: str, noise: float) -> float:
    """The size that best predicts unseen pixels of the image."""
    chosen = FILTERS[method]

    def apply(image: np.ndarray, size: float) -> np.ndarray:
        return chosen.apply(image, size, noise)

    _, (parameters, losses) = restoration.calibrate_denoiser(
        image.astype(np.float64), apply, {"size": list(chosen.sizes)}, approximate_loss=True, extra_output=True
    )
    return float(parameters[int(np.argmin(losses))]["size"])


def noise_deviation(image: np.ndarray) -> float:
    """Standard deviation of the noise, from second differences along all axes, which suppress structure."""
    difference = image.astype(np.float64)
    for axis in range(image.ndim):
        if image.shape[axis] > 2:
            difference = np.diff(difference, n=2, axis=axis) / math.sqrt(6)
    return float(difference.std())


def busiest_window(stack: Stack) -> np.ndarray:
    """The window with the most structure out of a few random ones, on which sizes are chosen."""
    sides = [min(size, CALIBRATION if stack.dims == 2 else CALIBRATION // 4) for size in stack.shape[1:]]
    random = np.random.default_rng(0)
    windows = []
    for _ in range(16):
        starts = [int(random.integers(size - side + 1)) for size, side in zip(stack.shape[1:], sides, strict=True)]
        window = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        windows.append(stack.read(int(random.integers(stack.shape[0])), window))
    return max(windows, key=lambda window: float(ndimage.uniform_filter(window, 5).std()))
