"""What every experiment needs: its options, variants' networks with their weights, measurements in turns, tables.

An experiment is a module with `run(options) -> result`, which may write pictures, and `page(result) -> Markdown`; a
result is plain JSON, so that the page can be written again from it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from torch import Tensor, nn
from tqdm import tqdm

from warpzoo import record
from warpzoo.bundles import open_bundle
from warpzoo.networks import fold_norms, load_weights
from warpzoo.training import PairDataset, of_subjects
from warpzoo.training.evaluation import PairMetricsd

TimedMethod = Callable[[Tensor], tuple[Tensor, float]]
"""(1, 2, *spatial), moving and fixed → (1, 1 + dims, *spatial), [warped | displacement], and the seconds it took."""
Numbers = dict[str, list[float | None]]
"""By metric, one for each pair; None where there is no number."""

SUBSETS = ("test", "validation", "all")


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


def load_network(config: ConfigParser, weights: Path) -> nn.Module:
    """The config's `network_def` with the weights of a file (a plain state_dict), ready to predict."""
    network: nn.Module = config.get_parsed_content("network_def")
    load_weights(weights, network)
    return fold_norms(network)


def chosen_records(config: ConfigParser, subset: str) -> list[dict[str, Any]]:
    """The config's images of the test subjects, of the validation subjects, or all."""
    source = Path(config.get_parsed_content("records#source"))
    if not source.exists():
        raise ValueError(f"{source} does not exist; --data must be the folder that holds {Path(*source.parts[-2:])}.")
    records = config.get_parsed_content("records")
    return records if subset == "all" else of_subjects(records, config.get_parsed_content(f"{subset}_subjects"))


def trained_networks(options: Options, variants: Mapping[str, Sequence[str]]) -> dict[str, nn.Module]:
    """The rows' networks, by the overrides of train.json that make each, as far as there are weights: <row>.pt, those
    of "ours" model.pt."""
    networks = {}
    for row, overrides in variants.items():
        weights = options.weights / ("model.pt" if row == "ours" else f"{row.lower()}.pt")
        if weights.exists():
            networks[row] = load_network(read_config(options, overrides), weights)
    return networks


def installed_version(package: str) -> str | None:
    """Of a classical method to compare with; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def unregistered(image: Tensor) -> tuple[Tensor, float]:
    identity = torch.zeros(len(image), image.dim() - 2, *image.shape[2:])
    return torch.cat([image[:, :1], identity], dim=1), float("nan")


def timed(register: Callable[[Tensor], Tensor]) -> TimedMethod:
    """A network, or anything that predicts as one, as a method."""

    def method(image: Tensor) -> tuple[Tensor, float]:
        with torch.no_grad():
            start = time.perf_counter()
            prediction = register(image)
            return prediction, time.perf_counter() - start

    return method


def measure(
    pairs: PairDataset,
    chosen: Sequence[int],
    methods: Mapping[str, TimedMethod],
    metrics: PairMetricsd,
    names: Sequence[str],
    seen: Callable[[str, dict[str, Any], Tensor], None] | None = None,
) -> dict[str, Numbers]:
    """Every method's numbers of those names, "seconds" among them, and each prediction to `seen(method, pair, it)`.

    The methods take turns at every pair, so that a busy machine slows all of them equally, and each has registered a
    pair before it is timed. None where there is no number: no surface is left to measure from, or the method takes no
    time.
    """
    for method in methods.values():
        method(pairs[chosen[0]]["image"][None])
    numbers: dict[str, Numbers] = {method: {name: [] for name in names} for method in methods}
    for index in tqdm(chosen, desc="pairs"):
        pair = pairs[index]
        image = pair["image"][None]
        for name, method in methods.items():
            prediction, seconds = method(image)
            values = metrics.measure(image, prediction, pair["moving_labels"][None], pair["fixed_labels"][None])
            values["seconds"] = seconds
            for metric, entries in numbers[name].items():
                entries.append(None if math.isnan(values[metric]) else round(values[metric], 6))
            if seen is not None:
                seen(name, pair, prediction)
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
