"""Reproduces the experiments of a bundle's paper: tables and pictures, written into the bundle's docs.

python scripts/reproduce.py dirnet                                    # every experiment, on the test subjects
python scripts/reproduce.py dirnet --only digits --data my/data
python scripts/reproduce.py dirnet --subset validation --output runs  # while developing
python scripts/reproduce.py fcn_multires --limit 2 --output runs      # a quick check
python scripts/reproduce.py any                                       # those of fcn_multires of any two images
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from experiments import (
    denoisereg_cells,
    denoisereg_trained,
    denoisereg_volumes,
    dirnet_cardiac,
    dirnet_digits,
    fcn_multires_any,
    fcn_multires_any_2d,
    fcn_multires_hippocampus,
    fcn_multires_left_out,
    psf_blindspot_exposures,
    psf_blindspot_fields,
    psf_blindspot_filters,
    psf_blindspot_simulated,
    psf_blindspot_starts,
    psf_blindspot_volumes,
    stn_affine_flat,
    stn_affine_heads,
    stn_affine_placements,
)
from experiments.common import SUBSETS, Options

from warpzoo.record import write_json

ROOT = Path(__file__).resolve().parents[1]
ANY: dict[str, ModuleType] = {
    "any": fcn_multires_any,
    "any_2d": fcn_multires_any_2d,
    "left_out": fcn_multires_left_out,
}
EXPERIMENTS: dict[str, dict[str, ModuleType]] = {
    "denoisereg": {"cells": denoisereg_cells, "volumes": denoisereg_volumes, "trained": denoisereg_trained},
    "dirnet": {"cardiac": dirnet_cardiac, "digits": dirnet_digits},
    "fcn_multires": {"hippocampus": fcn_multires_hippocampus, **ANY},
    "psf_blindspot": {
        "filters": psf_blindspot_filters,
        "fields": psf_blindspot_fields,
        "exposures": psf_blindspot_exposures,
        "simulated": psf_blindspot_simulated,
        "volumes": psf_blindspot_volumes,
        "starts": psf_blindspot_starts,
    },
    "stn_affine": {"placements": stn_affine_placements, "flat": stn_affine_flat, "heads": stn_affine_heads},
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = parser.add_subparsers(dest="method", required=True, metavar="method")
    for name, experiments in {**EXPERIMENTS, "any": ANY}.items():
        options = methods.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        bundle = ROOT / "bundles" / ("fcn_multires" if name == "any" else name)
        docs, models = (bundle / folder for folder in ("docs", "models"))
        options.add_argument("--only", choices=list(experiments), help="one experiment; the others' results are kept")
        options.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data")
        options.add_argument(
            "--weights", type=Path, default=models, help="folder of model.pt and the variants' weights"
        )
        options.add_argument("--subset", choices=SUBSETS, default="test", help="which subjects to register")
        options.add_argument("--limit", type=positive, help="only the first so many pairs")
        options.add_argument("--seed", type=int, default=0, help="of random numbers")
        options.add_argument("--output", type=Path, help=f"folder of the results (default: {docs.relative_to(ROOT)})")
        options.set_defaults(bundle=bundle, docs=docs, experiments=list(experiments))
    chosen = parser.parse_args(arguments)
    if chosen.output is None and (chosen.subset != "test" or chosen.limit):
        parser.error("--subset and --limit need an --output folder: the bundle's docs are for all test subjects.")
    try:
        reproduce(
            chosen.bundle.name,
            [chosen.only] if chosen.only else chosen.experiments,
            Options(
                bundle=chosen.bundle,
                data=chosen.data,
                weights=chosen.weights,
                output=chosen.output or chosen.docs,
                subset=chosen.subset,
                limit=chosen.limit,
                seed=chosen.seed,
            ),
        )
    except ValueError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 1
    return 0


def reproduce(method: str, names: Sequence[str], options: Options) -> None:
    """Runs the experiments and writes results.json and, from all that it then holds, results.md."""
    for folder in (options.data, options.weights):
        if not folder.is_dir():
            raise ValueError(f"data and weights must be folders, got {folder}.")
    torch.set_num_threads(1)  # times are those of one core
    file = options.output / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in names:
        results[name] = EXPERIMENTS[method][name].run(options)
        write_json(file, results)
        (options.output / "results.md").write_text(page(method, results), encoding="utf-8")
    print(f"{options.output / 'results.md'}")


def page(method: str, results: dict) -> str:
    parts = [f"# Results of {method}", "All numbers, pair by pair, are in `results.json`."]
    for name, experiment in EXPERIMENTS[method].items():
        if name in results:
            parts.append(experiment.page(results[name], command(method, name, results[name])))
    return "\n\n".join(parts) + "\n"


def command(method: str, experiment: str, result: dict) -> str:
    """The command that makes this result."""
    words = ["python scripts/reproduce.py", method, "--only", experiment]
    for option, default in (("subset", "test"), ("limit", None), ("seed", 0)):
        if result[option] != default:
            words += [f"--{option}", str(result[option])]
    return " ".join(words)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
