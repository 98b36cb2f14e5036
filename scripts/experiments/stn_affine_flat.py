"""Affine registration in 2-D of images in known placements: the network for any two images, refined, the optimiser,
other tools. Hearts are of dirnet's test subjects, slices of brains those that `scripts/collect_any.py` leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.affine_peers import PACKAGES, PEERS, SETTINGS
from experiments.common import Options, Peer, installed_version, registered
from experiments.stn_affine_placements import FAILED, METRICS, REFINEMENT, measured, set_table
from warpzoo.bundles import find_bundle
from warpzoo.data.placements import PlacedPair, anywhere
from warpzoo.images.image import read_image
from warpzoo.registration import find_methods
from warpzoo.registration.pair import Method

COUNT = 12
"""Pairs of each set."""
PLACEMENTS = {
    "up to 45°": {"rotation": 45.0},
    "60 to 180°": {"rotation": 180.0, "least": 60.0},
}
KINDS = {"hearts": "hearts in end-diastole, each and itself", "brains": "slices of brains of OASIS, each and itself"}
SEED = 500


def run(options: Options) -> dict[str, Any]:
    methods = available_methods(options)
    sets: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    images = {kind: list(images_of(kind, options))[: options.limit] for kind in KINDS}
    for some in images.values():  # the first time methods also load and compile
        for chain in methods.values():
            registered(torch.stack([some[0][0]] * 2), chain)
    for placement, settings in PLACEMENTS.items():
        for kind, some in images.items():
            rows: dict[str, dict[str, list[float | None]]] = {row: {key: [] for key in METRICS} for row in methods}
            for number, (image, labels) in enumerate(tqdm(some, desc=f"{kind}, {placement}")):
                pair: PlacedPair = anywhere(image, labels, seed=SEED + 1000 * options.seed + number, **settings)
                for row, chain in methods.items():
                    prediction, seconds = registered(torch.stack([pair.moving, pair.fixed]), chain)
                    for key, value in measured(pair, prediction, seconds).items():
                        rows[row][key].append(None if not np.isfinite(value) else round(value, 4))
            sets[f"{kind}, {placement}"] = rows
    versions = {peer: installed_version(package) for peer, package in PACKAGES.items()}
    return {**options.record(), "peers": versions, "sets": sets}


def available_methods(options: Options) -> dict[str, Sequence[Method]]:
    network = {"chain": f"{options.bundle}:any_2d", "weights": str(options.weights / "any_2d.pt"), "device": "cpu"}
    methods: dict[str, Sequence[Method]] = {
        "none": [],
        "ours": find_methods(**network),
        "ours + refine": find_methods(**network, refine=REFINEMENT),
        "affine": find_methods("affine", device="cpu"),
    }
    for name, displacement in PEERS.items():
        if installed_version(PACKAGES[name]):
            methods[name] = [Peer(name, displacement, {"displacement": float("inf")})]
    return methods


def images_of(kind: str, options: Options) -> Iterator[tuple[Tensor, Tensor]]:
    """Images from 0 to 1, and what they show: the ventricle, or where the brain is."""
    if kind == "brains":
        for path in sorted((options.data / "brain" / "oasis_2d").glob("*.nrrd"))[9::10]:
            image = read_image(path).array[0].float()
            yield image / image.max(), (image > 0.1 * image.max()).to(torch.uint8)
        return
    hearts = np.load(options.data / "cardiac" / "sunnybrook_ed_es_pairs.npz")
    subjects = find_bundle("dirnet").config("train").get_parsed_content(f"{options.subset}_subjects")
    chosen = [
        number
        for number, subject in enumerate(hearts["subject"])
        if subject in subjects and hearts["ed_lv"][number].any()
    ]
    for number in chosen[:: len(chosen) // COUNT][:COUNT]:
        image = torch.from_numpy(hearts["ed"][number].astype(np.float32))
        yield image / image.max(), torch.from_numpy(hearts["ed_lv"][number].astype(np.uint8))


def page(result: Mapping[str, Any], command: str) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    parts = [
        "## Known placements in 2-D",
        f"Made by `{command}`; seed {result['seed']}, one thread of {result['machine']} at a load of {result['load']} "
        f"when it began, {versions}. *Ours* is `stn_affine:any_2d`, which has seen neither these hearts nor these "
        f"brains, *refine* the optimiser `affine` from there ({REFINEMENT} iterations at most), *affine* the same from "
        "its own search. Scales 0.8 to 1.25, shears 0.1 and shifts to 20 %, at once. The error is the mean distance, "
        "in pixels, from where the true map takes what the fixed image's labels show (the left ventricle, the brain); "
        f"above {FAILED:g} it is a failure. *Ours*, *refine* and *affine* were measured in a later run than the "
        "others, on a quieter machine: compare times among these.",
    ]
    for name, rows in result["sets"].items():
        kind = name.split(",")[0]
        about = f"{KINDS[kind][0].upper()}{KINDS[kind][1:]}: {len(rows['none']['error'])}."
        parts += [f"### {name}", about, set_table(name, rows)]
    parts.append(
        "; ".join(f"{peer} {result['peers'][peer] or '(not installed)'}: {text}" for peer, text in SETTINGS.items())
        + "."
    )
    return "\n\n".join(parts)
