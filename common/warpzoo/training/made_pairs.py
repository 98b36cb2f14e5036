"""Pairs that are made while training, for a network that is to register what it has never seen.

A pair shows random anatomies, a real image and a deformed copy of it, or two real images of a group; at a random zoom,
from a random side, each with a contrast and faults of its own. What the network sees is not what it is judged by:
the same pair in one contrast and without faults, which is there as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from warpzoo.data.appearance import (
    acquired,
    chance,
    flow,
    numbered,
    random_anatomy,
    random_velocity,
    remapped,
    tissue_intensities,
    uniform,
)
from warpzoo.geometry.affine import compose_affine
from warpzoo.geometry.sampling import sample, sample_labels, voxel_coordinates, warp
from warpzoo.images.image import read_image
from warpzoo.images.orientation import canonical
from warpzoo.training.cache import Cache
from warpzoo.training.lists import Record
from warpzoo.training.objectives import shows
from warpzoo.training.pairs import ENDLESS

EVERY = 3
"""Voxels from point to point of what is known."""


class View(NamedTuple):
    """How an anatomy is seen: by the flow of a velocity (dims, *size), then a matrix (1, dims, dims + 1) in voxels
    about the middle; or as it stays."""

    matrix: Tensor
    velocity: Tensor
    stays: bool = False


class MadePairs(Dataset):
    """Pairs as {"image", "id"}, (4 + dims, *size): moving and fixed as they are seen, as they are compared, and the
    displacement that registers them in voxels, NaN where it is not known: between two real images. A pair follows from
    its index alone, in whatever process it is made.

    Args:
        data: records of `warpzoo.training.lists`; images of one group show the same anatomy about the same place.
        size: of the pairs.
        imagined: how often the anatomy is a random one.
        contrasts: how often fixed and moving differ in contrast.
        zoom: smallest and largest number of voxels of a real image that a voxel of the pair is.
        seed: for validation, of `count` pairs: {"image": (2, *size)[, "fixed_labels", "moving_labels"]
            [, "fixed_points", "moving_points"], "id"}, points where the displacement is known and the fixed image shows
            something. Default: for training, of as many as may be drawn.
        cache: how many gigabytes of the images that were read are kept in memory; None for half of what is free.
    """

    def __init__(
        self,
        data: Sequence[Record],
        size: Sequence[int],
        imagined: float = 0.4,
        contrasts: float = 0.5,
        zoom: Sequence[float] = (0.7, 2.2),
        seed: int | None = None,
        count: int = 1000,
        cache: float | None = None,
    ) -> None:
        self.data = list(data)
        self.size = list(size)
        self.imagined, self.contrasts, self.zoom = imagined, contrasts, tuple(zoom)
        self.seed = seed
        self.count = count
        groups: dict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(self.data):
            groups[record["group"]].append(index)
        self.groups = list(groups.values())
        self.cache = Cache(cache)

    def __len__(self) -> int:
        return ENDLESS if self.seed is None else self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        with numbered((self.seed or 0) * 1_000_003 + index):
            pair = self._made()
        if self.seed is None:
            return pair
        return pair | {"image": pair["image"][:2]} | self._points(pair["image"])

    def _points(self, image: Tensor) -> dict[str, Tensor]:
        """What the displacement in an image of `_made` takes where, in voxels, if it is known."""
        known = image[4:]
        if not bool(known.isfinite().all()):
            return {}
        steps = (slice(None), *(slice(EVERY // 2, None, EVERY),) * len(self.size))
        there = shows(image[None, 3:4])[0][steps][0] == 1
        fixed, change = (one[steps][:, there].t() for one in (self._voxels(), known))
        return {"fixed_points": fixed, "moving_points": fixed + change}

    def _made(self) -> dict[str, Any]:
        differ = chance(self.contrasts)
        pair = self._imagined(differ) if chance(self.imagined) else self._real(differ)
        compared, seen, known = pair.pop("compared"), pair.pop("seen"), pair.pop("known")
        return pair | {"image": torch.cat([torch.stack([*map(acquired, seen), *compared]), known])}

    def _imagined(self, differ: bool) -> dict[str, Any]:
        scale = min(self.size) * uniform(0.12, 0.5)
        labels = random_anatomy(self.size, int(torch.randint(4, 17, ())), scale, body=chance(0.7))
        texture = uniform(0, 0.08)
        images = [tissue_intensities(labels, texture)]
        images = images + [tissue_intensities(labels, texture) if differ else images[0] for _ in range(2)]
        stack = torch.stack([*images, labels.float()])[None]
        views = self._views()
        moving, fixed = (warp(stack, self._between(view))[0] for view in views)
        known = self._between_views(*views)
        return {"compared": [moving[0], fixed[0]], "seen": [moving[1], fixed[2]], "known": known, "id": "imagined"}

    def _between(self, view: View) -> Tensor:
        """The displacement of a view: its flow, then its matrix."""
        return (self._placed(self._voxels() + flow(view.velocity), view.matrix) - self._voxels())[None]

    def _between_views(self, moving: View, fixed: View) -> Tensor:
        """The displacement (dims, *size) from fixed to moving voxels, of which one are those of the anatomy itself."""
        if moving.stays:
            return self._between(fixed)[0]
        linear, shift = moving.matrix[0].split([len(self.size), 1], dim=1)
        inverse = torch.linalg.inv(linear)
        placed = self._placed(self._voxels(), torch.cat([inverse, -inverse @ shift], 1)[None])
        return placed + sample(flow(-moving.velocity)[None], placed[None])[0] - self._voxels()

    def _voxels(self) -> Tensor:
        return voxel_coordinates(self.size, torch.float32, torch.device("cpu"))

    def _placed(self, places: Tensor, matrix: Tensor) -> Tensor:
        """Places (dims, *size) moved by a matrix (1, dims, dims + 1) about the middle."""
        middle = torch.tensor([0.5 * (size - 1) for size in self.size]).view(-1, *[1] * len(self.size))
        moved = matrix[0, :, :-1] @ (places - middle).flatten(1) + matrix[0, :, -1:]
        return moved.view_as(places) + middle

    def _views(self) -> list[View]:
        """How two views of one anatomy differ: moving is deformed and fixed stays, or the other way round."""
        amount = uniform(0, 1)
        velocity = random_velocity(self.size, 3.5 * amount, 1.2 * amount)
        views = [
            View(self._small_affine(), velocity),
            View(self._small_affine(0), torch.zeros_like(velocity), stays=True),
        ]
        return views if chance(0.5) else views[::-1]

    def _small_affine(self, amount: float = 1.0) -> Tensor:
        """About the middle, lengths in voxels, (1, dims, dims + 1)."""
        dims = len(self.size)

        def some(limit: float, count: int) -> Tensor:
            return amount * limit * (2 * torch.rand(1, count) - 1)

        matrix = compose_affine(scale=some(0.06, dims), rotation=some(0.08, 1 if dims == 2 else 3))
        return torch.cat([matrix[:, :, :-1], some(2.5, dims)[:, :, None]], 2)

    def _real(self, differ: bool) -> dict[str, Any]:
        group = self.groups[int(torch.randint(len(self.groups), ()))]
        first = group[int(torch.randint(len(group), ()))]
        alone = len(group) == 1 or chance(0.4)
        second = first
        while not alone and second == first:
            second = group[int(torch.randint(len(group), ()))]
        members = [self._member(first), self._member(second)]
        turned, offset = self._side(members[0]["image"])
        views = self._views()
        if not alone:
            gentle = 0.4
            views = [
                View(self._small_affine(gentle), gentle * views[0].velocity),
                View(self._small_affine(0), gentle * views[1].velocity),
            ]
        sampled = []
        for member, view in zip(members, views, strict=True):
            shape = member["image"].shape[1:]
            middle = torch.tensor([0.5 * (size - 1) for size in shape])
            centre = torch.tensor([0.5 * (size - 1) for size in self.size])
            centred = self._voxels().flatten(1) + self._between(view)[0].flatten(1) - centre[:, None]
            coordinates = (turned @ centred + (middle + offset)[:, None]).view(1, len(shape), *self.size)
            sampled.append(
                {
                    "image": sample(member["image"][None], coordinates)[0, 0],
                    **({"label": sample_labels(member["label"][None], coordinates)[0]} if "label" in member else {}),
                }
            )
        compared = [one["image"] for one in sampled]
        seen = compared
        if differ:
            seen = [remapped(image, int(torch.randint(3, 7, ()))) for image in compared]
        known = self._between_views(*views) if alone else torch.full((len(self.size), *self.size), torch.nan)
        pair: dict[str, Any] = {"compared": compared, "seen": seen, "known": known}
        if all("label" in one and bool(one["label"].any()) for one in sampled):  # they may lie out of view
            pair |= {"moving_labels": sampled[0]["label"], "fixed_labels": sampled[1]["label"]}
        return pair | {"id": f"{self.data[first]['id']} -> {self.data[second]['id']}"}

    def _side(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """From where an image is looked at: a matrix (dims, dims) and an offset of the middle, in its voxels."""
        dims = len(self.size)
        shape = torch.tensor([float(size) for size in image.shape[1:]])
        extent = torch.tensor([float(size) for size in self.size])
        largest = max(self.zoom[0], min(self.zoom[1], 1.25 * float((shape / extent).max())))
        zoom = self.zoom[0] * (largest / self.zoom[0]) ** uniform(0, 1)
        rotation = compose_affine(rotation=0.3 * (2 * torch.rand(1, 1 if dims == 2 else 3) - 1))[0, :, :-1]
        order = torch.eye(dims)[torch.randperm(dims)] * (2 * torch.randint(0, 2, (dims,)) - 1)
        room = 0.35 * (shape - zoom * extent).clamp_min(0) + 0.05 * shape
        return zoom * rotation @ order, room * (2 * torch.rand(dims) - 1)

    def _member(self, index: int) -> dict[str, Tensor]:
        if index in self.cache.kept:
            return self.cache.kept[index]
        record = self.data[index]
        arrays = {}
        for key in ("image", "label"):
            if isinstance(record.get(key), Tensor):
                arrays[key] = record[key]
            elif key in record:
                image = read_image(record[key], labels=key == "label")
                arrays[key] = (image if image.header.pixels else canonical(image)).array
        self.cache.add(index, arrays)
        return arrays
