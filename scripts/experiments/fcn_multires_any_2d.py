"""What `warpzoo register` does to two images in 2-D if no method is named, beside other tools, images in memory.

Hearts are the test subjects of dirnet, of whom the network has seen none, end-systole onto end-diastole; slices of
brains are those of OASIS that `scripts/collect_any.py` leaves out, each with itself under a known deformation; so are
the middles of images of cells, which the shipped network has been trained on. What it does on a kind that it has never
seen is measured with weights of which `scripts/collect_any.py --without` left out that kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor
from tqdm import tqdm

from experiments import ants, elastix, greedy
from experiments.common import Options, installed_version
from experiments.fcn_multires_left_out import FOLDER
from experiments.pairs import Case, Volume, deformed, dice, inverted, remapped
from warpzoo.bundles import find_bundle
from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Image, read_image
from warpzoo.registration import find_methods, register_pair

OURS = ("fast", "usual", "best")
CHAINS = {"affine,svf": {}, "affine,svf, mi": {"similarity": "mi"}}
UNSEEN = "usual, kind left out"
LEFT_OUT = {"cells": "cells", "cells, inverted": "cells", "hearts": "hearts"}
"""Weights that saw nothing of a kind of pairs; of the others those without brains."""
PEERS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "greedy": greedy.displacement,
    "greedy, NMI": partial(greedy.displacement, similarity="NMI"),
    "ANTs SyN": ants.syn,
    "ANTs SyNCC": partial(ants.syn, kind="SyNCC"),
    "elastix": elastix.displacement,
}
PACKAGES = {"greedy": greedy.PACKAGE, "ANTs": ants.PACKAGE, "elastix": elastix.PACKAGE}
FIELD = 256
"""Pixels of the middle of an image of cells."""
SEED = 11
"""Settings were chosen on pairs of other subjects and seeds, but what keeps noise among few cells from being fitted:
the two images of cells with little to see showed the need of it, and its limits were tried on them."""


def run(options: Options) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    todo = list(cases(options))
    for case in tqdm(todo, desc="pairs"):
        unseen = FOLDER / f"{LEFT_OUT.get(case.kind, 'brains')}.pt"
        for tool in ("none", *OURS, *([UNSEEN] if unseen.exists() else []), *CHAINS, *PEERS):
            begun = time.process_time()
            found = displacement(torch.from_numpy(case.fixed), torch.from_numpy(case.moving), tool, unseen)
            seconds = time.process_time() - begun
            rows.append({"kind": case.kind, "tool": tool, "seconds": seconds, **measures(case, found[0].numpy())})
    versions = {peer: installed_version(package) for peer, package in PACKAGES.items()}
    return {**options.record(), "peers": versions, "rows": rows}


def cases(options: Options) -> Iterator[Case]:
    hearts = np.load(options.data / "cardiac" / "sunnybrook_ed_es_pairs.npz")
    subjects = find_bundle("dirnet").config("train").get_parsed_content(f"{options.subset}_subjects")
    chosen = [number for number, subject in enumerate(hearts["subject"]) if subject in subjects]
    plane = np.eye(3)
    for number in chosen[::3][: options.limit]:
        fixed, moving, *labels = (hearts[name][number].astype(np.float32) for name in ("ed", "es", "ed_lv", "es_lv"))
        if all(one.any() for one in labels):
            yield Case("hearts", hearts["subject"][number], fixed, moving, plane, plane, *labels)
    files = sorted((options.data / "brain" / "oasis_2d").glob("*.nrrd"))[9::10]
    for number, path in enumerate(files[: options.limit]):
        seed = options.seed + SEED + number
        case = deformed(read_image(path).array[0].numpy().astype(np.float32), plane, None, path.stem, seed)
        yield from (case, inverted(case), remapped(case, seed))
    microscopy = options.data / "microscopy"
    fields = [microscopy / "nuclei" / "img2d.tif", *sorted((microscopy / "fmd" / "average50").glob("*.tif"))]
    fields += sorted((microscopy / "lowsnr_pairs").glob("*-highsnr-sample.png"))
    for number, path in enumerate(fields[: options.limit]):
        image = read_image(path).array[0].numpy().astype(np.float32)
        middle = tuple(slice((side - FIELD) // 2, (side + FIELD) // 2) for side in image.shape)
        case = deformed(image[middle], plane, None, path.stem, options.seed + SEED + number)
        yield from (replace(case, kind="cells"), replace(inverted(case), kind="cells, inverted"))


def displacement(fixed: Tensor, moving: Tensor, tool: str, unseen: Path) -> Tensor:
    """What a tool finds, (1, 2, *spatial) in pixels."""
    if tool in PEERS:
        return PEERS[tool](fixed, moving)
    if tool == "none":
        return torch.zeros(1, 2, *fixed.shape)
    if tool == UNSEEN:
        methods = find_methods(quality="usual", weights=str(unseen))
    else:
        methods = find_methods(quality=tool) if tool in OURS else find_methods("affine,svf", **CHAINS[tool])
    images = [Image.in_memory(one[None], Grid(one.shape), name) for one, name in ((fixed, "fixed"), (moving, "moving"))]
    return register_pair(*images, methods, interruptible=False, gaining=tool not in CHAINS).displacement.displacement


def measures(case: Case, found: Volume) -> dict[str, float]:
    places = np.indices(case.fixed.shape) + found
    jacobian = np.stack([np.stack(np.gradient(axis), 0) for axis in places], 0)
    folds = float((jacobian[0, 0] * jacobian[1, 1] - jacobian[0, 1] * jacobian[1, 0] <= 0).mean())
    if case.truth is None:
        assert case.fixed_labels is not None
        return {"dice": dice(case.fixed_labels, map_coordinates(case.moving_labels, places, order=0)), "folds": folds}
    shown = case.fixed > 0.2 * np.percentile(case.fixed, 99)
    apart = np.linalg.norm(np.moveaxis(places, 0, -1) - case.truth, axis=-1)
    return {"error": float(apart[shown].mean()), "folds": folds}


def page(result: Mapping[str, Any], command: str) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in (result["versions"] | result["peers"]).items())
    lines = ["| pairs | tool | error, pixels | its median | Dice | folds | processor time |", "|---|---|" + "---:|" * 5]
    for kind, tool in dict.fromkeys((row["kind"], row["tool"]) for row in result["rows"]):
        own = [row for row in result["rows"] if (row["kind"], row["tool"]) == (kind, tool)]
        error, median, overlap = (
            f"{average([row[name] for row in own]):.3f}" if name in own[0] else ""
            for name, average in (("error", np.mean), ("error", np.median), ("dice", np.mean))
        )
        seconds, folds = np.median([row["seconds"] for row in own]), 100 * max(row["folds"] for row in own)
        lines.append(
            f"| {kind} ({len(own)}) | {tool} | {error} | {median} | {overlap} | {folds:.2g} % | {seconds:.1f} s |"
        )
    return "\n\n".join(
        [
            "## Any two images in 2-D",
            f"Made by `{command}`; seed {result['seed']}, one thread of {result['machine']}, {versions}. Images are in "
            "memory; time is that of the processor, without that of reading and writing. *Fast*, *usual* and *best* "
            "are `warpzoo register` without a method, with `--quality`. Hearts are 256² pixels, end-systole onto "
            "end-diastole, of test subjects; brains are slices of 128² pixels under a deformation of 4 pixels and a "
            "small affine map, with other noise, gamma and bias field, and with another contrast of one side as in the "
            "table of volumes; cells are the middle 256² pixels of images of microscopy, treated likewise. *Kind left "
            "out* is the same as *usual* with a network that was trained for less time on images of the other kinds "
            "alone (`scripts/experiments/left_out`): the shipped one has seen hearts of other subjects, slices of "
            "other brains and these very cells. greedy (affine from image centres, then its deformation, windows of "
            "9², 100x50x10 iterations), ANTsPy's `SyN` and `SyNCC` are as they are, elastix as in the table of dirnet; "
            "it begins without an affine stage. What keeps noise among few cells from being fitted was chosen on two "
            "of these images, with other seeds and with these, and what decides between mutual information and "
            "descriptors on all seven with other seeds (and on other slices and other hearts): of that, the rows of "
            "cells are no test; no tool registers the sixth of these images. Peers were measured before, in a run of "
            "their own.",
            "\n".join(lines),
        ]
    )
