"""Trains a bundle's network from scratch in stages, unattended: each starts from the best weights of the one before.

python scripts/train_in_stages.py dirnet --data DATA/cardiac --output runs/dirnet
python scripts/train_in_stages.py dirnet:hippocampus --data DATA/hippocampus --output runs/hippocampus

Each stage is MONAI's command with the settings below, in a folder of its own; when it is stopped, the same command goes
on. The last stage's weights become OUTPUT/model.pt. What is not known here is passed on to every stage
(`--num_workers 2`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from warpzoo.bundles import find_bundle
from warpzoo.record import write_json

DONE = "stage.json"
"""In a stage's folder: the settings with which it has been completed, those that were passed on among them."""


class Recipe(NamedTuple):
    """The variants and settings of all stages, and those of each by its name, in order."""

    variants: Sequence[str]
    shared: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]


SOFT = {"learning_rate": 0.01, "regularisation_weight": 6.0, "epochs": 30, "val_interval": 5, "seed": 1}
MILD = {"augmentation#rotation": 15, "augmentation#scale": 0.1, "augmentation#shift": 15, "augmentation#noise": 0.03}
RECIPES: Mapping[str, Recipe] = {
    "dirnet": Recipe(
        [],
        {},
        {
            "correlation": {
                "similarity": {"_target_": "warpzoo.losses.NCCLoss"},
                "regularisation_weight": 1.0,
                "epochs": 40,
                "val_interval": 4,
            },
            "windows": {"learning_rate": 0.01},
            "softer": SOFT,
            "milder": {**SOFT, **MILD, "learning_rate": 0.005, "epochs": 28, "val_interval": 4, "seed": 3},
        },
    ),
    "dirnet:hippocampus": Recipe(
        ["hippocampus"],
        {"val_interval": 2},
        {
            "free": {"epochs": 22, "regularisation_weight": 0.3},
            "smoother": {"epochs": 7, "learning_rate": 0.002, "regularisation_weight": 1.0},
            "without folds": {"epochs": 4, "learning_rate": 0.002, "regularisation_weight": 4.0},
        },
    ),
}


def train(recipe: Recipe, bundle: Path, data: Path, output: Path, passed_on: Sequence[str]) -> Path:
    """Every stage that is not completed yet; returns the last one's weights."""
    configs = [bundle / "configs" / "train.json"]
    configs += [bundle / "configs" / "variants" / f"{name}.json" for name in recipe.variants]
    weights = None
    for name, own in recipe.stages.items():
        folder, settings = output / name, {**recipe.shared, **own}
        about = {"settings": settings, "passed_on": list(passed_on)}
        if _is_done(folder, about):
            print(f"Stage {name} is complete: {folder}", flush=True)
        else:
            options = {"dataset_dir": data, "output_dir": folder, "resume": (folder / "last.pt").exists(), **settings}
            options |= {} if weights is None else {"initial_weights": weights}
            line = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(bundle)]
            line += ["--config_file", str([str(config) for config in configs])]
            for option, value in options.items():
                line += [f"--{option}", json.dumps(value) if isinstance(value, dict) else str(value)]
            print(f"Stage {name}: {folder}", flush=True)
            subprocess.run([*line, *passed_on], check=True)
            write_json(folder / DONE, about)
        weights = folder / "model.pt"
    if weights is None:
        raise ValueError("recipe must have a stage, got none.")
    return Path(shutil.copy(weights, output / "model.pt"))


def _is_done(folder: Path, about: Mapping[str, Any]) -> bool:
    file = folder / DONE
    if not file.exists():
        return False
    if json.loads(file.read_text(encoding="utf-8")) != about:
        raise ValueError(
            f"output must be of this recipe and command, or new: {folder} was trained with other settings."
        )
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True, help="folder that the bundle's dataset_dir names")
    parser.add_argument("--output", type=Path, required=True, help="a folder for each stage, and model.pt")
    given, passed_on = parser.parse_known_args(arguments)
    bundle = Path(find_bundle(given.recipe.partition(":")[0], "registration").root)
    try:
        print(train(RECIPES[given.recipe], bundle, given.data.resolve(), given.output.resolve(), passed_on))
    except subprocess.CalledProcessError as error:  # which has said why
        return error.returncode
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped: the same command goes on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
