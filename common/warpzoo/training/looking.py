"""The images of a training looked through as it begins: what is said, what is refused, what the record keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
from torch import Tensor

from warpzoo.training.fitting import size_of
from warpzoo.training.inspection import (
    Seen,
    check_grid,
    doubts,
    inspect_images,
    refuse_broken,
    refuse_sizes,
    what_is_done,
)
from warpzoo.training.lists import Record
from warpzoo.training.pairs import PairDataset


def look_through(training: Any, validation: Any, batch_size: int) -> list[Seen]:
    """What is seen of the images of two datasets of pairs; says what is done to them, and refuses what cannot be
    trained on."""
    records = {record["id"]: record for dataset in (training, validation) for record in dataset.data}
    if any(isinstance(record["image"], Tensor) for record in records.values()):
        return []  # made for a test, or by a program, which knows what they are
    seen = inspect_images(list(records.values()))
    refuse_broken(seen)
    lines: list[str] = []
    if isinstance(training, PairDataset):
        size, spacing = size_of(training.transform), training.resampled_to
        check_grid(seen, size, spacing)
        if training.transform is None and (batch_size > 1 or training.pairing != "same_group"):
            refuse_sizes(seen, spacing, "bring them to one by `size`, or by a `transform` of the datasets.")
        lines += what_is_done(seen, size, spacing)
    held_out = [record["id"] for record in validation.data]
    doubtful = list(doubts(seen, held_out))
    if both := {record["id"] for record in training.data}.intersection(held_out):
        doubtful.append(f"{len(both)} images are in training and validation, such as {min(both)}")
    if idist.get_rank() == 0:
        for line in [*lines, *(f"warning: {one}" for one in doubtful)]:
            print(line)
    return seen


def checksums(records: Sequence[Record], seen: Sequence[Seen]) -> dict[str, str]:
    """{id: SHA-256 of what was read} of a dataset's images."""
    digests = {one.name: one.digest for one in seen}
    return {record["id"]: digests.get(record["id"], "") for record in records}


def ranges_of(seen: Sequence[Seen], spacing: float | Sequence[float] | None) -> dict[str, list[float]]:
    """The spacing [finest, coarsest] in millimetres and the size [shortest, longest side] in voxels of what was trained
    on, as metadata state them."""
    if not seen:
        return {}
    sides = [side for one in seen for side in one.at_spacing(spacing)]
    found: dict[str, list[float]] = {"size": [min(sides), max(sides)]}
    steps = (
        [step for one in seen if one.spacing for step in one.spacing] if spacing is None else np.ravel(spacing).tolist()
    )
    return found | ({"spacing": [min(steps), max(steps)]} if steps and any(one.spacing for one in seen) else {})
