"""Pairs of files on their way into a network: read, checked, and brought onto one working grid."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from warpzoo.checks import check_truth
from warpzoo.errors import Finding, raise_if
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Transform, resample
from warpzoo.images.image import Image, read_image
from warpzoo.registration.budget import Budget
from warpzoo.registration.listing import SEVERAL, carried_name, paths_of
from warpzoo.registration.optimisation import optimise
from warpzoo.registration.preflight import preflight
from warpzoo.registration.pyramid import composed
from warpzoo.transforms.landmarks import Landmarks, read_points

MOST_LABELS = 40
"""Different whole numbers in an image that is more likely a label map."""


class OpenPair:
    """All files of a pair, read, on their way through one method or a chain of them.

    transform: from the fixed to the moving image, what the methods so far have found; None before the first.
    working: the grid of the method at hand.
    findings: what the preflight said.
    seconds: spent in each stage.
    """

    def __init__(self, files: Mapping[str, Any]) -> None:
        self.files = files
        self.transform: Transform | None = None
        self.findings: list[Finding] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.clock = time.perf_counter()
        self.fixed, self.moving = read_image(files["fixed"]), read_image(files["moving"])
        self.working = self.fixed.grid
        self.labels: dict[str, Image] = {}
        self.points: dict[str, Landmarks] = {}
        for side, image in (("fixed", self.fixed), ("moving", self.moving)):
            for path in paths_of(files, f"{side}_labels"):
                self.labels[side] = read_image(path, labels=True)
            for path in paths_of(files, f"{side}_points"):
                self.points[side] = read_points(path, image.header)
        self.also = {
            carried_name(path): read_image(path, labels=role == "also_labels")
            for role in SEVERAL
            for path in paths_of(files, role)
        }
        self._check()
        self.lap("read")

    def add(self, found: Transform) -> None:
        """What a method has found goes before what is known: its fixed points are where the network looked."""
        self.transform = composed(found, self.transform)

    def optimise(
        self,
        method: str,
        similarity: str | None = None,
        budget: Budget | None = None,
        device: torch.device | str = "cpu",
        levels: int | None = None,
    ) -> None:
        """The transform so far made better on these two images, at their full resolution."""
        fixed, moving = (image.array[None].to(device) for image in (self.fixed, self.moving))
        self.transform = optimise(
            method, fixed, self.fixed.grid, moving, self.moving.grid, self.transform, similarity, budget, levels
        )

    def lap(self, stage: str) -> None:
        """All time since the last lap went into this stage."""
        now = time.perf_counter()
        self.seconds[stage] += now - self.clock
        self.clock = now

    def on_working_grid(self) -> Tensor:
        """Moving, as far as it is aligned already, and fixed: (2, *working)."""
        still = identity(self.working)
        start = still if self.transform is None else self.transform
        moving = resample(self.moving.array[None], self.moving.grid, start, self.working, padding="border")
        fixed = self.fixed.array[None]
        if self.working != self.fixed.grid:
            fixed = resample(fixed, self.fixed.grid, still, self.working, padding="border")
        return torch.cat([moving, fixed], dim=1)[0]

    def _check(self) -> None:
        """That what comes with the images fits them, before time is spent on the pair."""
        for image in (self.labels.get("moving"), *self.also.values()):
            if image is not None and image.grid.dims != self.moving.grid.dims:
                raise ValueError(
                    f"{image.header.path} is {image.grid.dims}-D; it wants the {self.moving.grid.dims} dimensions of "
                    f"{self.moving.header.path}."
                )
        if "fixed" in self.labels and self.labels["fixed"].grid != self.fixed.grid:
            raise ValueError(
                f"{self.files['fixed_labels']} has {self.labels['fixed'].grid}; it wants the fixed image's "
                f"{self.fixed.grid}."
            )
        counts = {side: len(landmarks.points) for side, landmarks in self.points.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"{self.files['fixed_points']} has {counts['fixed']} points and {self.files['moving_points']} "
                f"{counts['moving']}; the target registration error wants them in pairs, in the same order."
            )


def open_pair(
    files: Mapping[str, Any], begun: dict[str, OpenPair], expectations: Mapping[str, Any], strict: bool = False
) -> OpenPair:
    """The pair as an earlier method has left it, or read anew; looked at before the next method runs."""
    pair = begun.pop(files["id"], None) or OpenPair(files)
    found = preflight(pair.fixed, pair.moving, expectations, placed=pair.transform is not None)
    found += [finding for image in pair.also.values() for finding in looks_like_labels(image)]
    raise_if(found, strict)
    pair.findings = list(dict.fromkeys([*pair.findings, *found]))
    pair.lap("preflight")
    return pair


def looks_like_labels(image: Image) -> list[Finding]:
    """That an image to be interpolated has as few values as a label map."""
    if not image.array.is_floating_point() or image.header.dtype.kind not in "iub":
        return []
    count = len(image.array.unique())
    if count > MOST_LABELS:
        return []
    path = image.header.path
    message = f"{path} has whole numbers, {count} of them; interpolated as an image, labels mix."
    return [Finding("warning", message, "Label maps are wanted in --also_labels.")]


class FilePairs(Dataset):
    """Pairs of files as {"image", "index"}: moving and fixed on the working grid, as channels, for the network.

    `opened` holds the pairs, by index, whose results are awaited; `begun`, by id, those that go on to another method.

    Args:
        data: pairs of `list_pairs`.
        spatial_dims: what the network takes.
        spacing: of the working grid in the world's unit; None works on the fixed image's own grid.
        expectations: `training_data` of the bundle's metadata, for the preflight.
        strict: whether the preflight's warnings are errors.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        spatial_dims: int,
        spacing: float | Sequence[float] | None = None,
        expectations: Mapping[str, Any] | None = None,
        strict: bool = False,
    ) -> None:
        self.data = list(data)
        self.spacing = spacing
        self.expectations = {"spatial_dims": spatial_dims, **(expectations or {})}
        self.strict = check_truth("strict", strict)
        self.opened: dict[int, OpenPair] = {}
        self.begun: dict[str, OpenPair] = {}

    def __len__(self) -> int:
        if not self.data:
            raise ValueError("there is nothing to register: give fixed and moving, or pairs.")
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        files = self.data[index]
        pair = open_pair(files, self.begun, self.expectations, self.strict)
        if self.spacing is not None:
            pair.working = pair.fixed.grid.with_spacing(self.spacing)
        image = pair.on_working_grid()
        pair.lap("resample")
        self.opened[index] = pair
        return {"image": image, "index": index}


def identity(grid: Grid) -> Affine:
    return Affine(torch.eye(grid.dims, grid.dims + 1)[None], grid)
