"""Pairs of frames of simulated live-cell nuclei, made while training, with the places of their key points.

Convention: the axes are those of images that are registered, columns before rows and rows before slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy.ndimage import affine_transform
from torch import Tensor, nn
from torch.utils.data import Dataset

from warpzoo.data.appearance import chance, numbered, uniform
from warpzoo.data.cells import CellSequence, cell_sequence, noisy
from warpzoo.geometry.affine import compose_matrices, invert_affine
from warpzoo.training.lists import Record
from warpzoo.training.pairs import ENDLESS

FRAMES = 3
"""Of each nucleus: the later ones are further from the first."""


class SimulatedPairs(Dataset):
    """Pairs as {"image": (2, *size), "fixed_points", "moving_points": (count, dims) in pixels, "id"}.

    A nucleus is simulated once; every pair shows two of its frames in noise of its own, from any side. A pair follows
    from its index alone, in whatever process it is made.

    Args:
        size: of the frames, columns and rows, or columns, rows and slices.
        motion: smallest and largest mean distance of a nucleus' points from where they are in its first frame, as a
            part of the shorter of columns and rows.
        radius: smallest and largest, as a part of that side.
        snr: lowest and highest, see `warpzoo.data.cells`.
        elastic: smallest and largest mean distance by which its motion is not affine, as a part of its motion.
        neighbours: how often there is a second nucleus.
        aligned: the affine part of the motion between the two frames is undone, but for so many pixels; for a network
            that registers what has been placed. Default: none of it.
        seed: for validation, of one pair of each nucleus, other ones than those of training. Default: for training, of
            as many pairs as may be drawn.
        count: of nuclei.
    """

    data: Sequence[Record] = ()
    """It reads no files."""

    def __init__(
        self,
        size: Sequence[int],
        motion: Sequence[float] = (0.0, 0.2),
        radius: Sequence[float] = (0.18, 0.34),
        snr: Sequence[float] = (0.4, 5.0),
        elastic: Sequence[float] = (0.0, 0.2),
        neighbours: float = 0.2,
        aligned: float | None = None,
        seed: int | None = None,
        count: int = 1000,
    ) -> None:
        self.size = list(size)
        self.motion, self.radius, self.snr, self.elastic = list(motion), list(radius), list(snr), list(elastic)
        self.neighbours, self.aligned = neighbours, aligned
        self.seed, self.count = seed, count
        self.made: dict[int, CellSequence] = {}

    def __len__(self) -> int:
        return ENDLESS if self.seed is None else self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        first = (self.seed or 0) * 1_000_003
        nucleus = first + index % self.count
        if nucleus not in self.made:
            with numbered(nucleus):
                self.made[nucleus] = self._nucleus(nucleus)
        with numbered(first + index):
            return self._seen(self.made[nucleus], str(nucleus))

    def _nucleus(self, number: int) -> CellSequence:
        return cell_sequence(
            "B1" if len(self.size) == 2 else "C",
            shape=self.size[::-1],
            frames=FRAMES,
            motion=uniform(*self.motion) * min(self.size[:2]),
            snr=None,
            seed=number,
            radius=uniform(*self.radius),
            elastic=uniform(*self.elastic),
            bleaching=uniform(0, 0.5),
            psf=uniform(0.7, 1.6),
            neighbour="stays" if chance(self.neighbours) else None,
        )

    def _seen(self, sequence: CellSequence, name: str) -> dict[str, Any]:
        chosen = torch.randperm(FRAMES)[:2]
        snr = math.exp(uniform(math.log(self.snr[0]), math.log(self.snr[1])))
        clean, points = sequence.clean[chosen], sequence.points[chosen]
        if self.aligned is not None:
            moving, fixed = sequence.matrices[chosen].split(1)
            matrix = compose_matrices(invert_affine(fixed), moving)[0]
            clean, points = _aligned(clean, points, matrix, uniform(0, self.aligned))
        image = noisy(clean, snr, int(torch.randint(2**40, ())))
        image, points = image.permute(0, *range(len(self.size), 0, -1)), points.float().flip(2)
        for axis, size in enumerate(self.size):
            if chance(0.5):
                image = image.flip(1 + axis)
                points[:, :, axis] = size - 1 - points[:, :, axis]
        if self.size[0] == self.size[1] and chance(0.5):
            image = image.transpose(1, 2)
            points = points[:, :, [1, 0, *range(2, len(self.size))]]
        return {"image": image.contiguous(), "moving_points": points[0], "fixed_points": points[1], "id": name}


def _aligned(clean: Tensor, points: Tensor, matrix: Tensor, apart: float) -> tuple[Tensor, Tensor]:
    """The moving frame, the first one, and its points brought onto the fixed one by an affine map from fixed to moving
    pixels; it ends so many pixels wrong."""
    linear, shift = matrix[:, :-1], matrix[:, -1]
    shift = shift + linear @ (apart * nn.functional.normalize(torch.randn_like(shift), dim=0))
    placed = affine_transform(clean[0].numpy(), linear.numpy(), shift.numpy(), order=1, mode="nearest")
    there = (points[0] - shift) @ linear.inverse().T
    return torch.stack([torch.as_tensor(placed), clean[1]]), torch.stack([there, points[1]])


def with_points(batch: dict[str, Any], device: Any, non_blocking: bool = False, **_: Any) -> tuple[Any, ...]:
    """MONAI's `prepare_batch`: the objective also gets the key points, where there are any."""
    names = [name for name in ("fixed_points", "moving_points") if name in batch]
    image, *points = (batch[name].to(device, non_blocking=non_blocking) for name in ("image", *names))
    return image, None, tuple(points), {}
