"""Pairs of a fixed and a moving image: which images meet, in which order, and how they come out of a DataLoader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import LoadImage
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from warpzoo.training.lists import Record

PAIRINGS = ("all", "same_group", "to_fixed")


class PairDataset(Dataset):
    """Ordered pairs of images as {"image", "fixed_labels", "moving_labels", "id"}.

    "image" is moving and fixed concatenated as channels, (2, *spatial), float32: what a registration network takes.

    Args:
        data: records of `warpzoo.training.lists`.
        pairing: "all" (every image with every other), "same_group" (with every other of its group) or "to_fixed" (every
            other image onto the one whose id is `fixed`).
        transform: applied to each image's {"image"[, "label"]}, (1, *spatial), before the two are put together.
        cache: whether to keep in memory each image that was read, transformed.
    """

    def __init__(
        self,
        data: Sequence[Record],
        pairing: str = "same_group",
        fixed: str | None = None,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        cache: bool = False,
    ) -> None:
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing is {pairing!r}; it wants one of {PAIRINGS}.")
        if not data:
            raise ValueError("data is empty; it wants at least two images.")
        self.data = list(data)
        self.transform = transform
        self.cached: dict[int, dict[str, Any]] | None = {} if cache else None
        groups: dict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(self.data):
            groups[record["group"] if pairing == "same_group" else ""].append(index)
        self.groups = [np.array(members) for members in groups.values()]
        self.fixed: int | None = None
        if pairing == "to_fixed":
            ids = [record["id"] for record in self.data]
            if fixed not in ids:
                raise ValueError(f"fixed is {fixed!r}; it wants the id of an image, such as {ids[0]!r}.")
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
                f"{tuple(fixed['image'].shape[1:])}; a network wants them on one grid: bring them there by `transform`."
            )
        pair = {"image": torch.cat([moving["image"], fixed["image"]]), "id": f"{moving['id']} -> {fixed['id']}"}
        for name, image in (("fixed_labels", fixed), ("moving_labels", moving)):
            if "label" in image:
                pair[name] = image["label"]
        return pair

    def _member(self, index: int) -> dict[str, Any]:
        if self.cached is None:
            return self._read(index)
        if index not in self.cached:
            self.cached[index] = self._read(index)
        return self.cached[index]

    def _read(self, member: int) -> dict[str, Any]:
        record = self.data[member]
        name = record["id"]
        image: dict[str, Any] = {key: read_array(record[key]) for key in ("image", "label") if key in record}
        if not bool(image["image"].isfinite().all()):
            raise ValueError(f"{name} has NaN or infinite values; an image wants numbers only.")
        if self.transform is not None:
            image = {key: convert_to_tensor(array) for key, array in self.transform(image).items()}
        if image["image"].shape[0] != 1:
            raise ValueError(f"{name} has {image['image'].shape[0]} channels; one is wanted.")
        if bool(image["image"].min() == image["image"].max()):
            raise ValueError(f"{name} is constant ({float(image['image'].max())}); nothing can be registered to it.")
        return image | {"id": name}


def read_array(image: np.ndarray | str | Path) -> Tensor:
    """An image as float32, (channels, *spatial)."""
    if isinstance(image, np.ndarray):
        return torch.from_numpy(image.astype(np.float32))[None]
    return LoadImage(image_only=True, ensure_channel_first=True)(image).as_tensor().float()


class RandomPairs(DistributedSampler):
    """`samples` pairs an epoch, drawn anew for every epoch from seed and epoch alone; shared out among processes."""

    def __init__(self, dataset: PairDataset, samples: int, seed: int = 0) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        super().__init__(dataset, None if distributed else 1, None if distributed else 0, seed=seed)
        self.num_samples = -(-samples // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        drawn = torch.randint(len(self.dataset), (self.num_samples * self.num_replicas,), generator=generator)  # type: ignore[arg-type]
        return iter(drawn[self.rank :: self.num_replicas].tolist())
