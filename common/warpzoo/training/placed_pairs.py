"""Pairs in known random placements, made while training: what a network for affine registration learns from.

A pair shows a random anatomy or a real image, and the same or another image of its group in another place: turned,
scaled, sheared, shifted, a little deformed, in another contrast, with the faults of a scanner. The matrix between them
is known, so that no image has to be like another to learn from it.

Convention: a truth (dims, dims + 1) is a matrix as in `geometry.affine`, from the fixed to the moving image.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from warpzoo.data.appearance import (
    acquired,
    chance,
    numbered,
    random_anatomy,
    remapped,
    smooth_noise,
    tissue_intensities,
    uniform,
)
from warpzoo.data.placements import random_placement
from warpzoo.geometry.affine import compose_matrices, half_longest_side, invert_affine
from warpzoo.geometry.sampling import sample, sample_labels, voxel_coordinates
from warpzoo.images.image import read_image
from warpzoo.images.orientation import canonical
from warpzoo.networks import MinMax
from warpzoo.training.cache import Cache
from warpzoo.training.lists import Record
from warpzoo.training.pairs import ENDLESS


class PlacedPairs(Dataset):
    """Pairs as {"image": (2, *size), "truth": (dims, dims + 1), "id"}, for validation with their labels. A pair follows
    from its index alone, in whatever process it is made.

    Args:
        data: records of `warpzoo.training.lists`; images of one group show the same anatomy in the same place.
        size: of the pairs.
        rotation: largest angle in degrees, about any axis.
        scale: largest change of size along each axis, 1.25 for 0.8 to 1.25.
        shear: largest shear.
        shift: largest translation along each axis, as a part of the longest side.
        imagined: how often the anatomy is a random one.
        turned: how often a real image is seen from another side, by quarter turns and mirrored.
        contrasts: how often each image gets a contrast of its own.
        deformation: largest deviation of a smooth deformation of the moving image, as a part of the longest side.
        faults: how often the images have the faults of a scanner.
        seed: for validation, of `count` pairs: {…[, "fixed_labels", "moving_labels"]}. Default: for training, of as
            many as may be drawn.
        cache: how many gigabytes of the images that were read are kept in memory; None for half of what is free.
    """

    def __init__(
        self,
        data: Sequence[Record],
        size: Sequence[int],
        rotation: float = 55.0,
        scale: float = 1.25,
        shear: float = 0.1,
        shift: float = 0.2,
        imagined: float = 0.05,
        turned: float = 0.05,
        contrasts: float = 0.15,
        deformation: float = 0.03,
        faults: float = 0.6,
        seed: int | None = None,
        count: int = 1000,
        cache: float | None = None,
    ) -> None:
        self.data = list(data)
        self.size = list(size)
        self.rotation, self.scale, self.shear, self.shift = rotation, scale, shear, shift
        self.imagined, self.turned, self.contrasts = imagined, turned, contrasts
        self.deformation, self.faults = deformation, faults
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
            return self._made()

    def _made(self) -> dict[str, Any]:
        if chance(self.imagined):
            anatomy = self._anatomy()
            members, name, anywhere = [anatomy, anatomy], "imagined", True
        else:
            group = self.groups[int(torch.randint(len(self.groups), ()))]
            drawn = [group[int(torch.randint(len(group), ()))] for _ in range(2)]
            if chance(0.5):
                drawn[1] = drawn[0]
            members = [self._member(index) for index in drawn]
            name, anywhere = f"{self.data[drawn[1]]['id']} -> {self.data[drawn[0]]['id']}", chance(self.turned)
        truth = random_placement(len(self.size), self.rotation, self.scale, self.shear, self.shift)
        view = self._view(anywhere)
        field_of_view = self._field_of_view()
        fixed = self._seen(members[0], view, 0.0, field_of_view)
        moving = self._seen(members[1], compose_matrices(invert_affine(truth), view), self.deformation, field_of_view)
        pair = {"image": torch.stack([moving["image"], fixed["image"]]), "truth": truth[0], "id": name}
        if self.seed is not None and "label" in fixed and "label" in moving:
            pair |= {"moving_labels": moving["label"], "fixed_labels": fixed["label"]}
        return pair

    def _view(self, anywhere: bool) -> Tensor:
        """From where the fixed image is looked at: a matrix of the pair's coordinates → the image's, each in half the
        longest side. `anywhere` also turns it by right angles and mirrors it."""
        dims = len(self.size)
        view = random_placement(dims, 10.0, 1.05, 0.0, 0.03)
        zoom = math.exp(uniform(math.log(0.8), math.log(1.35)))
        turned = zoom * view[:, :, :dims]
        if anywhere:
            turned = turned @ (torch.eye(dims)[torch.randperm(dims)] * (2.0 * torch.randint(0, 2, (dims,)) - 1))
        return torch.cat([turned, view[:, :, dims:]], 2)

    def _field_of_view(self) -> Tensor:
        """Half the sides of the box in which both images show something, in half the longest side, (dims,)."""
        sides = torch.ones(len(self.size))
        if chance(0.6):
            sides = 1 - 0.3 * torch.rand(len(self.size))
            sides[int(torch.randint(len(self.size), ()))] = 1.0
        return sides

    def _seen(
        self, member: dict[str, Tensor], view: Tensor, deformation: float, field_of_view: Tensor
    ) -> dict[str, Tensor]:
        """An anatomy from there, (*size), deformed and as a scanner may have taken it."""
        dims = len(self.size)
        image = member["image"]
        shape = list(image.shape[1:])
        centred = voxel_coordinates(self.size, torch.float32, torch.device("cpu"))
        centred = centred - torch.tensor([0.5 * (size - 1) for size in self.size]).view(-1, *[1] * dims)
        centred = centred / half_longest_side(self.size)
        outside = (centred.abs() > field_of_view.view(-1, *[1] * dims)).any(0)
        if deformation:
            noise = smooth_noise(self.size, max(self.size) / uniform(2, 5), dims)
            centred = centred + 2 * uniform(0, deformation) * noise
        places = view[0, :, :dims] @ centred.flatten(1) + view[0, :, dims:]
        places = places * half_longest_side(shape) + torch.tensor([[0.5 * (size - 1)] for size in shape])
        places = places.view(1, dims, *self.size)
        padding = "constant" if chance(0.7) else "border"
        seen = sample(image[None], places, padding=padding, value=float(image.min()))[0, 0]
        seen = seen.masked_fill(outside, float(image.min()))
        if chance(self.contrasts):
            seen = remapped(seen, int(torch.randint(3, 7, ())))
        if chance(self.faults):
            seen = acquired(seen)
        found = {"image": seen}
        if "label" in member:
            found["label"] = sample_labels(member["label"][None], places)[0]
        return found

    def _anatomy(self) -> dict[str, Tensor]:
        scale = min(self.size) * uniform(0.15, 0.5)
        labels = random_anatomy(self.size, int(torch.randint(4, 17, ())), scale)
        return {"image": tissue_intensities(labels, uniform(0, 0.08))[None]}

    def _member(self, index: int) -> dict[str, Tensor]:
        """An image in voxels about as fine as the pair's, from 0 to 1, and its labels."""
        if index in self.cache.kept:
            return self.cache.kept[index]
        record = self.data[index]
        arrays: dict[str, Tensor] = {}
        for key in ("image", "label"):
            if key in record:
                arrays[key] = self._coarse(record[key], labels=key == "label")
        arrays["image"] = MinMax()(arrays["image"][None])[0]
        self.cache.add(index, arrays)
        return arrays

    def _coarse(self, source: Any, labels: bool) -> Tensor:
        if isinstance(source, Tensor):
            return source
        image = read_image(source, labels=labels)
        image = image if image.header.pixels else canonical(image)
        step = max(1, int(0.75 * max(image.grid.shape) / max(self.size)))
        array = image.array
        if labels:
            return array[(slice(None), *[slice(step // 2, None, step)] * image.grid.dims)]
        pool = torch.nn.functional.avg_pool2d if image.grid.dims == 2 else torch.nn.functional.avg_pool3d
        return pool(array.float(), step) if step > 1 else array.float()
