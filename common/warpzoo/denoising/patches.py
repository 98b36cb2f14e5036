"""Patches of noisy images to train on: drawn at random from stacks, mirrored and turned by right angles only.

Anything that interpolates would mix the noise of neighbouring pixels, and a blind-spot network would learn it.
"""

from __future__ import annotations

from collections.abc import Sequence

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from warpzoo.checks import check_truth
from warpzoo.denoising.stacks import Stack


class Patches(Dataset):
    """`samples` random patches (1, *size) as items {"image": …}, the same for the same seed and process.

    Args:
        data: the stacks; each is drawn from as often as it has pixels.
        size: pixels along every axis, or one number per axis; beyond the edge of a smaller image is its mirror image.
        samples: how many.
        seed: of what is drawn.
        turn: mirror patches along every axis, and turn square ones by right angles in the plane of the last two axes;
            not where the PSF or the noise has a direction.
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
            raise ValueError("there is no image to draw patches from.")
        dims = data[0].dims
        self.data = data
        self.size = [size] * dims if isinstance(size, int) else list(size)
        if len(self.size) != dims:
            raise ValueError(f"size is {size}; the images have {dims} spatial axes.")
        self.samples = samples
        self.seed = seed
        self.turn = check_truth("turn", turn)
        pixels = np.array([np.prod(stack.shape, dtype=float) for stack in data])
        self.share = np.cumsum(pixels / pixels.sum())

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = np.random.default_rng([self.seed, index, idist.get_rank()])
        patch = self.draw(random, self.size)
        if self.turn:
            patch = np.flip(patch, tuple(axis for axis in range(patch.ndim) if random.random() < 0.5))
            if self.size[-1] == self.size[-2] and random.random() < 0.5:
                patch = patch.swapaxes(-1, -2)
        return {"image": torch.from_numpy(np.ascontiguousarray(patch))[None]}

    def draw(self, random: np.random.Generator, sides: Sequence[int]) -> np.ndarray:
        """A patch as it lies in an image."""
        stack = self.data[min(int(np.searchsorted(self.share, random.random())), len(self.data) - 1)]
        frame = int(random.integers(stack.shape[0]))
        starts = [
            int(random.integers(max(1, size - side + 1))) for size, side in zip(stack.shape[1:], sides, strict=True)
        ]
        return stack.read(frame, tuple(slice(a, a + side) for a, side in zip(starts, sides, strict=True)))

    def sample(self, count: int, scale: int = 1) -> np.ndarray:
        """(count, *size · scale): patches as they lie in the images, for statistics; the same ones every time."""
        random = np.random.default_rng([self.seed, 2**41])
        return np.stack([self.draw(random, [scale * side for side in self.size]) for _ in range(count)])
