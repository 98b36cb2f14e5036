"""What `warpzoo register` does if no method is named to volumes of a kind that its network has never seen.

Weights are those of trainings of which `scripts/collect_any.py --without KIND` left out that kind, with their records:
`scripts/experiments/left_out`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.common import Options, installed_version
from experiments.fcn_multires_any import PACKAGES, cases
from experiments.tools import TOOLS, by_warpzoo
from experiments.whole_pairs import by_tool, table

UNSEEN = "usual, kind left out"
FOLDER = Path(__file__).parent / "left_out"
WEIGHTS = {"known deformation": "brains_3d.pt", "hippocampus": "hippocampi.pt"}
PEERS = ("usual", "affine,svf", "greedy", "ANTs SyN")


def run(options: Options) -> dict[str, Any]:
    rows = []
    for case in tqdm([case for case in cases(options) if case.kind in WEIGHTS], desc="pairs"):
        weights = str(FOLDER / WEIGHTS[case.kind])
        tools = {UNSEEN: by_warpzoo("--quality", "usual", "--weights", weights), **TOOLS}
        rows += [by_tool(case, tool, tools) for tool in (UNSEEN, *PEERS)]
    versions = {peer: installed_version(package) for peer, package in PACKAGES.items()}
    return {**options.record(), "peers": versions, "rows": rows}


def page(result: Mapping[str, Any], command: str) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in (result["versions"] | result["peers"]).items())
    return "\n\n".join(
        [
            "## Volumes of a kind that the network has not seen",
            f"Made by `{command}`; seed {result['seed']}, one thread of {result['machine']}, {versions}. Pairs and "
            "tools are those of *Any two images*.",
            "*Kind left out* is *usual* with another network (`scripts/experiments/left_out`): for brains the one for "
            "hippocampi, trained for another 85 minutes of a busy core on made images, hippocampi and nuclei; for "
            "hippocampi one that was trained from nothing on made images, two brains and nuclei for 70 minutes. The "
            "shipped one had hours of a GPU.",
            "\n".join(table(result["rows"])),
        ]
    )
