"""`warpzoo.register_many`: many pairs of files, here or on a cluster, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warpzoo.cohorts.many import recipe_of, register_list
from warpzoo.registration.listing import list_pairs, pairs_of
from warpzoo.registration.results import read_numbers


@dataclass(frozen=True)
class Cohort:
    """What `warpzoo.register_many` gives.

    folder: holds a folder for each pair, by its id, and overview.html, metrics.csv and failures.csv.
    metrics: the numbers of each pair's metrics.json, by id.
    failures: the reasons of the pairs that failed, by id.
    """

    folder: Path
    metrics: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]


def register_many(
    pairs: str | Path | Sequence[Mapping[str, Any]],
    output: str | Path,
    method: str | None = None,
    *,
    client: Any = None,
    overwrite: bool = False,
    keep_interrupted: bool = False,
    **options: Any,
) -> Cohort:
    """Registers many pairs of files as `warpzoo register --pairs` does; what is done already is skipped.

    Args:
        pairs: a CSV with the columns fixed and moving, or such rows as dictionaries of paths; both may also have id,
            fixed_labels, moving_labels, fixed_points, moving_points, fixed_mask, moving_mask, initial.
        output: the folder, which all workers must see, as they must the images.
        method: as for `warpzoo.register`.
        client: a `distributed.Client`, whose workers register the pairs; without, this process does.
        overwrite: register pairs that are done again.
        keep_interrupted: count pairs whose optimisation was interrupted as done.
        options: of `warpzoo register`: similarity, refine, adapt, weights, variant, device, resolution, quality,
            budget, channels, landmarks_weight, interpolation, outside, save, report, inverse, strict, safe, seed,
            threads.

    Example:
        >>> with distributed.Client("tcp://scheduler:8786") as client:
        ...     cohort = warpzoo.register_many("pairs.csv", "out", client=client, report=False)
        >>> cohort.metrics["1"]["ncc"], cohort.failures
    """
    listed = list_pairs(pairs) if isinstance(pairs, (str, Path)) else pairs_of(pairs, Path())
    folder, recipe = Path(output).absolute(), recipe_of(method, **options)
    failures = register_list(listed, folder, recipe, overwrite, keep_interrupted, client)
    done = [pair["id"] for pair in listed if pair["id"] not in failures]
    return Cohort(folder, {name: read_numbers(folder / name) for name in done}, failures)
