"""What `warpzoo register` does if no method is named, beside other tools, from files to files, on pairs of many kinds.

It takes hours and may be stopped: rows in `any.unfinished.json` of the output folder, of the same commit, weights and
seed, are not made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from experiments.common import Options, found_of, installed_version, read_config
from experiments.pairs import Case, cropped, deformed, inverted, remapped, subjects, thick
from experiments.whole_pairs import by_tool, table
from warpzoo.record import checksum, commit, write_json

OURS = ("fast", "usual", "best")
ALIKE = (*OURS, "affine,svf", "greedy", "ANTs SyN", "elastix", "convexAdam")
BETWEEN = (*OURS, "affine,svf, mi", "greedy, NMI", "ANTs SyN", "elastix", "convexAdam")
"""Tools between contrasts: ANTs SyN and elastix take mutual information by themselves, convexAdam descriptors."""
THICK, SLICES = 6, "slices of 6 mm"
KINDS: Mapping[str, tuple[str, ...]] = {
    "known deformation": ALIKE,
    "inverted": BETWEEN,
    "remapped": BETWEEN,
    f"known deformation, {SLICES}": ("usual", "affine,svf", "greedy", "ANTs SyN"),
    f"inverted, {SLICES}": ("usual", *BETWEEN[3:]),
    f"remapped, {SLICES}": ("usual", *BETWEEN[3:]),
    "hippocampus": (*ALIKE, "ANTs SyNCC"),  # which takes more than 25 minutes of a brain
}
SEED = 11
"""Settings were chosen on pairs of seed 100."""
PACKAGES = {"greedy": "picsl-greedy", "ANTs": "antspyx", "elastix": "itk-elastix", "convexAdam": "convexAdam"}


def run(options: Options) -> dict[str, Any]:
    file = options.output / "any.unfinished.json"
    about = {"commit": commit(), "weights": checksum(options.bundle / "models" / "any.pt"), "seed": options.seed}
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rows: list[dict[str, Any]] = known["rows"] if known.get("about") == about else []
    there = {(row["kind"], row["pair"], row["tool"]) for row in rows}
    todo = [(case, tool) for case in cases(options) for tool in KINDS[case.kind]]
    for case, tool in tqdm(todo, desc="pairs and tools"):
        if (case.kind, case.name, tool) not in there:
            rows.append(by_tool(case, tool))
            write_json(file, {"about": about, "rows": rows})
    file.unlink(missing_ok=True)
    versions = {peer: installed_version(package) for peer, package in PACKAGES.items()}
    return {**options.record(), "peers": versions, "rows": rows}


def cases(options: Options) -> Iterator[Case]:
    """Brains under known deformations, the same with other contrasts, and hippocampi of different subjects."""
    brains = options.data / "brain"
    labels = cropped(brains / "mnia.nii.gz")[0]
    for name, own in (("mni", labels), ("ch2", None))[: options.limit]:
        case = deformed(*cropped(brains / f"{name}.nii.gz"), own, name, options.seed + SEED)
        contrasts = case, inverted(case), remapped(case, options.seed + SEED)
        yield from (*contrasts, *(thick(one, THICK) for one in contrasts))
    images = options.data / "hippocampus" / "images"
    records = [{"subject": path.name} for path in images.glob("*.nii.gz")]
    names = found_of(records, read_config(options).get_parsed_content(f"{options.subset}_subjects"))
    files = [images / name for name in names]
    yield from (subjects(*pair) for pair in list(zip(files, files[1:], strict=False))[: options.limit])


def page(result: Mapping[str, Any], command: str) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in (result["versions"] | result["peers"]).items())
    return "\n\n".join(
        [
            "## Any two images",
            f"Made by `{command}`; seed {result['seed']}, one thread of {result['machine']}, {versions}. Every tool "
            "is its own command from files to files; time is that of the processor, memory the most that the command "
            "took.",
            "*Fast*, *usual* and *best* are `warpzoo register` without a method, with `--quality`. Brains are MNI152 "
            "and Colin27, cut to 115 × 157 × 129 voxels, under a deformation of 4 voxels and a small affine map, with "
            "other noise, gamma and bias field; the network has seen both in training, deformed in other ways. "
            "*Inverted* and *remapped* have another contrast on one side: intensities turned round, or sent along a "
            "random curve up and down. *Slices of 6 mm* are the moving image's, 1 mm in their plane. Hippocampi are "
            "of test subjects, different ones in a pair, on their own grids. convexAdam has no affine stage: it begins "
            "where the headers place the images.",
            "\n".join(table(result["rows"])),
        ]
    )
