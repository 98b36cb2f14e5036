"""What every experiment needs: its options, a bundle's network with the weights of a variant, Markdown tables.

An experiment is a module with `run(options) -> result`, which may write pictures, and `page(result) -> Markdown`; a
result is plain JSON, so that the page can be written again from it.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from torch import nn

from warpzoo.data import of_subjects
from warpzoo.handlers import load_weights

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
        """What the numbers depend on, for the page; no paths, which are a machine's own affair."""
        return {
            "subset": self.subset,
            "limit": self.limit,
            "seed": self.seed,
            "machine": cpu_name(),
            "load": round(os.getloadavg()[0], 1),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "monai")},
        }


def read_config(options: Options, overrides: Sequence[str] = (), **settings: Any) -> ConfigParser:
    """The bundle's train.json with `configs/variants/<override>.json` on top, in this order, and then `settings`."""
    root = str(options.bundle)
    if root not in sys.path:  # the bundle's own network package lies there
        sys.path.insert(0, root)
    configs = options.bundle / "configs"
    files = [configs / "train.json", *(configs / "variants" / f"{name}.json" for name in overrides)]
    for file in files:
        if not file.exists():
            raise ValueError(f"{file} does not exist; the bundle wants it.")
    config = ConfigParser()
    config.read_config([str(file) for file in files])
    for name, value in settings.items():
        config[name] = value
    return config


def load_network(config: ConfigParser, weights: Path) -> nn.Module:
    """The config's `network_def` with the weights of a file (a plain state_dict), ready to predict."""
    network: nn.Module = config.get_parsed_content("network_def")
    load_weights(weights, network)
    return network.eval()


def chosen_records(config: ConfigParser, subset: str) -> list[dict[str, Any]]:
    """The config's images of the test or the validation subjects, or all."""
    source = Path(config.get_parsed_content("records#source"))
    if not source.exists():
        raise ValueError(f"{source} does not exist; --data wants the folder that holds {Path(*source.parts[-2:])}.")
    records = config.get_parsed_content("records")
    return records if subset == "all" else of_subjects(records, config.get_parsed_content(f"{subset}_subjects"))


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
    """How a result came about, in one paragraph."""
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


def cpu_name() -> str:
    """What the processor calls itself, and how many there are."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if "model name" in line
        ]
        name = names[0] if names else name
    return f"{name} ({os.cpu_count()} cores)"
