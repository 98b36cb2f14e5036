"""Random patches of noisy images for training, augmented by reflections and rotations by right angles only.

Interpolation would correlate the noise of neighbouring pixels, and a blind-spot network would learn to predict it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from warpzoo.checks import check_truth
from warpzoo.images.stacks import ZARR, Stack, open_stack
from warpzoo.training.lists import list_images


def open_stacks(
    source: str | Path | Stack | Sequence[str | Path],
    spatial_dims: int = 2,
    channel: int | None = None,
    time_axis: int | None = None,
    hold_out: float = 0.0,
    held: bool = False,
    without: Sequence[str] = (),
) -> list[Stack]:
    """The stacks of a file, of several, or of every image below a folder but for those of the names `without`; one that
    is open already stays it.

    Of several, a share `hold_out`, one at least, may be kept back to validate on: the `held` ones, or the others.
    """
    if isinstance(source, Stack):
        return [source]
    if isinstance(source, (str, Path)):
        path = Path(source)
        folder = path.is_dir() and not path.name.lower().endswith(ZARR)
        source = [record["image"] for record in list_images(path, without or ())] if folder else [path]
    if count := held_out(len(source), hold_out):
        kept_back = set(np.random.default_rng(0).permutation(len(source))[:count].tolist())
        source = [path for number, path in enumerate(source) if (number in kept_back) == check_truth("held", held)]
    return [open_stack(path, spatial_dims, channel, time_axis) for path in source]


def held_out(count: int, share: float) -> int:
    """How many of so many images are kept back: one at least if there is a share, and never all."""
    if not 0 <= share < 1:
        raise ValueError(f"hold_out must be a share in [0, 1), got {share}.")
    return min(count - 1, max(1, round(share * count))) if share else 0


class Patches(Dataset):
    """`samples` random patches (1, *size) as items {"image": …}, the same for the same seed and process.

    Args:
        data: the stacks, drawn from in proportion to their number of pixels.
        size: pixels along every axis, or one number per axis; a smaller image is extended by reflection.
        samples: number of patches in an epoch.
        seed: of the random patches.
        turn: reflect patches along every axis, and rotate square ones by right angles in the plane of the last two
            axes; not if the PSF or the noise is anisotropic.
    """

    def __init__(
        self,
        data: Sequence[Stack],
        size: int | Sequence[int] = 64,
        samples: int = 2**40,
        seed: int = 0,
        turn: bool = True,
    ) -> None:
        if not data:
            raise ValueError("data must be one stack or more, got none.")
        dims = data[0].dims
        self.data = data
        self.size = [size] * dims if isinstance(size, int) else list(size)
        if len(self.size) != dims:
            raise ValueError(f"size must be one number, or {dims} for images of {dims} spatial axes, got {size}.")
        self.samples = samples
        self.seed = seed
        self.turn = check_truth("turn", turn)
        pixels = np.array([np.prod(stack.shape, dtype=float) for stack in data])
        self.share = np.cumsum(pixels / pixels.sum())

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._patch(np.random.default_rng([self.seed, index, idist.get_rank()]))

    def fixed(self, index: int) -> dict[str, Tensor]:
        """One of the patches to validate on, the same in every process; none of them is an item."""
        return self._patch(np.random.default_rng([self.seed, 2**42 + index]))

    def _patch(self, random: np.random.Generator) -> dict[str, Tensor]:
        patch = self.draw(random, self.size)
        if self.turn:
            patch = np.flip(patch, tuple(axis for axis in range(patch.ndim) if random.random() < 0.5))
            if self.size[-1] == self.size[-2] and random.random() < 0.5:
                patch = patch.swapaxes(-1, -2)
        return {"image": torch.from_numpy(np.ascontiguousarray(patch))[None]}

    def draw(self, random: np.random.Generator, sides: Sequence[int]) -> np.ndarray:
        """A random patch of a random image, not augmented."""
        stack = self.data[min(int(np.searchsorted(self.share, random.random())), len(self.data) - 1)]
        frame = int(random.integers(stack.shape[0]))
        starts = [
            int(random.integers(max(1, size - side + 1))) for size, side in zip(stack.shape[1:], sides, strict=True)
        ]
        return stack.read(frame, tuple(slice(a, a + side) for a, side in zip(starts, sides, strict=True)))

    def sample(self, count: int, scale: int = 1) -> np.ndarray:
        """(count, *size · scale): patches for statistics, not augmented; the same ones at every call."""
        random = np.random.default_rng([self.seed, 2**41])
        return np.stack([self.draw(random, [scale * side for side in self.size]) for _ in range(count)])


class PatchesInOrder(DistributedSampler):
    """`samples` patches an epoch, of all processes together, each epoch those that follow on the last one's."""

    def __init__(self, patches: Patches, samples: int) -> None:
        super().__init__(patches, idist.get_world_size(), idist.get_rank())
        self.num_samples = samples // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        start = max(0, self.epoch - 1) * self.num_samples
        return iter(range(start, start + self.num_samples))
