"""Pairs of a fixed and a moving image: which images meet, in which order, and how they come out of a DataLoader.

Convention: images with a place in the world come in the order of RAS axes, at one spacing, so that equal places of two
arrays are comparable places; pictures in pixels and arrays come as they are.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, ResizeWithPadOrCropd
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from warpzoo.checks import check_truth
from warpzoo.images.image import open_image, read_image
from warpzoo.images.orientation import SAME_SPACING, canonical, canonical_grid
from warpzoo.training.lists import Record
from warpzoo.training.processes import are_several

logger = logging.getLogger(__name__)

PAIRINGS = ("all", "same_group", "to_fixed")


class PairDataset(Dataset):
    """Ordered pairs of images as {"image", "fixed_labels", "moving_labels", "id"}.

    "image" is moving and fixed concatenated as channels, (2, *spatial), float32: what a registration network takes.
    Label maps are whole numbers, (1, *spatial).

    Args:
        data: records of `warpzoo.training.lists`.
        pairing: "all" (every image with every other), "same_group" (with every other of its group) or "to_fixed" (every
            other image onto the one whose id is `fixed`).
        transform: applied to each image's {"image"[, "label"]}, (1, *spatial), before the two are put together.
        cache: whether to keep in memory each image that was read, transformed.
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
        cache: bool = False,
        spacing: float | Sequence[float] | None = None,
    ) -> None:
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing must be one of {PAIRINGS}, got {pairing!r}.")
        if not data:
            raise ValueError("data must list at least two images, got none.")
        self.data = list(data)
        self.transform = transform
        self.spacing = spacing
        self.cached: dict[int, dict[str, Any]] | None = {} if check_truth("cache", cache) else None
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

    def _member(self, index: int) -> dict[str, Any]:
        if self.cached is None:
            return self._read(index)
        if index not in self.cached:
            self.cached[index] = self._read(index)
        return self.cached[index]

    @cached_property
    def resampled_to(self) -> float | Sequence[float] | None:
        return common_spacing(self.data) if self.spacing is None else self.spacing

    def _read(self, member: int) -> dict[str, Any]:
        record = self.data[member]
        name = record["id"]
        image = self._arrays(record)
        if not bool(image["image"].isfinite().all()):
            raise ValueError(f"{name} must hold finite numbers, got NaN or infinite values.")
        if self.transform is not None:
            image = {key: convert_to_tensor(array) for key, array in self.transform(image).items()}
        if image["image"].shape[0] != 1:
            raise ValueError(f"{name} must have one channel, got {image['image'].shape[0]}.")
        if bool(image["image"].min() == image["image"].max()):
            raise ValueError(f"{name} is constant ({float(image['image'].max())}); nothing can be registered to it.")
        return image | {"id": name}

    def _arrays(self, record: Record) -> dict[str, Tensor]:
        """{"image"[, "label"]}, (1, *spatial)."""
        arrays, images = {}, {}
        for key in ("image", "label"):
            if isinstance(record.get(key), np.ndarray):
                dtype = np.float32 if key == "image" else np.int64
                arrays[key] = torch.from_numpy(record[key].astype(dtype))[None]
            elif key in record:
                images[key] = read_image(record[key], labels=key == "label")
        placed = [image for image in images.values() if not image.header.pixels]
        if len(placed) == 2 and placed[0].grid != placed[1].grid:
            raise ValueError(
                f"{placed[1].header.path} must have the grid of {placed[0].header.path}, {placed[0].grid}, got "
                f"{placed[1].grid}."
            )
        for key, image in images.items():
            if not image.header.pixels:
                image = canonical(image, self.resampled_to)
            arrays[key] = image.array
        return arrays


def common_spacing(records: Sequence[Record]) -> tuple[float, ...] | None:
    """The median spacing along each RAS axis of the images with a place in the world, from their headers alone; None if
    all of them have it within 1 %, or none has a place in the world."""
    paths = [record["image"] for record in records if not isinstance(record["image"], np.ndarray)]
    headers = (open_image(path).header for path in paths)
    grids = [header.place()[0] for header in headers if not header.pixels]
    if len({grid.dims for grid in grids}) > 1:
        raise ValueError("data must list images of one number of axes, got 2-D and 3-D images.")
    if not grids:
        return None
    spacings = np.array([canonical_grid(grid).spacing for grid in grids])
    median = np.median(spacings, axis=0)
    if np.allclose(spacings, median, rtol=SAME_SPACING, atol=0):
        return None
    finest, coarsest, chosen = (np.round(one, 4).tolist() for one in (spacings.min(0), spacings.max(0), median))
    logger.warning(
        f"The {len(grids)} images have spacings from {finest} to {coarsest} mm; they are resampled to their median, "
        f"{chosen} mm."
    )
    return tuple(median.tolist())


def pad_or_crop(size: Sequence[int]) -> Compose:
    """A `transform` that brings image and label map to one size about their centre; beyond an image's edge the edge is
    repeated, beyond a label map's there is no label."""
    image = ResizeWithPadOrCropd("image", size, mode="edge")
    return Compose([image, ResizeWithPadOrCropd("label", size, allow_missing_keys=True)])


class RandomPairs(DistributedSampler):
    """`samples` pairs an epoch, drawn anew for every epoch from seed and epoch alone; shared out among processes."""

    def __init__(self, dataset: PairDataset, samples: int, seed: int = 0) -> None:
        super().__init__(dataset, None if are_several() else 1, None if are_several() else 0, seed=seed)
        self.num_samples = -(-samples // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        drawn = torch.randint(len(self.dataset), (self.num_samples * self.num_replicas,), generator=generator)  # type: ignore[arg-type]
        return iter(drawn[self.rank :: self.num_replicas].tolist())
