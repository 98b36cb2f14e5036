"""What a start from other fields' weights is worth, by how long the network then learns from the image at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from experiments.common import Options, table
from experiments.psf_blindspot import fields, provenance, trained, training_of

BUDGETS = ("100steps", "300steps", "600steps", "1600steps")
LEARNT = "4000steps"


def run(options: Options) -> dict[str, Any]:
    """Each real noisy field, from nothing and from weights that have learnt from the others."""
    known = list(fields(options))
    rows: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path, _, clean in known:
            others = Path(folder, f"without_{name}")
            others.mkdir()
            for other, _, image, _ in known:
                if other != name:
                    tifffile.imwrite(others / f"{other}.tif", standardised(image))
            start = Path(folder, f"{name}.pt")
            training_of(options, others, start, [], LEARNT).run()
            rows[name] = {
                budget: [
                    trained(options, path, clean, [], budget, start=weights)[0]["psnr"] for weights in (None, start)
                ]
                for budget in BUDGETS
            }
    return {**options.record(), "rows": rows, "learnt": LEARNT}


def standardised(image: np.ndarray) -> np.ndarray:
    """As the network sees each image alone: several have one mean and deviation in its weights."""
    return (image - image.mean()) / image.std()


def page(result: Mapping[str, Any], command: str) -> str:
    names = list(result["rows"])
    lines = [
        [budget.removesuffix("steps"), *(f"{value:.2f}" for name in names for value in result["rows"][name][budget])]
        for budget in result["rows"][names[0]]
    ]
    return "\n\n".join(
        [
            "## A start from other fields",
            "PSNR in dB of the real noisy fields after so many steps on the field alone, from nothing and from "
            f"weights that had learnt for {result['learnt'].removesuffix('steps')} steps from the other two. "
            f"{provenance(result, command)}",
            table(["steps", *(f"{name}, from {what}" for name in names for what in ("nothing", "the others"))], lines),
        ]
    )
