"""DIRNet on handwritten digits: every test digit of a class onto one of them (the paper's Fig. 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from experiments.common import (
    Options,
    chosen_records,
    mean_std,
    provenance,
    read_config,
    registered,
    save_figure,
    table,
)
from warpzoo.losses import normalised_cross_correlation
from warpzoo.metrics import folding
from warpzoo.registration import find_methods

CLASSES = range(10)
PICTURE = "figures/digits.png"


def run(options: Options) -> dict[str, Any]:
    classes: dict[str, dict[str, Any]] = {}
    columns: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for digit in tqdm(CLASSES, desc="digit classes"):
        weights = options.weights / "digits" / f"{digit}.pt"
        if not weights.exists():
            continue
        config = read_config(options, ["digits"], dataset_dir=str(options.data / "mnist"), digit=digit)
        images = torch.stack(
            [torch.as_tensor(record["image"]).float() for record in chosen_records(config, options.subset)]
        )[:, None]
        drawn = int(np.random.default_rng((options.seed, digit)).integers(len(images)))
        fixed = images[drawn : drawn + 1]
        moving = torch.cat([images[:drawn], images[drawn + 1 :]])[: options.limit]
        methods = find_methods(str(options.bundle), variant="digits", weights=str(weights), device="cpu")
        prediction = torch.cat([registered(torch.cat([one, fixed[0]]), methods)[0] for one in moving])
        warped, displacement = prediction[:, :1], prediction[:, 1:]
        folds = folding(displacement)
        mean_warped = warped.mean(0, keepdim=True)
        classes[str(digit)] = {
            "digits": len(moving),
            "ncc_before": correlations(fixed, moving),
            "ncc": correlations(fixed, warped),
            "ncc_of_mean_before": correlations(fixed, moving.mean(0, keepdim=True))[0],
            "ncc_of_mean": correlations(fixed, mean_warped)[0],
            "folding": float(folds.central.mean()),
            "folding_corners": float(folds.forward.mean()),
        }
        columns[digit] = (moving.mean(0)[0], fixed[0, 0], mean_warped[0, 0])
    if columns:
        save_figure(picture(columns), options.output / PICTURE)
    return {**options.record(), "classes": classes}


def correlations(fixed: Tensor, images: Tensor) -> list[float]:
    return [round(value, 4) for value in normalised_cross_correlation(fixed.expand_as(images), images).tolist()]


def picture(columns: dict[int, tuple[Tensor, Tensor, Tensor]]) -> Figure:
    figure = Figure(figsize=(1.3 * len(columns) + 0.4, 4.1), layout="constrained")
    grid = figure.subplots(3, len(columns), squeeze=False)
    for axes, (digit, images) in zip(grid.T, columns.items(), strict=True):
        axes[0].set_title(str(digit), fontsize=10)
        for ax, image in zip(axes, images, strict=True):
            ax.imshow(image.numpy(), cmap="gray", vmin=0, vmax=255)
            ax.set_xticks([])
            ax.set_yticks([])
    for ax, name in zip(grid[:, 0], ("mean moving", "fixed", "mean registered"), strict=True):
        ax.set_ylabel(name, fontsize=9)
    return figure


def page(result: dict[str, Any], command: str) -> str:
    classes = result["classes"]
    rows = [table_row(str(digit), classes.get(str(digit))) for digit in CLASSES]
    if classes:
        rows.append(
            [
                "mean",
                str(sum(row["digits"] for row in classes.values())),
                *(f"{np.mean([np.mean(row[name]) for row in classes.values()]):.3f}" for name in ("ncc_before", "ncc")),
                *(
                    f"{np.mean([row[n] for row in classes.values()]):.3f}"
                    for n in ("ncc_of_mean_before", "ncc_of_mean")
                ),
                *(f"{100 * np.mean([row[n] for row in classes.values()]):.3f}" for n in ("folding", "folding_corners")),
            ]
        )
    parts = [
        "## Handwritten digits: a class onto one of its digits",
        "MNIST, `mnist/mnist_train.npz`: its last 10,000 digits are the test digits, which the networks, one per "
        f"class, were not trained on; the fixed one is drawn with the seed. {provenance(result, command)}",
        table(
            [
                "class",
                "moving digits",
                "NCC before",
                "NCC registered",
                "NCC of the mean moving",
                "NCC of the mean registered",
                "folded pixels, %",
                "folded cells, %",
            ],
            rows,
        ),
        "NCC is the correlation with the fixed digit over the whole image: mean ± standard deviation over the digits, "
        "and that of the mean image. Pixels and cells are folded where the Jacobian determinant by central or "
        "one-sided differences is ≤ 0.",
    ]
    if classes:
        parts.append(f"![Mean moving, fixed and mean registered digits]({PICTURE})")
    return "\n\n".join(parts)


def table_row(digit: str, row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return [digit, "not trained", *["–"] * 6]
    return [
        digit,
        str(row["digits"]),
        mean_std(row["ncc_before"], 3),
        mean_std(row["ncc"], 3),
        f"{row['ncc_of_mean_before']:.3f}",
        f"{row['ncc_of_mean']:.3f}",
        f"{100 * row['folding']:.3f}",
        f"{100 * row['folding_corners']:.3f}",
    ]
