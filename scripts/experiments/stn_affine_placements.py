"""Affine registration of images in known placements: networks, networks refined, the optimiser, other tools.

The sets follow the paper's experiments: cubes with cracks and holes; one brain turned, shifted, both; a subject and the
same one later; different subjects; and, beyond the paper, placements in which everything happens at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from monai.utils import convert_to_tensor
from torch import Tensor
from tqdm import tqdm

from experiments.affine_peers import PACKAGES, PEERS, SETTINGS, centres_of_mass
from experiments.common import (
    Options,
    Peer,
    bare,
    installed_version,
    registered,
    save_figure,
    table,
    trained_methods,
)
from warpzoo.bundles import open_bundle
from warpzoo.data.placements import PlacedPair, anywhere, copies, cracked_cubes, longitudinal, placed, random_placement
from warpzoo.geometry.affine import affine_field, invert_affine
from warpzoo.geometry.sampling import warp_labels
from warpzoo.images.image import read_image
from warpzoo.images.orientation import canonical
from warpzoo.losses import mattes_mutual_information
from warpzoo.metrics import dice, surface_distances
from warpzoo.registration import find_methods
from warpzoo.registration.pair import Method
from warpzoo.registration.pyramid import coarser, shrink
from warpzoo.training import of_subjects

REFINEMENT = 100
COUNT = 3
"""Pairs of each set."""
EXCHANGED = ", exchanged"
COUNTS = {"different subjects": 10, "anywhere": 20, "any rotation": 20, f"any rotation{EXCHANGED}": 20}
"""Of these."""
PAPER = {
    "cubes": (0.764, 0.937, 0.889, 0.820),
    "rotated": (0.880, 0.960, 0.891, 0.893),
    "translated": (0.787, 0.843, 0.814, 0.860),
    "both": (0.821, 0.878, 0.855, 0.887),
    "different subjects": (0.674, 0.791, 0.758, 0.772),
    "longitudinal": (0.751, 0.825, 0.837, 0.816),
}
"""Dice in the paper: none, separate, one matrix, SimpleITK."""
IN_PAPER = ("none", "separate", "one matrix", "SimpleITK")
SETS = {
    "cubes": "cubes with cracks and holes, 64³",
    "rotated": "one brain and itself turned up to 30° about any axis, 3 mm",
    "translated": "one brain and itself shifted by up to a tenth of its longest side, 3 mm",
    "both": "one brain turned and shifted, 3 mm",
    "longitudinal": "one brain and itself later: small deformation, gain, bias field, noise, up to 12°, 3 mm",
    "different subjects": "hippocampi of different test subjects in random placements (up to 30°), 1 mm",
    "anywhere": "one brain at 2 mm, up to 45° about any axis, scales 0.8 to 1.25, shears 0.1, shifts 20 %, at once",
    "any rotation": "the same at 60 to 180°, shifts to 16 %",
    f"any rotation{EXCHANGED}": "these pairs with the turned brain as the fixed image",
}
METRICS = ("error", "dice", "hausdorff", "information", "seconds")
FAILED = 1.0
"""Voxels of the image: a larger error is a failure."""
ROWS = (
    "none",
    "centres of mass",
    "separate",
    "one matrix",
    "deep_affine",
    "ours",
    "ours + refine",
    "affine",
    *PEERS,
)
PICTURE = "figures/placements.png"


def run(options: Options) -> dict[str, Any]:
    methods = available_methods(options)
    for chain in methods.values():  # the first time they also load and compile
        cube = cracked_cubes((32, 32, 32))
        registered(torch.stack([cube.moving, cube.fixed]), chain)
    sets: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    pictured = []
    for name in SETS:
        count = COUNTS.get(name, COUNT)
        count = min(count, options.limit or count)
        chains = methods | (on_hippocampi(options) if name == "different subjects" else {})
        rows: dict[str, dict[str, list[float | None]]] = {row: {key: [] for key in METRICS} for row in methods}
        for number, pair in enumerate(tqdm(list(pairs_of(name, options.data, count, options.seed)), desc=name)):
            image = torch.stack([pair.moving, pair.fixed])
            for row, chain in chains.items():
                prediction, seconds = registered(image, chain)
                for key, value in measured(pair, prediction, seconds).items():
                    rows[row][key].append(None if not np.isfinite(value) else round(value, 4))
                if row == "ours" and number == 0 and name in ("both", "anywhere", "any rotation"):
                    pictured.append((name, pair, prediction[0, 0]))
        sets[name] = rows
    save_figure(picture(pictured), options.output / PICTURE)
    versions = {peer: installed_version(package) for peer, package in PACKAGES.items()}
    return {**options.record(), "peers": versions, "sets": sets}


def available_methods(options: Options) -> dict[str, Sequence[Method]]:
    methods: dict[str, Sequence[Method]] = {
        "none": [],
        "centres of mass": [Peer("centres of mass", centres_of_mass, {"displacement": float("inf")})],
    }
    networks = {
        "separate": ("separate", {"variant": "paper,small"}),
        "one matrix": ("one_matrix", {"variant": "paper,small,one_matrix"}),
    }
    for row, (file, settings) in networks.items():
        weights = options.weights / f"{file}.pt"
        if weights.exists():
            methods[row] = find_methods(str(options.bundle), weights=str(weights), device="cpu", **settings)
    other = options.bundle.parent / "deep_affine"
    open_bundle(other)
    methods |= trained_methods(other, other / "models", {"deep_affine": {}})
    methods |= trained_methods(options.bundle, options.weights, {"ours": {}, "ours + refine": {"refine": REFINEMENT}})
    methods["affine"] = find_methods("affine", device="cpu")
    for name, displacement in PEERS.items():
        if installed_version(PACKAGES[name]):
            methods[name] = [Peer(name, displacement, {"displacement": float("inf")})]
    return methods


def on_hippocampi(options: Options) -> dict[str, Sequence[Method]]:
    """The rows whose weights are then those for the hippocampus."""
    name = f"{options.bundle}:hippocampus"
    weights = str(options.weights / "hippocampus.pt")
    return {
        "ours": find_methods(name, weights=weights, device="cpu"),
        "ours + refine": find_methods(name, weights=weights, refine=REFINEMENT, device="cpu"),
    }


def pairs_of(name: str, data: Path, count: int, seed: int) -> Iterator[PlacedPair]:
    if name == "cubes":
        yield from (cracked_cubes(seed=1000 * seed + number) for number in range(count))
        return
    if name == "different subjects":
        yield from hippocampi(data, count, seed)
        return
    image, labels = brain(data / "brain" / "mni.nii.gz", 2 if name.startswith("any") else 3)
    make: Mapping[str, Callable[[Tensor, Tensor, int], PlacedPair]] = {
        "rotated": lambda image, labels, seed: copies(image, labels, "rotated", seed),
        "translated": lambda image, labels, seed: copies(image, labels, "translated", seed),
        "both": lambda image, labels, seed: copies(image, labels, "both", seed),
        "longitudinal": longitudinal,
        "anywhere": lambda image, labels, seed: anywhere(image, labels, seed=seed),
        "any rotation": lambda image, labels, seed: anywhere(image, labels, 180, 60, 0.16, seed),
    }
    for number in range(count):
        pair = make[name.removesuffix(EXCHANGED)](image, labels, 1000 * seed + number)
        yield exchanged(pair) if name.endswith(EXCHANGED) else pair


def exchanged(pair: PlacedPair) -> PlacedPair:
    """The same with the fixed image as the moving one."""
    return PlacedPair(pair.moving, pair.fixed, pair.moving_labels, pair.fixed_labels, invert_affine(pair.truth))


def brain(path: Path, step: int) -> tuple[Tensor, Tensor]:
    """A brain in voxels of so many millimetres, from 0 to 1, and where it is."""
    image = canonical(read_image(path))
    array = shrink(image.array[None].float(), coarser(image.grid, [step] * 3).shape)[0, 0]
    return array / array.max(), (array > 0.1 * array.max()).to(torch.uint8)


def hippocampi(data: Path, count: int, seed: int) -> Iterator[PlacedPair]:
    """Of different test subjects, the moving one in a random placement; the truth is that placement alone."""
    config = open_bundle(Path(__file__).parents[2] / "bundles" / "fcn_multires").config(
        "train", dataset_dir=str(data / "hippocampus")
    )
    records = of_subjects(config.get_parsed_content("records"), config.get_parsed_content("test_subjects"))
    preprocessing = config.get_parsed_content("preprocessing")

    def read(record: dict[str, Any]) -> tuple[Tensor, Tensor]:
        arrays = {"image": read_image(record["image"]).array.float()}
        arrays["label"] = read_image(record["label"], labels=True).array
        both = {key: convert_to_tensor(value)[0] for key, value in preprocessing(arrays).items()}
        return both["image"] / both["image"].max(), both["label"].to(torch.uint8)

    for number in range(count):
        (fixed, labels), (image, there) = read(records[2 * number]), read(records[2 * number + 1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * seed + number)
            pair = placed(image, there, random_placement(3, 30.0, 1.1, 0.05, 0.1))
        yield pair._replace(fixed=fixed, fixed_labels=labels)


def measured(pair: PlacedPair, prediction: Tensor, seconds: float) -> dict[str, float]:
    warped, displacement = prediction[:, :1], prediction[:, 1:]
    labels = warp_labels(pair.moving_labels[None, None], displacement).long()
    fixed = pair.fixed_labels[None, None].long()
    apart = (displacement - affine_field(pair.truth, list(pair.fixed.shape)))[0].square().sum(0).sqrt()
    return {
        "error": float(apart[pair.fixed_labels > 0].mean()),
        "dice": float(dice(labels, fixed).nanmean()),
        "hausdorff": float(surface_distances(labels, fixed).hausdorff.nanmean()),
        "information": float(mattes_mutual_information(pair.fixed[None, None], warped)),
        "seconds": seconds,
    }


def picture(pictured: Sequence[tuple[str, PlacedPair, Tensor]]) -> Figure:
    """An easy, a middling and a hard pair: fixed, moving, registered in one pass."""
    figure = Figure(figsize=(7.5, 2.6 * len(pictured)), layout="constrained")
    for line, (name, pair, warped) in zip(figure.subplots(len(pictured), 3, squeeze=False), pictured, strict=True):
        middle = pair.fixed.shape[0] // 2
        for ax, title, image in zip(
            line, ("fixed", f"moving, {name}", "ours"), (pair.fixed, pair.moving, warped), strict=True
        ):
            ax.imshow(image[middle].T.numpy(), cmap="gray", origin="lower")
            bare(ax, title)
    return figure


def page(result: Mapping[str, Any], command: str) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    parts = [
        "## Known placements",
        f"Made by `{command}`; seed {result['seed']}, one thread of "
        f"{result['machine']} at a load of {result['load']} when it began, {versions}. The error is the mean distance, "
        f"in voxels of the image, from where the true map takes what the fixed image shows; above {FAILED:g} it is a "
        "failure. "
        "The brain is the template MNI152; *ours* and *deep_affine* were trained on another one, Colin27, the paper's "
        "networks on both; for hippocampi, *ours* has the weights for those, trained on other subjects.",
    ]
    for name, rows in result["sets"].items():
        parts += [
            f"### {name}",
            f"{SETS[name][0].upper()}{SETS[name][1:]}: {len(rows['none']['error'])} pairs.",
            set_table(name, rows),
        ]
    parts += [
        f"*Ours* is one call of the bundle's default, *refine* the optimiser `affine` from there ({REFINEMENT} "
        "iterations at most), *affine* the same from its own search. *Separate* and *one matrix* are the paper's "
        "network on 24³ voxels, trained as the comparison of heads says. The middles of all pairs' images lie on one "
        "another: to align those is *none*. Between different subjects and after a deformation no affine map is the "
        "true one: there the error is that of the placement, and Dice and mutual information count. Dice, Hausdorff "
        "distance (voxels) and information are of the labels and images "
        "warped by what was found; labels of brains and cubes are where they are. In all sets but the last, *ours*, "
        "*refine* and *affine* were measured in a later run than the others, on a quieter machine: compare times among "
        "these, or in the last set, which is one run.",
        "; ".join(f"{peer} {result['peers'][peer] or '(not installed)'}: {text}" for peer, text in SETTINGS.items())
        + ".",
        "Dice in the paper is of other images (TADPOLE) and a network of 170³ voxels trained on a GPU: the order of "
        "the rows can be compared, the numbers cannot.",
        f"![Pairs before and after]({PICTURE})",
    ]
    return "\n\n".join(parts)


def set_table(name: str, rows: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    lines = []
    for row in ROWS:
        if row not in rows:
            continue
        numbers = {key: np.array(values, dtype=float) for key, values in rows[row].items()}
        reported = "–"
        if name in PAPER and row in IN_PAPER:
            reported = f"{PAPER[name][IN_PAPER.index(row)]:.3f}"
        lines.append(
            [
                row,
                f"{np.median(numbers['error']):.2f}",
                f"{numbers['error'].max():.2f}",
                str(int((numbers["error"] > FAILED).sum())),
                f"{np.nanmean(numbers['dice']):.3f}",
                f"{np.nanmean(numbers['hausdorff']):.1f}",
                f"{np.mean(numbers['information']):.3f}",
                "–" if row == "none" else f"{np.median(numbers['seconds']):.2f}",
                reported,
            ]
        )
    header = [
        "",
        "median error",
        "worst",
        "failures",
        "Dice",
        "Hausdorff",
        "information",
        "s per pair",
        "Dice in the paper",
    ]
    return table(header, lines)
