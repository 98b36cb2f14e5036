"""DenoiseReg's Tables 1 and 2 on simulated nuclei: how far key points are from where they belong, on the contour and
inside, at three noise levels, beside classical methods and beside the paper's numbers.

Frames are registered to the first one, each on its own. Every row is a chain of methods, on the noisy frames or on what
the network has made of them; a row whose method is not there is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from experiments.common import Options, bare, save_figure, table
from warpzoo.data.cells import CellSequence, cell_sequence, noisy
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Transform, resample
from warpzoo.images.image import Image
from warpzoo.metrics import psnr
from warpzoo.registration import find_methods, register_pair
from warpzoo.registration.budget import Budget
from warpzoo.registration.optimisation import Refinement
from warpzoo.registration.sequence import AFTER_NOISE

SNRS = (3.0, 1.5, 0.5)
SEQUENCES = ("B1", "A1", "B3", "A2", "B2", "B4")
SEED = 70_000_000
"""Of the first sequence: no training, and no validation, uses any near it."""
REFINEMENT = 60
"""Iterations."""
TRUE = "the true affine part"


class Row(NamedTuple):
    """What a row is.

    chain: of methods; a word that `find_methods` does not know leaves the row out, but for `refine`.
    denoised: whether they are given what the network has made of the frames.
    start: whether they go on from where the network has placed the frames.
    resolution: in pixels, of the finest level of a deformation that is optimised.
    """

    chain: str = ""
    denoised: bool = False
    start: bool = False
    resolution: float | None = None


ROWS = {
    "unregistered": Row(),
    "phase correlation": Row("phase_correlation"),
    "contour": Row("contour"),
    "StackReg": Row("stackreg"),
    "demons": Row("demons"),
    "moments, ECC, DIS": Row("ecc_flow"),
    "flow of several frames": Row("local_flow"),
    "affine": Row("affine"),
    "deep affine": Row("deep_affine:cells"),
    "VoxelMorph": Row("voxelmorph_dense:cells"),
    "denoised, StackReg": Row("stackreg", denoised=True),
    "denoised, affine": Row("affine", denoised=True),
    "denoised, deep affine": Row("deep_affine:cells", denoised=True),
    "DenoiseReg": Row(start=True),
    "DenoiseReg, refined": Row("refine", denoised=True, start=True),
    "DenoiseReg* + VoxelMorph": Row("voxelmorph_dense:cells", start=True),
    "DenoiseReg + VoxelMorph": Row("voxelmorph_dense:cells", denoised=True, start=True),
    "DenoiseReg* + svf": Row("svf", start=True),
    "DenoiseReg, refined, + VoxelMorph": Row("refine,voxelmorph_dense:cells", denoised=True, start=True),
    "DenoiseReg, refined, + fcn_multires": Row("refine,fcn_multires:any_2d", denoised=True, start=True),
    "DenoiseReg, refined, + svf": Row("refine,svf", denoised=True, start=True),
    "DenoiseReg, refined, + svf, coarse": Row("refine,svf", denoised=True, start=True, resolution=AFTER_NOISE),
}
PAPER = {
    "unregistered": ("30.74", "49.55", "10.50", "7.95"),
    "contour": ("6.22", "8.61", "2.58", "4.73"),
    "flow of several frames": ("5.47", "7.03", "2.12", "4.22"),
    "deep affine": ("35.61", "27.03", "3.25", "4.83"),
    "VoxelMorph": ("30.92", "49.40", "5.14", "5.34"),
    "denoised, deep affine": ("8.09", "10.10", "3.26", "4.81"),
    "DenoiseReg": ("7.33", "10.03", "3.23", "4.74"),
    "DenoiseReg* + VoxelMorph": ("7.23", "9.96", "2.31", "4.45"),
    "DenoiseReg + VoxelMorph": ("4.55", "6.75", "2.00", "4.23"),
}
"""A1 and A2, averages of three annotators; B, average of the contour points and of the interior points."""
PICTURE = "figures/cells.png"


def run(options: Options) -> dict[str, Any]:
    network = find_methods(str(options.bundle), weights=str(options.weights / "model.pt"), device="cpu")[0]
    chains = {row: chain for row, one in ROWS.items() if (chain := methods_of(one)) is not None}
    results: dict[str, Any] = {}
    pictured = []
    for number, preset in enumerate(SEQUENCES[: options.limit]):
        sequence = last_frame(cell_sequence(preset, snr=None, seed=SEED + 1000 * options.seed + number))
        for snr in SNRS:
            observed = noisy(sequence.clean, snr, SEED + number)
            entry = measured(network, chains, sequence, observed)
            results[f"{preset} at {snr:g}"] = entry.numbers
            if snr == SNRS[1] and preset in ("A1", "B1"):
                pictured.append((preset, sequence, entry))
    if pictured:
        save_figure(picture(pictured), options.output / PICTURE)
    return {**options.record(), "sequences": results}


def last_frame(sequence: CellSequence) -> CellSequence:
    """The first frame, and the one that is furthest from it."""
    chosen = [0, len(sequence.clean) - 1]
    return sequence._replace(
        clean=sequence.clean[chosen], points=sequence.points[chosen], matrices=sequence.matrices[chosen]
    )


def methods_of(row: Row) -> list[Any] | None:
    """The methods of a row after the network; None if one of them is not there."""
    if not row.chain:
        return []
    found: list[Any] = []
    for name in row.chain.split(","):
        try:
            found += (
                [Refinement(Budget.read("refine", REFINEMENT))]
                if name == "refine"
                else find_methods(name, device="cpu", resolution=row.resolution)
            )
        except ValueError:
            return None
    return found


class Measured(NamedTuple):
    """The numbers of a sequence; its frames, noisy and denoised; what the rows have found for the last one."""

    numbers: dict[str, Any]
    noisy: list[Image]
    denoised: list[Image]
    last: dict[str, Transform]


def measured(network: Any, chains: Mapping[str, Sequence[Any]], sequence: CellSequence, frames: Tensor) -> Measured:
    """Mean distances of the key points of the contour and of those inside, by row; and what denoising gains."""
    images = [image_of(frame) for frame in frames]
    network(images[0], images[1], None)
    model = network.network
    with torch.no_grad():
        seen = [replace(image, array=model.denoised(image.array[None])[0]) for image in images]
    rows: dict[str, dict[str, list[float]]] = {row: {"contour": [], "interior": []} for row in (*chains, TRUE)}
    last: dict[str, Transform] = {}
    for frame in tqdm(range(1, len(images)), leave=False):
        start = network(images[0], images[frame], None)
        for row, chain in chains.items():
            pair = (seen if ROWS[row].denoised else images)[0], (seen if ROWS[row].denoised else images)[frame]
            begin = start if ROWS[row].start else None
            transform = register_pair(*pair, chain, start=begin, interruptible=False).transform if chain else begin
            distances(rows[row], sequence, frame, transform)
            if transform is not None:
                last[row] = transform
        distances(rows[TRUE], sequence, frame, Affine.from_world(true_matrices(sequence)[[frame]], images[0].grid))
    truth = [image_of(clean).array[None] for clean in sequence.clean]
    before, after = (
        float(np.mean([float(psnr(one.array[None], clean)) for one, clean in zip(some, truth, strict=True)]))
        for some in (images, seen)
    )
    return Measured({"rows": rows, "psnr": [round(before, 2), round(after, 2)]}, images, seen, last)


def distances(found: dict[str, list[float]], sequence: CellSequence, frame: int, transform: Transform | None) -> None:
    """Adds the mean distances of a frame's key points from where a transform takes those of the first frame."""
    points = sequence.points.flip(2)
    reached = points[0] if transform is None else transform.world(points[0].float())[0]
    apart = (reached - points[frame]).square().sum(1).sqrt()
    for where, chosen in (("contour", sequence.contour), ("interior", ~sequence.contour)):
        found[where].append(round(float(apart[chosen].mean()), 3))


def true_matrices(sequence: CellSequence) -> Tensor:
    """The affine part of the motion (frames, dims, dims + 1), columns before rows, as the images' axes are."""
    true = sequence.matrices.flip(1)
    return torch.cat([true[:, :, :-1].flip(2), true[:, :, -1:]], 2)


def image_of(frame: Tensor) -> Image:
    """With the axes of an image that is registered, x first."""
    array = frame.permute(*reversed(range(frame.dim()))).contiguous()
    return Image.in_memory(array[None], Grid(array.shape), "frame", pixels=True)


def picture(pictured: Sequence[tuple[str, CellSequence, Measured]]) -> Figure:
    """As the paper's Fig. 2: the first frame, the last one as it is, denoised, and registered, with the key points of
    the first frame in red and of the last one in yellow."""
    figure = Figure(figsize=(10, 2.6 * len(pictured)), layout="constrained")
    for line, (preset, sequence, entry) in zip(figure.subplots(len(pictured), 4, squeeze=False), pictured, strict=True):
        first, last = sequence.points[0].flip(1), sequence.points[-1].flip(1)
        images = {f"{preset}: first frame": (entry.noisy[0], None), "last frame": (entry.noisy[-1], last)}
        images["last frame, denoised"] = (entry.denoised[-1], last)
        back = entry.last["DenoiseReg, refined, + svf, coarse"]
        grid = entry.denoised[-1].grid
        warped = resample(entry.denoised[-1].array[None], grid, back, grid)[0]
        images["registered"] = (replace(entry.denoised[-1], array=warped), None)
        for ax, (title, (image, points)) in zip(line, images.items(), strict=True):
            ax.imshow(image.array[0].T.numpy(), cmap="gray")
            ax.plot(*first[sequence.contour].T, "r.", markersize=3)
            if points is not None:
                ax.plot(*points[sequence.contour].T, "y.", markersize=3)
            bare(ax, title)
    return figure


def page(result: Mapping[str, Any], command: str) -> str:
    parts = [
        "## Simulated nuclei",
        f"{provenance(result, command)} The nuclei are those of `warpzoo.data.cells`, of the sizes and motions of the "
        "paper's sequences, with other seeds than any training: of each, the last frame is registered to the first, "
        "on its own. Numbers are mean distances, in pixels, of key points from where they belong; *median* is that of "
        f"the {len({name.split()[0] for name in result['sequences']})} sequences' means of contour and interior.",
    ]
    for snr in SNRS:
        entries = {
            name.split()[0]: entry for name, entry in result["sequences"].items() if name.endswith(f"at {snr:g}")
        }
        gained = [entry["psnr"][1] - entry["psnr"][0] for entry in entries.values()]
        parts += [
            f"### SNR {snr:g}",
            snr_table(entries),
            f"Denoised, the frames have a PSNR that is {np.mean(gained):.1f} dB higher ({min(gained):.1f} to "
            f"{max(gained):.1f}).",
        ]
    parts += [
        "*Denoised* rows are given what the network has made of the frames. *DenoiseReg* is one call of the bundle on "
        f"the noisy frames; *refined*: then {REFINEMENT} iterations of `affine` on the denoised ones; *VoxelMorph*, "
        "*fcn_multires*, *svf*: then a deformation, on the denoised ones, or, with *, on the noisy ones; *coarse*: one "
        f"that ends at voxels of {AFTER_NOISE:g} pixels, as in `warpzoo sequence`, chosen on sequences of seeds from "
        "60,000,000. Networks have learnt from simulated nuclei of other seeds, but for fcn_multires, which registers "
        "any two images. *In the "
        "paper*: A1, A2, B contour and B interior, of the real sequences at their own noise: the order of rows can be "
        f"compared, not the numbers. *{TRUE[0].upper()}{TRUE[1:]}* is what no affine row can be better than by much.",
        f"![First frame, last frame, denoised, registered]({PICTURE})",
    ]
    return "\n\n".join(parts)


def provenance(result: Mapping[str, Any], command: str) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"Made by `{command}`; seed {result['seed']}, one thread of {result['machine']} at a load of {result['load']} "
        f"when it began, {versions}."
    )


def snr_table(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows × (A contour, A interior, B contour, B interior, the mean of all; the median sequence's mean)."""
    names = [*ROWS, TRUE]
    lines = []
    for row in [name for name in names if all(name in entry["rows"] for entry in entries.values())]:
        cells, everything = [], []
        for letter in "AB":
            for where in ("contour", "interior"):
                values = [entry["rows"][row][where] for name, entry in entries.items() if name[0] == letter]
                cells.append(f"{np.mean(values):.2f}" if values else "–")
                everything += [np.mean(value) for value in values]
        each = [np.mean([*entry["rows"][row].values()]) for entry in entries.values()]
        averages = [f"{average:.2f}" for average in (np.mean(everything), np.median(each))]
        lines.append([row, *cells, *averages, " / ".join(PAPER.get(row, ("–",)))])
    return table(["", "A contour", "A interior", "B contour", "B interior", "mean", "median", "in the paper"], lines)
