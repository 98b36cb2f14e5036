"""Whether the disagreement of both ways tells where a registration is wrong: its rank correlation with the true error.

    python scripts/disagreement.py --data DATA [--quality usual] [--seed 0]

MNI152 and Colin27, each with itself under a known deformation, in the same and in two other contrasts, as in the table
of any two images (`experiments.pairs`), without a method. The correlation is Spearman's over the voxels that show
something; beside it the errors (mean, 95th percentile) where the disagreement is less and more than its median.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from experiments.pairs import Case, cropped, deformed, inverted, remapped
from scipy.stats import spearmanr

import warpzoo
from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Image
from warpzoo.record import machine
from warpzoo.registration import find_methods
from warpzoo.registration.both_ways import register_both_ways


def measured(case: Case, quality: str) -> str:
    """The row of a pair whose deformation is known."""
    fixed, moving = (
        Image.in_memory(torch.from_numpy(array)[None], Grid(array.shape, affine), side)
        for side, array, affine in (
            ("fixed", case.fixed, case.fixed_affine),
            ("moving", case.moving, case.moving_affine),
        )
    )
    found = register_both_ways(fixed, moving, find_methods(quality=quality), gaining=True)
    there = found.displacement.world(fixed.grid.to_world(fixed.grid.coordinates(torch.float32)))[0].numpy()
    error = np.linalg.norm(there - case.truth.reshape(-1, 3), axis=1)
    apart = found.disagreement.flatten().numpy()
    shown = (case.fixed > 0.2 * np.percentile(case.fixed, 99)).ravel() & np.isfinite(apart)
    error, apart = error[shown], apart[shown]
    halves = [error[(apart > np.median(apart)) == more] for more in (False, True)]
    numbers = " | ".join(f"{one.mean():.2f}, {np.percentile(one, 95):.2f}" for one in (apart, error, *halves))
    return f"| {case.name}, {case.kind} | {spearmanr(apart, error)[0]:.2f} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--quality", default="usual")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{machine()['processor']}, warpzoo {warpzoo.__version__}, seed {options.seed}\n")
    print("| pair | rank correlation | disagreement, mm | error, mm | where they agree | where they do not |")
    print("|---|---|---|---|---|---|")
    for name in ("mni", "ch2"):
        volume = cropped(options.data / "brain" / f"{name}.nii.gz")
        case = deformed(*volume, None, name, 20 + options.seed)
        for one in (case, inverted(case), remapped(case, 20 + options.seed)):
            print(measured(one, options.quality), flush=True)


if __name__ == "__main__":
    main()
