"""DIRNet on cine cardiac MR: end-diastole onto end-systole and back (the paper's Table 1 and Fig. 4).

Every slice of the test subjects is registered both ways by elastix and by every variant; the moving image's endocardium
label, warped by each method's displacement, is compared with the fixed image's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments import elastix
from experiments.common import (
    TIME,
    Numbers,
    Options,
    Peer,
    bare,
    chosen_records,
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
from warpzoo.geometry.sampling import warp_labels
from warpzoo.registration.pair import Method
from warpzoo.training import PairDataset
from warpzoo.training.evaluation import PairMetricsd

NETWORKS = {
    "BL": {"variant": "paper"},
    **{row: {"variant": f"paper,{row.lower()}"} for row in ("A1", "A2", "B1", "B2", "C1", "C2")},
    "ours": {},
}
"""What `find_methods` takes to make each row of the bundle."""
OTHER_BUNDLE = "voxelmorph_dense"
PAPER_DICE = {
    "before": 0.62,
    "elastix": 0.79,
    "BL": 0.79,
    "A1": 0.78,
    "A2": 0.78,
    "B1": 0.72,
    "B2": 0.78,
    "C1": 0.80,
    "C2": 0.76,
}
ROWS = ["before", "elastix", *NETWORKS, OTHER_BUNDLE]
METRICS = ("dice", "hd95", "msd", "folding", "folding_corners", "ncc", "seconds")
PICTURE = "figures/cardiac.png"
PICTURED_QUANTILES = (1 / 6, 1 / 2, 5 / 6)
WINDOW = 64  # voxels to each side of the heart that the picture shows


def run(options: Options) -> dict[str, Any]:
    config = read_config(options, dataset_dir=str(options.data / "cardiac"))
    pairs = PairDataset(chosen_records(config, options.subset), pairing="same_group")
    chosen = range(min(len(pairs), options.limit or len(pairs)))
    methods = available_methods(options)
    numbers = measure(pairs, chosen, methods, PairMetricsd(surfaces=True), METRICS)
    picture(options.output / PICTURE, pairs, methods, pictured(numbers["before"]["dice"]))
    return {
        **options.record(),
        "elastix": installed_version(elastix.PACKAGE),
        "pairs": [pairs[index]["id"] for index in chosen],
        "rows": numbers,
    }


def available_methods(options: Options) -> dict[str, Sequence[Method]]:
    """The rows that can be run here: elastix where it is installed, networks that have weights."""
    methods: dict[str, Sequence[Method]] = {"before": []}
    if installed_version(elastix.PACKAGE):
        methods["elastix"] = [Peer("elastix", elastix.displacement)]
    methods |= trained_methods(options.bundle, options.weights, NETWORKS)
    other = options.bundle.parent / OTHER_BUNDLE
    dense = trained_methods(other, other / "models", {"cardiac": {"variant": "cardiac"}})
    if dense:
        methods[OTHER_BUNDLE] = dense["cardiac"]
    return methods


def pictured(difficulty: Sequence[float]) -> list[int]:
    """Which pairs the picture shows: a hard, a middling and an easy one by Dice before registration."""
    order = np.argsort(difficulty, kind="stable")
    return sorted(
        {int(order[int(quantile * len(order))]) for quantile in PICTURED_QUANTILES}, key=difficulty.__getitem__
    )


def picture(path: Path, pairs: PairDataset, methods: Mapping[str, Sequence[Method]], shown: Sequence[int]) -> None:
    """One row per pair: fixed, moving, registered by elastix and by us with the endocardium (reference dashed), and how
    much each differs from the fixed image."""
    names = [name for name in ("before", "elastix", "ours") if name in methods]
    figure = Figure(figsize=(2.6 * (1 + 2 * len(names)), 2.75 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 1 + 2 * len(names), squeeze=False)
    for axes, index in zip(grid, shown, strict=True):
        pair = pairs[index]
        view = around(pair["fixed_labels"][0])
        fixed, reference = pair["image"][1][view], pair["fixed_labels"][0][view]
        brightest = float(fixed.quantile(0.995))
        draw(axes[0], fixed, brightest, "fixed", reference)
        axes[0].set_ylabel(pair["id"].replace(" -> ", " →\n"), fontsize=7)
        for column, name in enumerate(names, start=1):
            prediction, _ = registered(pair["image"], methods[name])
            labels = warp_labels(pair["moving_labels"][None], prediction[:, 1:])[0, 0][view]
            warped = prediction[0, 0][view]
            draw(axes[column], warped, brightest, "moving" if name == "before" else name, reference, labels)
            ax = axes[column + len(names)]
            ax.imshow(((warped - fixed).abs() / brightest).numpy(), cmap="inferno", vmin=0, vmax=0.6)
            bare(ax, f"|difference| {name}")
    save_figure(figure, path)


def around(labels: Tensor) -> tuple[slice, ...]:
    """The part of the image around the middle of the labels."""
    centre = labels.nonzero().float().mean(0).round().int().tolist()
    return tuple(
        slice(max(0, middle - WINDOW), min(size, middle + WINDOW))
        for middle, size in zip(centre, labels.shape, strict=True)
    )


def draw(
    ax: Axes, image: Tensor, brightest: float, title: str, reference: Tensor, labels: Tensor | None = None
) -> None:
    ax.imshow(image.numpy(), cmap="gray", vmin=0, vmax=brightest)
    ax.contour(
        reference,
        [0.5],
        colors="deepskyblue",
        linewidths=1,
        linestyles="dashed" if labels is not None else "solid",
    )
    if labels is not None and bool(labels.any()):
        ax.contour(labels.numpy(), [0.5], colors="orange", linewidths=1)
    bare(ax, title)


def page(result: dict[str, Any], command: str) -> str:
    numbers = result["rows"]
    subjects = dict.fromkeys(subject_of(pair) for pair in result["pairs"])
    parts = [
        "## Cardiac MR: end-diastole onto end-systole and back",
        f"Sunnybrook Cardiac Data, `cardiac/sunnybrook_ed_es_pairs.npz`: {len(result['pairs'])} registrations of the "
        f"subjects {', '.join(subjects)}. {provenance(result, command)}",
        table(
            [
                "",
                "Dice",
                "95th percentile distance, px",
                "mean distance, px",
                "folded pixels, %",
                "folded cells, %",
                "NCC",
                "median s per pair",
                "Dice in the paper",
            ],
            [table_row(name, numbers.get(name)) for name in ROWS],
        ),
        "Mean ± standard deviation over the registrations. Distances are between endocardium contours, in pixels: the "
        "archive does not say how large one is (1.28 mm in the paper). The 95th percentile is the larger of the two "
        "directions', the mean is over both. A pixel is folded where the Jacobian determinant by central differences "
        "is ≤ 0, a cell where it is by one-sided differences at any corner. All images and labels are warped in the "
        "same way (linear, nearest) by each method's displacement. "
        f"{TIME} B2's thin-plate spline is evaluated anew for each pair.",
        f"elastix ({result['elastix'] or 'not installed'}) as in the paper: cubic B-spline, spacing 16, NCC, 2 × 100 "
        "iterations. BL to C2 are the paper's networks, trained on the budget of `variants/short.json` (1,200 steps "
        "of 16 crops, C2 12,000 of 16 whole images; the paper's 10,000 of 32 whole images is `variants/paper.json`); "
        f"*ours* is the bundle's default, *{OTHER_BUNDLE}* that bundle's `cardiac`. The paper's numbers "
        "are of other subjects of this collection.",
    ]
    if "elastix" in numbers and "ours" in numbers:
        parts.append(comparison(result))
    parts.append(f"![Registered pairs]({PICTURE})")
    parts.append(
        "A hard, a middling and an easy pair (the 1/6, 1/2 and 5/6 quantiles of Dice before registration). Contours: "
        "endocardium of the fixed image (blue) and the moving image's, warped (orange)."
    )
    return "\n\n".join(parts)


def subject_of(pair: str) -> str:
    """A pair's id starts with its subject's."""
    return pair.partition("/")[0]


def table_row(name: str, numbers: Numbers | None) -> list[str]:
    reported = f"{PAPER_DICE[name]:.2f}" if name in PAPER_DICE else "–"
    if numbers is None:
        return [name, "not installed" if name == "elastix" else "not trained", *["–"] * 6, reported]
    return [
        name,
        mean_std(numbers["dice"], 3),
        mean_std(numbers["hd95"], 2),
        mean_std(numbers["msd"], 2),
        f"{100 * np.mean(numbers['folding']):.3f}",
        f"{100 * np.mean(numbers['folding_corners']):.3f}",
        mean_std(numbers["ncc"], 3),
        "–" if name == "before" else f"{np.median(numbers['seconds']):.4f}",
        reported,
    ]


def comparison(result: dict[str, Any]) -> str:
    """Ours against elastix on the same pairs, and the same subjects."""
    ours, theirs = (result["rows"][name] for name in ("ours", "elastix"))
    subjects = np.array([subject_of(pair) for pair in result["pairs"]])
    sentences = []
    for metric, label, digits, sign in (
        ("dice", "Dice", 4, 1),
        ("hd95", "95th percentile distance", 2, -1),
        ("msd", "mean distance", 2, -1),
    ):
        gained = gain(ours, theirs, metric)
        means = [np.nanmean(gained[subjects == subject]) for subject in np.unique(subjects)]
        sentences.append(
            f"{gain_in_words(label, gained, digits, sign)} and on average in {sum(sign * mean > 0 for mean in means)} "
            f"of {len(means)} subjects"
        )
    speed = speed_ratio(ours, theirs)
    return f"Ours minus elastix, pair by pair: {'; '.join(sentences)}. Ours takes 1/{speed:.1f} of elastix' time."
