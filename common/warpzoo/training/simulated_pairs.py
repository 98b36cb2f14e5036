"""Pairs of frames of simulated live-cell nuclei, made while training: every one of another nucleus, in other noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from warpzoo.data.appearance import chance, uniform
from warpzoo.data.cells import cell_sequence
from warpzoo.training.lists import Record


class SimulatedPairs(Dataset):
    """Pairs as {"image": (2, *size), "fixed_points", "moving_points": (count, dims) in pixels, "id"}.

    Args:
        size: of the frames.
        motion: smallest and largest mean distance of a nucleus' points in the two frames, as a part of the shortest
            side of a frame.
        radius: smallest and largest, as a part of that side.
        snr: lowest and highest, see `warpzoo.data.cells`.
        neighbours: how often there is a second nucleus.
        seed: pairs do not change from epoch to epoch, for validation.
        count: of pairs.
    """

    data: Sequence[Record] = ()
    """It reads no files."""

    def __init__(
        self,
        size: Sequence[int],
        motion: Sequence[float] = (0.0, 0.2),
        radius: Sequence[float] = (0.18, 0.34),
        snr: Sequence[float] = (0.4, 5.0),
        neighbours: float = 0.2,
        seed: int | None = None,
        count: int = 1000,
    ) -> None:
        self.size = list(size)
        self.motion, self.radius, self.snr, self.neighbours = list(motion), list(radius), list(snr), neighbours
        self.seed, self.count = seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.seed is None:
            return self._made()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + index)
            return self._made()

    def _made(self) -> dict[str, Any]:
        number = int(torch.randint(2**40, ()))
        sequence = cell_sequence(
            "B1" if len(self.size) == 2 else "C",
            shape=self.size,
            frames=2,
            motion=uniform(*self.motion) * min(self.size[-2:]),
            snr=math.exp(uniform(math.log(self.snr[0]), math.log(self.snr[1]))),
            seed=number,
            radius=uniform(*self.radius),
            elastic=uniform(0, 0.2),
            bleaching=uniform(0, 0.5),
            psf=uniform(0.7, 1.6),
            neighbour="stays" if chance(self.neighbours) else None,
        )
        fixed, moving = sequence.points.float()
        return {"image": sequence.noisy.flip(0), "fixed_points": fixed, "moving_points": moving, "id": str(number)}


def with_points(batch: dict[str, Any], device: Any, non_blocking: bool = False, **_: Any) -> tuple[Any, ...]:
    """MONAI's `prepare_batch` for these pairs: the objective also gets the key points."""
    image, *points = (
        batch[key].to(device, non_blocking=non_blocking) for key in ("image", "fixed_points", "moving_points")
    )
    return image, None, tuple(points), {}
