"""MR volumes of the hippocampus, every one registered to one of them (the fcn_multires paper's experiments).

Labels warped by each method's displacement are compared with the fixed image's; NCC of pairs that the networks were
trained on and of others; the mean of the registered images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from torch import Tensor
from tqdm import tqdm

from experiments import ants
from experiments.common import (
    TIME,
    Numbers,
    Options,
    Peer,
    bare,
    chosen_records,
    found_of,
    gain,
    gain_in_words,
    installed_version,
    mean_std,
    measure,
    provenance,
    read_config,
    registered,
    save_figure,
    speed_ratio,
    table,
    trained_methods,
)
from warpzoo.geometry.sampling import warp, warp_labels
from warpzoo.losses import normalised_cross_correlation
from warpzoo.networks import Standardise
from warpzoo.registration import find_methods
from warpzoo.registration.pair import Method
from warpzoo.training import PairDataset, not_of_subjects, of_subjects

OTHER_BUNDLE = "voxelmorph_dense"
FIRST_STAGE = "stn_affine:hippocampus"
SPLINE = "dirnet:hippocampus"
REFINEMENT = 30
ADAPTATION = 20
NETWORKS = {
    "no_pooling": {"variant": "paper,no_pooling"},
    "coarse": {"variant": "paper,coarse"},
    "multi_resolution": {"variant": "paper"},
    "plain": {"variant": "plain"},
    "ours": {},
    "refined": {"refine": REFINEMENT},
    "adapted": {"adapt": ADAPTATION},
}
"""What `find_methods` takes to make each row of the bundle."""
ROWS = {
    "before": "before",
    "ants": "ANTs SyN",
    "no_pooling": "no pooling",
    "coarse": "coarse",
    "multi_resolution": "multi-resolution",
    "plain": "ours, no velocity",
    "ours": "ours",
    "twice": "ours, twice",
    "placed": "stn_affine, ours",
    "placed_twice": "stn_affine, ours, twice",
    "refined": "ours + refine",
    "placed_refined": "stn_affine, ours + refine",
    "adapted": "ours + adapt",
    OTHER_BUNDLE: OTHER_BUNDLE,
    "placed_spline": "stn_affine, ffd",
    "placed_dirnet": "stn_affine, dirnet",
    "optimised": "affine, svf (no network)",
}
"""What each method is called in the table."""
PAPER_DICE = {"before": "0.654 ± 0.062", "ants": "0.762 ± 0.057", "multi_resolution": "0.798 ± 0.033"}
STRUCTURES = ("whole", "anterior", "posterior")
METRICS = (*(f"dice_{name}" for name in STRUCTURES), "folding", "folding_corners", "ncc", "seconds")
CORRELATED = ("no_pooling", "coarse", "multi_resolution", "ours")
CORRELATED_PAIRS = 200
PICTURE = "figures/hippocampus.png"
MISSING = {
    "ants": "not installed",
    **dict.fromkeys(("placed_spline", "placed_dirnet", "twice", "placed_twice"), "not measured"),
}
"""Why a row may have no numbers, if not for lack of weights."""
PICTURED = ("before", "ants", "placed", "placed_refined")
COMPARED = ("ours", "twice", "placed", "placed_twice", "refined", "placed_refined")


def run(options: Options) -> dict[str, Any]:
    config = read_config(options, dataset_dir=str(options.data / "hippocampus"))
    records = chosen_records(config, options.subset)
    fixed = records[0]["id"]
    pairs = PairDataset(records, "to_fixed", fixed, config.get_parsed_content("preprocessing"), cache=None)
    chosen = range(min(len(pairs), options.limit or len(pairs)))
    methods = available_methods(options)
    means = Means()
    metrics = config.get_parsed_content("validate#postprocessing")
    numbers = measure(pairs, chosen, methods, metrics, METRICS, means.add)
    save_figure(picture(means), options.output / PICTURE)
    return {
        **options.record(),
        "ants": installed_version(ants.PACKAGE),
        "fixed": fixed,
        "pairs": [pairs[index]["id"] for index in chosen],
        "rows": numbers,
        "means": means.numbers(),
        "correlations": correlations(options, config, methods),
    }


def available_methods(options: Options) -> dict[str, Sequence[Method]]:
    """The rows that can be run here: ANTs where it is installed, networks that have weights."""
    methods: dict[str, Sequence[Method]] = {"before": []}
    if installed_version(ants.PACKAGE):
        methods["ants"] = [Peer("ANTs", ants.displacement)]
    methods |= trained_methods(options.bundle, options.weights, NETWORKS)
    other = options.bundle.parent / OTHER_BUNDLE
    methods |= trained_methods(other, other / "models", {OTHER_BUNDLE: {}})
    if "ours" in methods:
        methods["twice"] = find_methods(
            ",".join([str(options.bundle)] * 2), weights=str(options.weights / "model.pt"), device="cpu"
        )
    for row, after in (("placed", "ours"), ("placed_twice", "twice"), ("placed_refined", "refined")):
        if after in methods:
            methods[row] = [*find_methods(FIRST_STAGE, device="cpu"), *methods[after]]
    for row, spline in (("placed_spline", "ffd"), ("placed_dirnet", SPLINE)):
        methods[row] = find_methods(f"{FIRST_STAGE},{spline}", device="cpu")
    return methods | {"optimised": find_methods("affine,svf", device="cpu")}


class Means:
    """The mean of all moving images, each of zero mean and unit variance, and of their hippocampi, warped by each
    method: (*spatial) by the method's name; and the fixed image's own by "fixed"."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add(self, method: str, pair: dict[str, Any], prediction: Tensor) -> None:
        displacement = prediction[:, 1:]
        image = Standardise()(pair["image"][None])
        inside = warp_labels((pair["moving_labels"][None] > 0).float(), displacement)
        self._add(method, warp(image[:, :1], displacement), inside)
        self._add("fixed", image[:, 1:], (pair["fixed_labels"][None] > 0).float())

    def _add(self, name: str, image: Tensor, inside: Tensor) -> None:
        both = torch.cat([image, inside], dim=1)[0]
        self.sums[name] = self.sums[name] + both if name in self.sums else both
        self.counts[name] += 1

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """The mean image and how many of the hippocampi are there, 0 to 1."""
        image, inside = self.sums[name] / self.counts[name]
        return image, inside

    def numbers(self) -> dict[str, dict[str, float]]:
        """`sharpness`, the mean gradient of the mean image in standard deviations per voxel, and `agreement`, the mean
        of the mean hippocampus inside the fixed one."""
        reference = self.of("fixed")[1] > 0.5
        numbers = {}
        for name in self.sums:
            image, inside = self.of(name)
            gradient = torch.stack(torch.gradient(image)).norm(dim=0)
            numbers[name] = {
                "sharpness": round(float(gradient.mean()), 4),
                "agreement": round(float(inside[reference].mean()), 4),
            }
        return numbers


def correlations(
    options: Options, config: ConfigParser, methods: Mapping[str, Sequence[Method]]
) -> dict[str, dict[str, list[float]]]:
    """NCC of pairs drawn from the training, the validation and the test subjects, before and as registered."""
    records = config.get_parsed_content("records")
    validation, test = (
        found_of(records, config.get_parsed_content(f"{name}_subjects")) for name in ("validation", "test")
    )
    rows = [row for row in ("before", *CORRELATED) if row in methods]
    result: dict[str, dict[str, list[float]]] = {}
    for name, chosen in (
        ("training", not_of_subjects(records, validation + test)),
        ("validation", of_subjects(records, validation)),
        ("test", of_subjects(records, test)),
    ):
        pairs = PairDataset(chosen, "all", transform=config.get_parsed_content("preprocessing"), cache=None)
        count = min(len(pairs), CORRELATED_PAIRS, options.limit or CORRELATED_PAIRS)
        drawn = np.random.default_rng(options.seed).choice(len(pairs), count, replace=False)
        result[name] = {row: [] for row in rows}
        for index in tqdm(drawn.tolist(), desc=f"{name} pairs"):
            image = pairs[index]["image"]
            for row in rows:
                warped = registered(image, methods[row])[0][:, :1]
                result[name][row].append(round(float(normalised_cross_correlation(image[None, 1:], warped)), 6))
    return result


def picture(means: Means) -> Figure:
    """The fixed image and the mean ones, sagittal and coronal through the middle of the fixed hippocampus; below, how
    many of the hippocampi are there, with the outline of the fixed one."""
    names = ["fixed", *(name for name in PICTURED if name in means.sums)]
    numbers = means.numbers()
    fixed, reference = means.of("fixed")
    sagittal, coronal, _ = reference.nonzero().float().mean(0).round().int().tolist()

    def planes(volume: Tensor) -> np.ndarray:
        return torch.cat([volume[sagittal], volume[:, coronal]]).T.numpy()

    darkest, brightest = planes(fixed).min(), np.quantile(planes(fixed), 0.995)
    figure = Figure(figsize=(3.2 * len(names), 3.7), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False)
    for (above, below), name in zip(grid.T, names, strict=True):
        image, inside = means.of(name)
        above.imshow(planes(image), cmap="gray", origin="lower", vmin=darkest, vmax=brightest)
        bare(above, "fixed" if name == "fixed" else f"mean, {ROWS[name]}")
        above.set_xlabel(f"sharpness {numbers[name]['sharpness']:.3f}", fontsize=8)
        below.imshow(planes(inside), cmap="magma", origin="lower", vmin=0, vmax=1)
        below.contour(planes(reference), [0.5], colors="deepskyblue", linewidths=1)
        bare(below, "hippocampus")
        below.set_xlabel(f"agreement {numbers[name]['agreement']:.3f}", fontsize=8)
    return figure


def page(result: dict[str, Any], command: str) -> str:
    rows = result["rows"]
    parts = [
        "## Hippocampus: every image to one",
        f"Medical Segmentation Decathlon, Task04 Hippocampus, `hippocampus/`: {len(result['pairs'])} volumes onto "
        f"`{result['fixed']}`. {provenance(result, command)}",
        table(
            [
                "",
                "Dice whole",
                "Dice anterior",
                "Dice posterior",
                "folded voxels, %",
                "folded cells, %",
                "NCC",
                "sharpness of the mean",
                "median s per pair",
                "Dice in the paper",
            ],
            [table_row(result, name) for name in ROWS],
        ),
        "Mean ± standard deviation over the pairs. *Whole* is anterior and posterior taken together. A voxel is folded "
        "where the Jacobian determinant by central differences is ≤ 0, a cell where it is by one-sided differences at "
        "any corner. Every method gets the same two images, brought to 40×56×40 voxels by the bundle's preprocessing; "
        "images and labels are warped in the same way (linear, nearest) by each method's displacement. Sharpness is "
        "the mean gradient, in standard deviations per voxel, of the mean of all warped images; the fixed image's is "
        f"{result['means']['fixed']['sharpness']:.3f}. {TIME}",
        f"ANTs (antspyx {result['ants'] or 'not installed'}) as in the paper: affine, 100×100×100 iterations by mutual "
        "information from centres of mass; SyN[0.25], Gauss[3,0], 100×100×10 iterations by cross-correlation of radius "
        "2; both at a quarter, half and all of the resolution, histograms matched. *No pooling*, *coarse* and "
        "*multi-resolution* are the paper's networks (`variants/paper.json`), the last one its method; *ours* is the "
        "bundle's default, which predicts a velocity; how long each was trained is recorded beside its weights. "
        "*Twice* is the same network once more on what it has registered. "
        f"*stn_affine* is one pass of `{FIRST_STAGE}` before it, *dirnet* one of `{SPLINE}`, which predicts the "
        "control points of a B-spline; rows with it were measured again on a quieter machine: compare their times with "
        "each other. "
        f"*Refine* optimises the transform on the pair ({REFINEMENT} iterations from the network's answer), "
        f"*adapt* trains the network further on it ({ADAPTATION} iterations). The paper's numbers are of other "
        "images (ADNI) and labels.",
        *(comparison(rows, name) for name in COMPARED if name in rows and "ants" in rows),
        f"![Mean images before and after registration]({PICTURE})",
        "Sagittal and coronal planes through the middle of the fixed hippocampus. Above the fixed image and the mean "
        "of the others; below the share of their hippocampi, warped, at each voxel (black none, bright all) and the "
        "fixed one's outline; agreement is the mean inside it.",
        "### NCC of pairs trained on and of others",
        table(
            ["", *(f"{name} ({len(values['before'])} pairs)" for name, values in result["correlations"].items())],
            [correlation_row(result, name) for name in ("before", *CORRELATED)],
        ),
        "Pairs drawn with the seed among all of each kind of subjects. Mean ± standard deviation of the correlation "
        "over the whole image.",
    ]
    return "\n\n".join(parts)


def table_row(result: dict[str, Any], name: str) -> list[str]:
    reported = PAPER_DICE.get(name, "–")
    numbers = result["rows"].get(name)
    if numbers is None:
        return [ROWS[name], MISSING.get(name, "not trained"), *["–"] * 7, reported]
    return [
        ROWS[name],
        *(mean_std(numbers[f"dice_{structure}"], 3) for structure in STRUCTURES),
        *(f"{100 * np.mean(numbers[folds]):.3f}" for folds in ("folding", "folding_corners")),
        mean_std(numbers["ncc"], 3),
        f"{result['means'][name]['sharpness']:.3f}",
        "–" if name == "before" else f"{np.median(numbers['seconds']):.3f}",
        reported,
    ]


def correlation_row(result: dict[str, Any], name: str) -> list[str]:
    sets = result["correlations"].values()
    return [ROWS[name], *(mean_std(values[name], 3) if name in values else "not trained" for values in sets)]


def comparison(rows: Mapping[str, Numbers], name: str) -> str:
    """One of ours against ANTs on the same pairs."""
    ours, theirs = rows[name], rows["ants"]
    gains = [gain_in_words(structure, gain(ours, theirs, f"dice_{structure}"), 3) for structure in STRUCTURES]
    apart = name.startswith("placed")  # measured in another run than ANTs
    time = "" if apart else f" It takes 1/{speed_ratio(ours, theirs):.0f} of ANTs' time."
    return f"*{ROWS[name]}* minus ANTs, Dice pair by pair: {'; '.join(gains)}.{time}"
