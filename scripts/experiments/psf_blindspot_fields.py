"""Filters and networks on real noisy fields whose mean of 50 shots is known (the study's Table 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage
from tqdm import tqdm

from experiments.common import Options, bare, save_figure, table
from experiments.psf_blindspot import (
    BUDGET,
    DEFAULT,
    NETWORKS,
    Images,
    against_filters,
    fields,
    filtered,
    measured,
    moved_to,
    peak_memory,
    provenance,
    trained,
)

PICTURE = "figures/fields.png"
STUDY = {
    "noisy": 23.12,
    "median": 30.94,
    "gaussian": 34.52,
    "box": 32.88,
    "PSF 0.5": 31.73,
    DEFAULT: 33.69,
    "PSF 1.5": 33.19,
}
INSET = 96  # pixels a side


def run(options: Options) -> dict[str, Any]:
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    shifts: dict[str, list[float]] = {}
    pictured: dict[str, Images] = {}
    for name, path, noisy, clean in fields(options):
        numbers, images = filtered(noisy, clean)
        best = max(numbers, key=lambda row: numbers[row]["psnr"])
        pictured[name] = {"noisy": noisy, f"best filter: {best}": images[best]}
        numbers = {"noisy": measured(noisy, clean), **numbers}
        images["noisy"] = noisy
        for network, variants in tqdm(NETWORKS.items(), desc=name):
            numbers[network], images[network] = trained(options, path, clean, variants)
        pictured[name] |= {DEFAULT: images[DEFAULT], "mean of 50": clean}
        shift, moved = moved_to(noisy, clean)
        for row, image in images.items():
            numbers[row]["psnr_moved"] = measured(image, moved)["psnr"]
        rows[name], shifts[name] = numbers, shift
    picture(options.output / PICTURE, pictured)
    return {
        **options.record(),
        "rows": rows,
        "shifts": shifts,
        "budget": BUDGET,
        "peak_memory_mb": round(peak_memory()),
    }


def picture(path: Path, pictured: Mapping[str, Images]) -> None:
    """A row per field: the whole image, and beside it its busiest inset in every version."""
    columns = 1 + max(len(images) for images in pictured.values())
    figure = Figure(figsize=(2.6 * columns, 2.8 * len(pictured)), layout="constrained")
    grid = figure.subplots(len(pictured), columns, squeeze=False)
    for axes, (name, images) in zip(grid, pictured.items(), strict=True):
        clean = images["mean of 50"]
        brightest = float(np.quantile(clean, 0.998))
        activity = ndimage.uniform_filter(ndimage.gaussian_gradient_magnitude(clean, 1.5), INSET)
        half = INSET // 2
        inner = activity[half:-half, half:-half]
        row, column = (int(at) for at in np.unravel_index(inner.argmax(), inner.shape))
        axes[0].imshow(images["noisy"], cmap="gray", vmin=0, vmax=brightest)
        corners = np.array([[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]]) * INSET + [column, row]
        axes[0].plot(*corners.T, color="orange", linewidth=1)
        bare(axes[0], f"{name}, noisy")
        for ax, (title, image) in zip(axes[1:], images.items(), strict=False):
            ax.imshow(image[row : row + INSET, column : column + INSET], cmap="gray", vmin=0, vmax=brightest)
            bare(ax, title.replace(", ", ",\n"))
    save_figure(figure, path)


def page(result: Mapping[str, Any], command: str) -> str:
    names = list(result["rows"])
    first = result["rows"][names[0]]
    lines = []
    for row in first:
        values = [result["rows"][name][row] for name in names]
        reported = STUDY.get(row.partition(",")[0])
        seconds = [value.get("cpu_seconds") for value in values]
        cells = [f"{value['psnr']:.2f} / {value['scale_invariant_psnr']:.2f} / {value['ssim']:.3f}" for value in values]
        time_taken = "–" if None in seconds else f"{np.mean(seconds):.0f}"
        lines.append([row, *cells, time_taken, "–" if reported is None else f"{reported:.2f}"])
    return "\n\n".join(
        [
            "## Real noisy fields",
            f"Confocal fields of one shot against the mean of 50 shots; networks trained on that noisy image alone for "
            f"{result['budget']} of one core. {provenance(result, command)} Peak memory of the whole run, with all "
            f"libraries: {result['peak_memory_mb']} MB.",
            table(["PSNR / scale-invariant PSNR / SSIM", *names, "s", "PSNR in the study"], lines),
            "PSNR in dB in the range of the mean image (its maximum minus its minimum); scale-invariant after the "
            "best gain and offset. Filters: the best of all sizes by the mean image, which nobody has in practice, and "
            "the size found without it by J-invariance. BM3D (`pip install bm3d`, free for non-commercial use only) is "
            "told so many times the noise's level as it is estimated, without the clean image just that. The study's "
            "numbers are of another field (mouse actin).",
            *(against_filters(name, result["rows"][name], "psnr") for name in names),
            *where_the_shot_was(result),
            f"![Noisy fields, filtered and denoised]({PICTURE})",
            "The inset (orange) is where the mean image has most structure.",
        ]
    )


def where_the_shot_was(result: Mapping[str, Any]) -> list[str]:
    """The same numbers without the motion between the shot and the others."""
    rows, shifts = result["rows"], result["shifts"]
    distances = ", ".join(f"{math.hypot(*shift):.2f} ({name})" for name, shift in shifts.items())
    lines = [[row, *(f"{rows[name][row]['psnr_moved']:.2f}" for name in rows)] for row in next(iter(rows.values()))]
    return [
        f"The specimen moved between that shot and the others, by {distances} pixels according to the peak of their "
        "cross-correlation. Against the mean image above, detail in the right place counts as error, and blur is "
        "rewarded. PSNR against the mean image moved to where the shot was:",
        table(["PSNR, reference moved", *rows], lines),
        *(against_filters(name, rows[name], "psnr_moved") for name in rows),
    ]
