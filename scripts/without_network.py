"""Accuracy and time of registration without a network.

python scripts/without_network.py [known | volumes | large | peers] [--markdown FILE]

known: a chest made by formula (2-D, 256²) and textures (3-D, 64³) are warped by a smooth deformation and an affine map.
The end-point error is the mean distance between where a transform and the true one map the voxels that both images
show.
volumes: two brains of about 130 × 160 × 115 voxels on different grids, one of them rotated and shifted.
large: a body of 512 × 512 × 300 voxels and itself deformed, from files to files, see experiments/large_ct.py.
peers: brains of the size of a CT under known deformations, and hippocampi of different people, by warpzoo, greedy, ANTs
and elastix, from files to files, see experiments/whole_pairs.py; needs the packages of the extra `peers`.
Processor time is that of one thread (known, peers) or of all (volumes, large).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from experiments import large_ct, whole_pairs
from experiments.tools import TOOLS
from torch import Tensor

from warpzoo.data.phantom import beating_heart
from warpzoo.geometry.affine import rotation_matrix
from warpzoo.geometry.bspline import bspline_field, control_shape
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform, resample
from warpzoo.images.image import Image, read_image
from warpzoo.losses import normalised_cross_correlation
from warpzoo.metrics import folding
from warpzoo.record import machine, write_json
from warpzoo.registration import find_methods, register_pair

ROOT = Path(__file__).resolve().parents[1]
CHAINS = ("affine", "affine,ffd", "affine,svf")
PEERS = ["affine,svf", "affine,ffd", "greedy", "ANTs SyN", "ANTs SyNCC", "elastix"]
LARGE = {"affine,svf": ["--method", "affine,svf"], "usual": ["--quality", "usual"]}
SEEDS = (1, 2, 3)  # settings were chosen on others, from 100 on
SMOOTH = 0.6  # the deformation's share of the mean displacement; the rest is affine
NOISE = 0.01  # of the images' range, in each of the two
CT = (130, 160, 115)


@dataclass(frozen=True)
class Known:
    """A pair and the truth about it; both images lie on one grid."""

    fixed: Tensor
    moving: Tensor
    grid: Grid
    displacement: Tensor

    def error(self, displacement: Tensor) -> float:
        """Mean distance from the truth in voxels, where the moving image has something to show."""
        coordinates = self.grid.coordinates() + self.displacement[0].flatten(1).t()
        inside = ((coordinates >= 0) & (coordinates <= torch.tensor(self.grid.shape) - 1)).all(1)
        return float((displacement - self.displacement).norm(dim=1).flatten()[inside].mean())


def chest(seed: int) -> Known:
    image = beating_heart((256, 256), seed=seed).image + 20 * texture((256, 256), (4, 8, 16), seed)
    return known_pair(image, 11.0, knots=4, seed=seed)


def faint_chest(seed: int) -> Known:
    """Next to nothing to see in the lungs but noise."""
    image = beating_heart((256, 256), seed=seed).image + 5 * texture((256, 256), (4, 8, 16), seed)
    return known_pair(image, 11.0, knots=4, seed=seed)


def textured_volume(seed: int) -> Known:
    return known_pair(texture((64, 64, 64), (4, 8, 16), seed), 3.2, knots=3, seed=seed)


PAIRS = {
    "2-D, 256²": (chest, 0.35),
    "2-D, 256², faint": (faint_chest, None),
    "3-D, 64³": (textured_volume, 0.30),
}
"""How each kind of pair is made, and the error that is wanted of a chain."""
SECONDS_BAR = 15.0


def known_pair(image: Tensor, mean: float, knots: int, seed: int) -> Known:
    """The image as moving, and warped by a random transform of that mean displacement in voxels as fixed image."""
    random = np.random.default_rng(seed)
    grid = Grid(image.shape)
    dims, shape = grid.dims, list(grid.shape)
    angles = torch.from_numpy(random.uniform(-1, 1, (1, 1 if dims == 2 else 3)))
    scales, shifts = (torch.from_numpy(random.uniform(-1, 1, (1, dims))) for _ in range(2))
    smooth = noise_field(random, shape, shape[0] // knots)
    smooth = smooth * SMOOTH * mean / smooth.norm(dim=1).mean()
    low, high = 0.0, 1.0
    for _ in range(9):  # as strong an affine map as makes the mean displacement what it shall be
        strength = 0.5 * (low + high)
        affine = Affine.from_parts(
            grid, scale=strength * scales, rotation=strength * angles, translation=strength * shifts
        )
        truth = Composition(DisplacementField(smooth, grid), affine).field().float()
        low, high = (strength, high) if float(truth.norm(dim=1).mean()) < mean else (low, strength)
    if bool(folding(truth).forward > 0):
        raise ValueError(f"the deformation of seed {seed} folds; leave that seed out.")
    moving = image[None, None].float()
    noise = NOISE * float(image.max() - image.min()) * torch.from_numpy(random.standard_normal((2, *shape))).float()
    fixed = resample(moving, grid, DisplacementField(truth, grid), grid, padding="border")
    return Known(fixed + noise[0], moving + noise[1], grid, truth)


def texture(shape: tuple[int, ...], spacings: tuple[int, ...], seed: int) -> Tensor:
    """Smooth noise at several scales, something to see everywhere."""
    random = np.random.default_rng(seed)
    return torch.stack([noise_field(random, list(shape), spacing)[0, 0] for spacing in spacings]).sum(0)


def noise_field(random: np.random.Generator, shape: list[int], spacing: int) -> Tensor:
    dims = len(shape)
    points = torch.from_numpy(random.standard_normal((1, dims, *control_shape(shape, [spacing] * dims))))
    return bspline_field(points.float(), shape, [spacing] * dims)


def by_warpzoo(pair: Known, chain: str) -> Tensor:
    return optimised(chain, (pair.fixed, pair.grid), (pair.moving, pair.grid)).field(pair.grid).float()


def optimised(chain: str, fixed: tuple[Tensor, Grid], moving: tuple[Tensor, Grid]) -> Transform:
    images = (Image.in_memory(array[0], grid, name) for name, (array, grid) in (("fixed", fixed), ("moving", moving)))
    return register_pair(*images, find_methods(chain, device="cpu"), interruptible=False).transform


def by_simpleitk(pair: Known) -> Tensor:
    """Affine, then a B-spline with control points 8 voxels apart at the end, by correlation, as its examples do."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    # arrays are read with the last axis as x: displacements come back in that order
    fixed, moving = (sitk.GetImageFromArray(image[0, 0].numpy()) for image in (pair.fixed, pair.moving))
    dims = pair.grid.dims

    def method() -> sitk.ImageRegistrationMethod:
        one = sitk.ImageRegistrationMethod()
        one.SetMetricAsCorrelation()
        one.SetInterpolator(sitk.sitkLinear)
        one.SetShrinkFactorsPerLevel([4, 2, 1])
        one.SetSmoothingSigmasPerLevel([2, 1, 0])
        return one

    coarse = method()
    coarse.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    coarse.SetOptimizerScalesFromPhysicalShift()
    coarse.SetInitialTransform(sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(dims)))
    affine = coarse.Execute(fixed, moving)
    fine = method()
    fine.SetOptimizerAsLBFGS2(numberOfIterations=50)
    fine.SetMovingInitialTransform(affine)
    spline = sitk.BSplineTransformInitializer(fixed, [max(1, size // 32) for size in fixed.GetSize()])
    fine.SetInitialTransformAsBSpline(spline, scaleFactors=[1, 2, 4])
    composite = sitk.CompositeTransform([affine, fine.Execute(fixed, moving)])  # the last one is applied first
    field = sitk.TransformToDisplacementField(composite, sitk.sitkVectorFloat64, fixed.GetSize())
    return torch.from_numpy(sitk.GetArrayFromImage(field)).float().flip(-1).movedim(-1, 0)[None]


def known(options: argparse.Namespace) -> tuple[list[dict], str]:
    """Every method on every kind of pair, one thread; peers on the first seed of each."""
    torch.set_num_threads(1)
    methods: dict[str, Callable[[Known], Tensor]] = {
        chain: lambda pair, chain=chain: by_warpzoo(pair, chain) for chain in CHAINS
    }
    if find_spec("SimpleITK") and not options.nopeers:
        methods["SimpleITK affine, B-spline"] = by_simpleitk
    rows = []
    for kind, (make, bar) in PAIRS.items():
        for seed in options.seeds:
            pair = make(seed)
            about = {"pair": kind, "seed": seed, "bar": bar, "before": pair.error(torch.zeros_like(pair.displacement))}
            for name, register in methods.items():
                if register is by_simpleitk and seed != options.seeds[0]:
                    continue
                begun = time.process_time()
                displacement = register(pair)
                seconds = time.process_time() - begun
                folds = float(folding(displacement).forward)
                rows.append(
                    about | {"method": name, "error": pair.error(displacement), "folds": folds, "seconds": seconds}
                )
                print(rows[-1], flush=True)
    return rows, "\n".join(known_table(rows, options.seeds)) + "\n"


def known_table(rows: list[dict], seeds: list[int]) -> Iterator[str]:
    yield f"| pair | method | error of seeds {', '.join(map(str, seeds))} | mean | bar | folds | processor time |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for kind, method in dict.fromkeys((row["pair"], row["method"]) for row in rows):
        own = [row for row in rows if (row["pair"], row["method"]) == (kind, method)]
        errors, bar = [row["error"] for row in own], own[0]["bar"]
        yield (
            f"| {kind} | {method} | {', '.join(f'{error:.3f}' for error in errors)} | {np.mean(errors):.3f} "
            f"| {'' if bar is None else f'{bar:.2f}'} | {100 * max(row['folds'] for row in own):.2g} % "
            f"| {max(row['seconds'] for row in own):.1f} s |"
        )


def volumes(options: argparse.Namespace) -> tuple[list[dict], str]:
    """MNI152 and Colin27 on CT-sized grids; the second is shifted by 37 mm and rotated by 20° about two axes."""
    torch.set_num_threads(options.threads)
    brains = [read_image(options.data / "brain" / f"{name}.nii.gz") for name in ("mni", "ch2")]
    turn = np.eye(4)
    turn[:3, :3] = rotation_matrix(torch.tensor([[0.35, 0.0, 0.35]], dtype=torch.float64))[0].numpy()
    turn[:3, 3] = [30.0, -20.0, 10.0]
    fixed = coarsened(brains[0], CT)
    values, grid = coarsened(brains[1], (120, 150, 125))
    moving = values, Grid(grid.shape, turn @ grid.affine)
    identity = Affine(torch.eye(3, 4)[None], fixed[1])
    rows = []
    for method in ("none", "affine", "affine,svf"):
        begun, processor = time.perf_counter(), time.process_time()
        transform = identity if method == "none" else optimised(method, fixed, moving)
        seconds, processor = time.perf_counter() - begun, time.process_time() - processor
        warped = resample(moving[0], moving[1], transform, fixed[1])
        ncc = float(normalised_cross_correlation(fixed[0], warped))
        folds = float(folding(transform.field(fixed[1])).forward)
        rows.append({"method": method, "ncc": ncc, "folds": folds, "seconds": seconds, "processor_seconds": processor})
        print(rows[-1], flush=True)
    lines = ["| method | NCC | folds | seconds | processor time |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {row['method']} | {row['ncc']:.3f} | {100 * row['folds']:.2g} % | {row['seconds']:.1f} "
        f"| {row['processor_seconds']:.1f} s |"
        for row in rows
    ]
    return rows, "\n".join(lines) + "\n"


def peers(options: argparse.Namespace) -> tuple[list[dict], str]:
    """Whole tools in turn."""
    rows = []
    for row in whole_pairs.peers(options.data, options.tools, options.seeds, options.hippocampi):
        rows.append(row)
        print(row, flush=True)
    return rows, "\n".join(whole_pairs.table(rows)) + "\n"


def large(options: argparse.Namespace) -> tuple[list[dict], str]:
    """The size of a large CT, where memory counts."""
    rows = []
    for tool in options.large:
        rows.append({"tool": tool} | large_ct.measured(LARGE[tool], options.threads, options.seeds[0]))
        print(rows[-1], flush=True)
    lines = [
        "| method or quality | mm before | error, mm | seconds | processor time | memory |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['tool']} | {row['before_mm']:.2f} | {row['error_mm']:.2f} | {row['seconds']:.0f} "
        f"| {row['processor_seconds']:.0f} s | {row['memory_gb']:.1f} GB |"
        for row in rows
    ]
    return rows, "\n".join(lines) + "\n"


def coarsened(image: Image, shape: tuple[int, ...]) -> tuple[Tensor, Grid]:
    """The image in the middle of its own box, in other voxels."""
    grid = image.grid.resized(list(shape))
    identity = Affine(torch.eye(grid.dims, grid.dims + 1)[None], grid)
    return resample(image.array[None], image.grid, identity, grid, padding="border"), grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=("known", "volumes", "large", "peers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of the known deformations")
    parser.add_argument("--nopeers", action="store_true", help="leave out SimpleITK, which takes minutes")
    parser.add_argument("--threads", type=int, default=2, help="processor threads for the volumes and the large one")
    parser.add_argument("--large", nargs="+", choices=LARGE, default=list(LARGE), help="rows of large")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=PEERS, help="of peers")
    parser.add_argument("--hippocampi", type=int, default=10, help="pairs of them for peers")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data")
    parser.add_argument("--json", type=Path, help="write every number there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    options = parser.parse_args()
    rows, table = {"known": known, "volumes": volumes, "large": large, "peers": peers}[options.suite](options)
    about = machine()
    text = f"{table}\n{about['processor']}, {about['threads']} thread{'s' * (about['threads'] > 1)}.\n"
    print(f"\n{text}")
    if options.json:
        write_json(options.json, {"machine": about, "rows": rows})
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
