"""Pairs of a fixed and a moving image: which images meet, in which order, and how they come out of a DataLoader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from warpzoo.training.cache import Cache
from warpzoo.training.lists import Record
from warpzoo.training.processes import are_several
from warpzoo.training.reading import arrays_of, common_spacing, images_of

PAIRINGS = ("all", "same_group", "to_fixed")
ENDLESS = 2**40
"""How many pairs a dataset has that makes them: so many that hardly any is drawn twice."""


class PairDataset(Dataset):
    """Ordered pairs of images as {"image", "fixed_labels", "moving_labels", "id"}.

    "image" is moving and fixed concatenated as channels, (2, *spatial), float32: what a registration network takes.
    Label maps are whole numbers, (1, *spatial).

    Args:
        data: records of `warpzoo.training.lists`.
        pairing: "all" (every image with every other), "same_group" (with every other of its group) or "to_fixed" (every
            other image onto the one whose id is `fixed`).
        transform: applied to each image's {"image"[, "label"]}, (1, *spatial), before the two are put together.
        cache: how many gigabytes of the images that were read, transformed, are kept in memory; None for as many as fit
            into half of the memory that is free.
        spacing: millimetres between voxels, one number or one per RAS axis, to which images with a place in the world
            are resampled (label maps by the nearest voxel); by default the median of the list's along each axis if
            they differ by more than 1 %, and no resampling if not.
    """

    def __init__(
        self,
        data: Sequence[Record],
        pairing: str = "same_group",
        fixed: str | None = None,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        cache: float | None = 0.0,
        spacing: float | Sequence[float] | None = None,
    ) -> None:
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing must be one of {PAIRINGS}, got {pairing!r}.")
        if not data:
            raise ValueError("data must list at least two images, got none.")
        self.data = list(data)
        self.pairing = pairing
        self.transform = transform
        self.spacing = spacing
        self.cache = Cache(cache)
        groups: dict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(self.data):
            groups[record["group"] if pairing == "same_group" else ""].append(index)
        self.groups = [np.array(members) for members in groups.values()]
        self.fixed: int | None = None
        if pairing == "to_fixed":
            ids = [record["id"] for record in self.data]
            if fixed not in ids:
                raise ValueError(f"fixed must be the id of an image, such as {ids[0]!r}, got {fixed!r}.")
            self.fixed = ids.index(fixed)
            self.ends = np.array([len(self.data) - 1])
        else:
            self.ends = np.cumsum([len(members) * (len(members) - 1) for members in self.groups])
        if len(self) == 0:
            raise ValueError(f"no two of the {len(self.data)} images can be paired by {pairing!r}.")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def members(self, index: int) -> tuple[int, int]:
        """Which images pair `index` is made of: (fixed, moving)."""
        if self.fixed is not None:
            return self.fixed, index + (index >= self.fixed)
        which = int(np.searchsorted(self.ends, index, side="right"))
        group = self.groups[which]
        first, second = divmod(index - (int(self.ends[which - 1]) if which else 0), len(group) - 1)
        return int(group[first]), int(group[second + (second >= first)])

    def __getitem__(self, index: int) -> dict[str, Any]:
        fixed, moving = (self._member(member) for member in self.members(index))
        if moving["image"].shape != fixed["image"].shape:
            raise ValueError(
                f"moving {moving['id']} has size {tuple(moving['image'].shape[1:])} and fixed {fixed['id']} "
                f"{tuple(fixed['image'].shape[1:])}; they must have one size: bring them to it by `transform`."
            )
        pair = {"image": torch.cat([moving["image"], fixed["image"]]), "id": f"{moving['id']} -> {fixed['id']}"}
        for name, image in (("fixed_labels", fixed), ("moving_labels", moving)):
            if "label" in image:
                pair[name] = image["label"]
        return pair

    def fill(self) -> None:
        """Reads all images that the cache has room for: before there are worker processes, which share them then."""
        for index in range(len(self.data)):
            if self.cache.used < self.cache.bound:
                self._member(index)

    def _member(self, index: int) -> dict[str, Any]:
        if index in self.cache.kept:
            return self.cache.kept[index]
        image = self._read(index)
        self.cache.add(index, image)
        return image

    @cached_property
    def resampled_to(self) -> float | Sequence[float] | None:
        return common_spacing(self.data) if self.spacing is None else self.spacing

    def _read(self, member: int) -> dict[str, Any]:
        record = self.data[member]
        name = record["id"]
        image = arrays_of(record, self.resampled_to)
        if not bool(image["image"].isfinite().all()):
            raise ValueError(f"{name} must hold finite numbers, got NaN or infinite values.")
        if self.transform is not None:
            image = {key: convert_to_tensor(array) for key, array in self.transform(image).items()}
        if image["image"].shape[0] != 1:
            raise ValueError(f"{name} must have one channel, got {image['image'].shape[0]}.")
        if _is_constant(image["image"]):
            value = float(image["image"].max())
            if _is_constant(images_of(record)["image"].array):
                raise ValueError(f"{name} is constant ({value}); nothing can be registered to it.")
            raise ValueError(
                f"{name} is constant ({value}) once it is resampled, and padded or cropped: choose another spacing or "
                f"size."
            )
        return image | {"id": name}


def _is_constant(image: Tensor) -> bool:
    return bool(image.min() == image.max())


class RandomPairs(DistributedSampler):
    """`samples` pairs an epoch, drawn anew for every epoch from seed and epoch alone; shared out among processes."""

    def __init__(self, dataset: Dataset, samples: int, seed: int = 0) -> None:
        super().__init__(dataset, None if are_several() else 1, None if are_several() else 0, seed=seed)
        self.num_samples = -(-samples // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        drawn = torch.randint(len(self.dataset), (self.num_samples * self.num_replicas,), generator=generator)  # type: ignore[arg-type]
        return iter(drawn[self.rank :: self.num_replicas].tolist())
