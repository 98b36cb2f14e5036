"""The methods there are: every bundle in the folder of bundles, by its metadata, and those that need no network."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import warpzoo

FOLDER_VARIABLE = "WARPZOO_BUNDLES"
OPTIMISED = {
    "rigid": "rotation and translation, from any placement",
    "affine": "rotation, translation, scale and shear, from any placement",
    "ffd": "free-form deformation by a cubic B-spline, kept from folding",
    "svf": "stationary velocity field: smooth, and can be inverted",
}
"""What each method finds that needs no network; `warpzoo.registration.optimisation` does it."""


@dataclass(frozen=True)
class Method:
    """A bundle that registers images."""

    name: str
    root: Path
    metadata: Mapping[str, Any]

    @property
    def spatial_dims(self) -> int:
        return len(self.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"])

    @property
    def weights(self) -> Path:
        return self.root / "models" / "model.pt"


def bundles_folder() -> Path:
    """`$WARPZOO_BUNDLES`, or the folder `bundles` beside the sources."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(warpzoo.__file__).parents[2] / "bundles")


def registration_methods() -> dict[str, Method]:
    """Every bundle with a `registration_data_format`, by name."""
    found = {}
    for path in sorted(bundles_folder().glob("*/configs/metadata.json")):
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if "registration_data_format" in metadata:
            root = path.parents[1]
            found[root.name] = Method(root.name, root, metadata)
    return found


def find_methods(chain: str) -> list[Method | str]:
    """The methods of a chain such as "affine,fcn_multires", in order; those without a network by their names."""
    there: dict[str, Method | str] = {**{name: name for name in OPTIMISED}, **registration_methods()}
    names = [name.strip() for name in chain.split(",")]
    for name in names:
        if name not in there:
            raise ValueError(
                f"method {name!r} is not there; there are: {', '.join(there)}. The bundles among them lie in "
                f"{bundles_folder()}; another folder is named by the environment variable {FOLDER_VARIABLE}."
            )
    return [there[name] for name in names]


def methods() -> None:
    """Lists the methods that are there, with the kind of data and the dimensions they are for."""
    for method in registration_methods().values():
        kind, task = method.metadata["data_type"], method.metadata["task"]
        weights = "" if method.weights.exists() else " (no weights yet: train it first)"
        print(f"{method.name:20}{f'{method.spatial_dims}-D':8}{kind:6}{task}{weights}")
    for name, task in OPTIMISED.items():
        print(f"{name:20}{'2/3-D':8}{'any':6}no network: {task}")
