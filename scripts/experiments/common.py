"""What every experiment needs: its options, the rows' methods, measurements in turns, tables.

An experiment is a module with `run(options) -> result`, which may write pictures, and `page(result) -> Markdown`; a
result is plain JSON, so that the page can be written again from it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from torch import Tensor
from tqdm import tqdm

from warpzoo import record
from warpzoo.bundles import open_bundle
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import DisplacementField, Transform
from warpzoo.images.image import Image
from warpzoo.networks import warp_and_concatenate
from warpzoo.registration import find_methods, register_pair
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.pair import Method
from warpzoo.training import PairDataset, of_subjects
from warpzoo.training.evaluation import PairMetricsd

Numbers = dict[str, list[float | None]]
"""By metric, one for each pair; None where there is no number."""

SUBSETS = ("test", "validation", "all")
TIME = (
    "The time is that of one pair, alone, images in memory: the method as `register_pair` calls it, its displacement "
    "and the warped image, without the checks of the images (`check` in `metrics.json`)."
)
"""What `registered` measures, for the pages."""


@dataclass(frozen=True)
class Options:
    """What a person chose on the command line."""

    bundle: Path
    data: Path
    weights: Path
    output: Path
    subset: str = "test"
    limit: int | None = None
    seed: int = 0

    def record(self) -> dict[str, Any]:
        """What the numbers depend on, for the page; no paths, which differ between machines."""
        return {
            "subset": self.subset,
            "limit": self.limit,
            "seed": self.seed,
            "machine": f"{record.cpu_name()} ({os.cpu_count()} cores)",
            "load": round(os.getloadavg()[0], 1),
            "versions": record.versions(),
        }


def read_config(options: Options, variants: Sequence[str] = (), **settings: Any) -> ConfigParser:
    """The bundle's train.json with these variants on top, in this order, and then `settings`."""
    return open_bundle(options.bundle).config("train", variants, **settings)


def found_of(records: Sequence[Mapping[str, Any]], subjects: Sequence[str]) -> list[str]:
    """Those of the subjects of whom there are images; all, to be complained of, if there are none."""
    there = {record["subject"] for record in records}
    return [name for name in subjects if name in there] or list(subjects)


def chosen_records(config: ConfigParser, subset: str) -> list[dict[str, Any]]:
    """The config's images of the test subjects, of the validation subjects, or all."""
    source = Path(config.get_parsed_content("records#source"))
    if not source.exists():
        raise ValueError(f"{source} does not exist; --data must be the folder that holds {Path(*source.parts[-2:])}.")
    records = config.get_parsed_content("records")
    return (
        records
        if subset == "all"
        else of_subjects(records, found_of(records, config.get_parsed_content(f"{subset}_subjects")))
    )


def trained_methods(bundle: Path, weights: Path, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Sequence[Method]]:
    """The rows' methods, by what `find_methods` takes beside bundle and weights, as far as there are weights in that
    folder: <row>.pt for a variant, else model.pt."""
    methods: dict[str, Sequence[Method]] = {}
    for row, settings in rows.items():
        file = weights / (f"{row.lower()}.pt" if "variant" in settings else "model.pt")
        if file.exists():
            methods[row] = find_methods(str(bundle), weights=str(file), device="cpu", **settings)
    return methods


def installed_version(package: str) -> str | None:
    """Of a classical method to compare with; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Peer:
    """Somebody else's method: `displacement(fixed, moving)`, (1, dims, *spatial) of two (*spatial) on one grid."""

    name: str
    displacement: Callable[[Tensor, Tensor], Tensor]
    expectations: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance) -> Transform:
        return DisplacementField(self.displacement(fixed.array[0], moving.array[0]), fixed.grid)


def registered(image: Tensor, methods: Sequence[Method]) -> tuple[Tensor, float]:
    """(2, *spatial), moving and fixed → (1, 1 + dims, *spatial), [warped | displacement] with the moving image's edge
    repeated beyond it as in a network's output, and the seconds of the methods in `register_pair` and of evaluating
    their transform; NaN where there are no methods."""
    moving, fixed = (
        Image.in_memory(channel[None], Grid(channel.shape), name)
        for channel, name in zip(image, ("moving", "fixed"), strict=True)
    )
    registration = register_pair(fixed, moving, methods, interruptible=False)
    begun = time.perf_counter()
    prediction = warp_and_concatenate(image[None], registration.displacement.displacement)
    seconds = time.perf_counter() - begun + sum(registration.seconds[method.name] for method in methods)
    return prediction, seconds if methods else math.nan


def measure(
    pairs: PairDataset,
    chosen: Sequence[int],
    methods: Mapping[str, Sequence[Method]],
    metrics: PairMetricsd,
    names: Sequence[str],
    seen: Callable[[str, dict[str, Any], Tensor], None] | None = None,
) -> dict[str, Numbers]:
    """Every row's numbers of those names, "seconds" among them, and each prediction to `seen(row, pair, it)`.

    The rows take turns at every pair, so that a busy machine slows all of them equally, and each has registered a
    pair before it is timed. None where there is no number: no surface is left to measure from, or the method takes no
    time.
    """
    for chain in methods.values():
        registered(pairs[chosen[0]]["image"], chain)
    numbers: dict[str, Numbers] = {row: {name: [] for name in names} for row in methods}
    for index in tqdm(chosen, desc="pairs"):
        pair = pairs[index]
        labels = [pair[key][None] for key in ("moving_labels", "fixed_labels")]
        for row, chain in methods.items():
            prediction, seconds = registered(pair["image"], chain)
            values = metrics.measure(pair["image"][None], prediction, *labels)
            values["seconds"] = seconds
            for metric, entries in numbers[row].items():
                entries.append(None if math.isnan(values[metric]) else round(values[metric], 6))
            if seen is not None:
                seen(row, pair, prediction)
    return numbers


def gain(ours: Numbers, theirs: Numbers, metric: str) -> np.ndarray:
    """Ours minus theirs, pair by pair; NaN where either has no number."""
    return np.array(ours[metric], dtype=float) - np.array(theirs[metric], dtype=float)


def gain_in_words(label: str, gain: np.ndarray, digits: int, sign: int = 1) -> str:
    """The mean gain, and in how many pairs ours is better: by a larger number (`sign` 1) or a smaller one (−1)."""
    return (
        f"{label} {np.nanmean(gain):+.{digits}f} ± {np.nanstd(gain):.{digits}f}, better in "
        f"{int((sign * gain > 0).sum())} of {len(gain)} pairs (worse in {int((sign * gain < 0).sum())})"
    )


def speed_ratio(ours: Numbers, theirs: Numbers) -> float:
    """How many times as long theirs takes, by the medians."""
    slow, fast = (np.median(np.array(numbers["seconds"], dtype=float)) for numbers in (theirs, ours))
    return float(slow / fast)


def bare(ax: Axes, title: str) -> None:
    """Axes without ticks, for a picture."""
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])


def save_figure(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_std(values: Sequence[float | None], digits: int, scale: float = 1.0) -> str:
    """Mean ± standard deviation of what is not None."""
    array = np.asarray(values, dtype=float) * scale
    return f"{np.nanmean(array):.{digits}f} ± {np.nanstd(array):.{digits}f}"


def provenance(result: dict[str, Any], command: str) -> str:
    """How a result was made, in one paragraph."""
    subset = {
        "test": "the test subjects, on whom nothing was trained or chosen",
        "validation": "the validation subjects, on whom weights were chosen",
        "all": "all subjects of the archive",
    }
    limit = f" (the first {result['limit']} pairs only)" if result["limit"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"Made by `{command}` on {subset[result['subset']]}{limit}; seed {result['seed']}, one thread of "
        f"{result['machine']} at a load of {result['load']} when it began, {versions}."
    )
