"""What `warpzoo register` does to two images in 2-D if no method is named, beside other tools, images in memory.

Hearts are the test subjects of dirnet, of whom the network has seen none, end-systole onto end-diastole; slices of
brains are those of OASIS that `scripts/collect_any.py` leaves out, each with itself under a known deformation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor
from tqdm import tqdm

from experiments import ants, elastix
from experiments.common import Options, installed_version
from experiments.whole_pairs import Case, Volume, deformed, dice, inverted, remapped
from warpzoo.bundles import find_bundle
from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Image, read_image
from warpzoo.registration import find_methods, register_pair

OURS = ("fast", "usual", "best")
CHAINS = {"affine,svf": {}, "affine,svf, mi": {"similarity": "mi"}}
PEERS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"ANTs SyN": ants.syn, "elastix": elastix.displacement}
PACKAGES = {"ANTs": ants.PACKAGE, "elastix": elastix.PACKAGE}
SEED = 11
"""Settings were chosen on pairs of other subjects and seeds."""


def run(options: Options) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    todo = list(cases(options))
    for case in tqdm(todo, desc="pairs"):
        for tool in ("none", *OURS, *CHAINS, *PEERS):
            begun = time.process_time()
            found = displacement(torch.from_numpy(case.fixed), torch.from_numpy(case.moving), tool)
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


def displacement(fixed: Tensor, moving: Tensor, tool: str) -> Tensor:
    """What a tool finds, (1, 2, *spatial) in pixels."""
    if tool in PEERS:
        return PEERS[tool](fixed, moving)
    if tool == "none":
        return torch.zeros(1, 2, *fixed.shape)
    methods = find_methods(quality=tool) if tool in OURS else find_methods("affine,svf", **CHAINS[tool])
    images = [Image.in_memory(one[None], Grid(one.shape), name) for one, name in ((fixed, "fixed"), (moving, "moving"))]
    return register_pair(*images, methods, interruptible=False, gaining=tool in OURS).displacement.displacement


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
    lines = ["| pairs | tool | error, pixels | Dice | folds | processor time |", "|---|---|---:|---:|---:|---:|"]
    for kind, tool in dict.fromkeys((row["kind"], row["tool"]) for row in result["rows"]):
        own = [row for row in result["rows"] if (row["kind"], row["tool"]) == (kind, tool)]
        error, overlap = (
            f"{np.mean([row[name] for row in own]):.3f}" if name in own[0] else "" for name in ("error", "dice")
        )
        seconds, folds = np.median([row["seconds"] for row in own]), 100 * max(row["folds"] for row in own)
        lines.append(f"| {kind} ({len(own)}) | {tool} | {error} | {overlap} | {folds:.2g} % | {seconds:.1f} s |")
    return "\n\n".join(
        [
            "## Any two images in 2-D",
            f"Made by `{command}`; seed {result['seed']}, one thread of {result['machine']}, {versions}. Images are in "
            "memory; time is that of the processor, without that of reading and writing. *Fast*, *usual* and *best* "
            "are `warpzoo register` without a method, with `--quality`. Hearts are 256² pixels, end-systole onto "
            "end-diastole, of test subjects; brains are slices of 128² pixels under a deformation of 4 pixels and a "
            "small affine map, with other noise, gamma and bias field, and with another contrast of one side as in "
            "the table of volumes. ANTs is ANTsPy's `SyN` as it is, elastix as in the table of dirnet; elastix begins "
            "without an affine stage.",
            "\n".join(lines),
        ]
    )
