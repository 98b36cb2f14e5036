"""Whole pairs, from files to files, by warpzoo and by the tools that people use instead: accuracy, time and memory.

Every tool runs in a process of its own on one thread; processor seconds and the most memory are what the system counts
for that process. Where a transform takes points is read off by warping three images whose values are the moving
coordinates in millimetres, by the tool's own resampling.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates

Volume = NDArray[np.float32]
CT = (115, 157, 129)
"""Voxels of a CT of the lung, about 2.5 mm each; the brains are cut to as many."""
SHIFT, SMOOTH = 4.0, 14.0
"""Mean displacement of a known deformation, and how smooth it is (standard deviation), in voxels."""
NOISE = 0.02
FAR = 1000.0
"""Added to coordinates, so that a 0 is seen to come from outside of the image."""
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[2:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], "w").write(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20]))
"""
"""A process of little memory between: the system counts towards a child what its parent holds."""


@dataclass(frozen=True)
class Case:
    """A pair of volumes, and what is known of it: label maps, and where each fixed voxel lies in the moving space."""

    kind: str
    name: str
    fixed: Volume
    moving: Volume
    fixed_affine: Volume
    moving_affine: Volume
    fixed_labels: Volume | None = None
    moving_labels: Volume | None = None
    truth: Volume | None = None

    def write(self, folder: Path) -> None:
        for side in ("fixed", "moving"):
            nib.save(nib.Nifti1Image(getattr(self, side), getattr(self, f"{side}_affine")), folder / f"{side}.nii.gz")
        voxels = np.stack(np.meshgrid(*map(np.arange, self.moving.shape), indexing="ij"), -1)
        world = voxels @ self.moving_affine[:3, :3].T + self.moving_affine[:3, 3]
        for axis in range(3):
            image = nib.Nifti1Image((world[..., axis] + FAR).astype(np.float32), self.moving_affine)
            nib.save(image, folder / f"coordinate{axis}.nii.gz")

    def measures(self, folder: Path) -> dict[str, float]:
        """Of what a tool has left in the folder: distance from the truth in mm, mean Dice, folds."""
        there = np.stack([volume(folder / f"warped_coordinate{axis}.nii.gz") for axis in range(3)], -1)
        inside = binary_erosion((there != 0).all(-1), iterations=2) & (self.fixed > 0.2 * np.percentile(self.fixed, 99))
        there = there - FAR
        numbers: dict[str, float] = {}
        if self.truth is not None:
            numbers["error_mm"] = float(np.linalg.norm(there - self.truth, axis=-1)[inside].mean())
        if self.fixed_labels is not None:
            warped = map_coordinates(self.moving_labels, self._voxels(there), order=0)
            shown = np.ones(warped.shape, bool)
            if self.truth is not None:
                ends = np.array(self.moving.shape).reshape(3, 1, 1, 1) - 1
                shown = ((self._voxels(self.truth) >= 0) & (self._voxels(self.truth) <= ends)).all(0)
            numbers["dice"] = dice(self.fixed_labels[shown], warped[shown])
        numbers["folds"] = folds(there, self.fixed_affine, self.moving_affine, inside)
        return numbers

    def _voxels(self, world: Volume) -> Volume:
        back = np.linalg.inv(self.moving_affine)
        return np.moveaxis(world @ back[:3, :3].T + back[:3, 3], -1, 0)


def volume(path: Path) -> Volume:
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


def dice(fixed: Volume, warped: Volume) -> float:
    """The mean over the labels of the fixed image."""
    one, other = fixed.astype(int), np.rint(warped).astype(int)
    count = max(one.max(), other.max()) + 1
    both = np.bincount(one[one == other], minlength=count)
    sizes = np.bincount(one.ravel(), minlength=count), np.bincount(other.ravel(), minlength=count)
    labels = np.flatnonzero(sizes[0])
    labels = labels[labels > 0]
    return float((2 * both[labels] / (sizes[0] + sizes[1])[labels]).mean())


def folds(there: Volume, fixed_affine: Volume, moving_affine: Volume, inside: NDArray[np.bool_]) -> float:
    """Share of the voxels at which the map from fixed to moving voxels turns inside out."""
    points = there @ np.linalg.inv(moving_affine)[:3, :3].T
    jacobian = np.stack(np.gradient(points, axis=(0, 1, 2)), -1)
    orientation = np.sign(np.linalg.det(fixed_affine[:3, :3]) * np.linalg.det(moving_affine[:3, :3]))
    return float((np.linalg.det(jacobian) * orientation <= 0)[inside].mean())


# --- pairs ------------------------------------------------------------------------------------------------------------


def cropped(path: Path, shape: tuple[int, ...] = CT) -> tuple[Volume, Volume]:
    """The middle of a volume and its matrix."""
    image = nib.load(path)
    low = [(size - side) // 2 for size, side in zip(image.shape, shape, strict=True)]
    part = image.slicer[tuple(slice(first, first + size) for first, size in zip(low, shape, strict=True))]
    return np.asarray(part.dataobj, dtype=np.float32), part.affine


def deformed(values: Volume, affine: Volume, labels: Volume | None, name: str, seed: int) -> Case:
    """An image as moving image, and as fixed image the same after a known smooth deformation and a small affine map,
    with another contrast, another bias field and noise."""
    random = np.random.default_rng(seed)
    shape, dims = values.shape, values.ndim
    smooth = np.stack([gaussian_filter(random.standard_normal(shape), SMOOTH, mode="wrap") for _ in range(dims)], -1)
    smooth *= SHIFT / np.linalg.norm(smooth, axis=-1).mean()
    linear = np.eye(dims) + random.uniform(-0.06, 0.06, (dims, dims))
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    middle = (np.array(shape) - 1) / 2
    there = (voxels + smooth - middle) @ linear.T + middle + random.uniform(-4, 4, dims)
    moving = values / np.percentile(values, 99.5)
    fixed = map_coordinates(moving, np.moveaxis(there, -1, 0), order=3, mode="nearest").clip(0, None)
    bias = gaussian_filter(random.standard_normal(shape), 2 * SMOOTH, mode="wrap")
    fixed = fixed ** random.uniform(0.7, 1.4) * np.exp(0.1 * bias / bias.std())
    noisy = [one + NOISE * random.standard_normal(shape) for one in (fixed, moving)]
    warped_labels = None
    if labels is not None:
        warped_labels = map_coordinates(labels, np.moveaxis(there, -1, 0), order=0, mode="nearest").astype(np.float32)
    truth = there @ affine[:-1, :-1].T + affine[:-1, -1]
    one, other = (image.astype(np.float32) for image in noisy)
    return Case("known deformation", name, one, other, affine, affine, warped_labels, labels, truth.astype(np.float32))


def cases(data: Path, seeds: list[int], hippocampi: int) -> Iterator[Case]:
    """Two brains under known deformations, and the hippocampus of different subjects (the validation half)."""
    brain = data / "brain"
    labels = cropped(brain / "mnia.nii.gz")[0]
    for seed in seeds:
        for name, warped_labels in (("mni", labels), ("ch2", None)):
            yield deformed(*cropped(brain / f"{name}.nii.gz"), warped_labels, f"{name} {seed}", seed)
    files = sorted((data / "hippocampus" / "images").glob("*.nii*"))[100 : 100 + hippocampi + 1]
    yield from (subjects(*pair) for pair in zip(files, files[1:], strict=False))


def subjects(*files: Path) -> Case:
    """Two hippocampi with their label maps, one of which is the fixed image."""
    both = [nib.load(path) for path in files]
    marks = [volume(path.parents[1] / "labels" / path.name) for path in files]
    images = [np.asarray(image.dataobj, dtype=np.float32) for image in both]
    one, other = files
    return Case("hippocampus", f"{one.name[:15]} {other.name[:15]}", *images, *(one.affine for one in both), *marks)


def inverted(case: Case) -> Case:
    """The same with a fixed image whose bright parts are dark; what was dark stays so."""
    noise = NOISE * np.random.default_rng(1).standard_normal(case.fixed.shape)
    fixed = (case.fixed.max() - case.fixed) * (case.fixed > 0.08) + noise
    return replace(case, kind="inverted", fixed=fixed.astype(np.float32))


def remapped(case: Case, seed: int) -> Case:
    """The same with intensities of the fixed image that follow a random curve, up and down, from a dark background."""
    random = np.random.default_rng(seed)
    levels = random.permutation(np.linspace(0, 1, 6))
    levels[0] = 0
    low, high = np.percentile(case.fixed, 1), np.percentile(case.fixed, 99.5)
    fixed = np.interp((case.fixed - low) / (high - low), np.linspace(0, 1, 6), levels)
    fixed += NOISE * random.standard_normal(fixed.shape)
    return replace(case, kind="remapped", fixed=fixed.astype(np.float32))


# --- tools ------------------------------------------------------------------------------------------------------------


def by_warpzoo(*options: str) -> Callable[[str], list[list[str]]]:
    def commands(step: str) -> list[list[str]]:
        tool = [sys.executable, "-m", "warpzoo"]
        if step == "register":
            files = ["--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz", "--output", "out", "--threads", "1"]
            return [[*tool, "register", *files, *options, "--save", "warped,transform"]]
        line = [*tool, "apply", "out/transform.h5", f"{step}.nii.gz", "--reference", "fixed.nii.gz", "--outside", "0"]
        return [[*line, "--output", f"warped_{step}.nii.gz"]]

    return commands


GREEDY = "from sys import argv; from picsl_greedy import Greedy3D; Greedy3D().execute(argv[1])"


def by_greedy(similarity: str) -> Callable[[str], list[list[str]]]:
    """Affine and deformation, as its documentation has it for brains."""

    def commands(step: str) -> list[list[str]]:
        pair = f"-i fixed.nii.gz moving.nii.gz -m {similarity} -n 100x50x10"
        warps = "-r warp.nii.gz affine.mat"
        if step == "register":
            lines = [
                f"-a -dof 12 -ia-image-centers -o affine.mat {pair}",
                f"-it affine.mat -o warp.nii.gz {pair}",
                f"-rf fixed.nii.gz -rm moving.nii.gz warped.nii.gz {warps}",
            ]
        else:
            lines = [f"-rf fixed.nii.gz -rm {step}.nii.gz warped_{step}.nii.gz {warps}"]
        return [[sys.executable, "-c", GREEDY, f"-d 3 -threads 1 {line}"] for line in lines]

    return commands


ANTS = """
import ants
from sys import argv
fixed, moving = ants.image_read("fixed.nii.gz"), ants.image_read("moving.nii.gz")
found = ants.registration(fixed, moving, argv[1], outprefix="ants", random_seed=1)
ants.image_write(found["warpedmovout"], "warped.nii.gz")
"""
ANTS_APPLY = """
import ants
from sys import argv
fixed, image = ants.image_read("fixed.nii.gz"), ants.image_read(argv[1] + ".nii.gz")
warped = ants.apply_transforms(fixed, image, ["ants1Warp.nii.gz", "ants0GenericAffine.mat"])
ants.image_write(warped, f"warped_{argv[1]}.nii.gz")
"""


def by_ants(kind: str) -> Callable[[str], list[list[str]]]:
    """ANTsPy's own settings: SyN takes mutual information, SyNCC cross-correlation."""

    def commands(step: str) -> list[list[str]]:
        code, word = (ANTS, kind) if step == "register" else (ANTS_APPLY, step)
        return [[sys.executable, "-c", code, word]]

    return commands


ELASTIX = """
import itk
fixed, moving = itk.imread("fixed.nii.gz", itk.F), itk.imread("moving.nii.gz", itk.F)
settings = itk.ParameterObject.New()
for stage in ("affine", "bspline"):
    settings.AddParameterMap(settings.GetDefaultParameterMap(stage))
warped, _ = itk.elastix_registration_method(
    fixed, moving, parameter_object=settings, number_of_threads=1, log_to_console=False, output_directory=".")
itk.imwrite(warped, "warped.nii.gz")
"""
TRANSFORMIX = """
import itk
from sys import argv
settings = itk.ParameterObject.New()
settings.ReadParameterFiles(["TransformParameters.0.txt", "TransformParameters.1.txt"])
for stage in range(2):
    settings.SetParameter(stage, "FinalBSplineInterpolationOrder", "1")
itk.imwrite(itk.transformix_filter(itk.imread(argv[1] + ".nii.gz", itk.F), settings), f"warped_{argv[1]}.nii.gz")
"""


def by_elastix(step: str) -> list[list[str]]:
    """Its default affine and B-spline parameter maps."""
    if step == "register":
        return [[sys.executable, "-c", ELASTIX]]
    return [[sys.executable, "-c", TRANSFORMIX, step]]


CONVEX_ADAM = """
import numpy as np
import SimpleITK as sitk
import torch
from convexAdam.convex_adam_MIND import convex_adam_pt
torch.set_num_threads(1)
fixed, moving = (sitk.ReadImage(f"{side}.nii.gz", sitk.sitkFloat32) for side in ("fixed", "moving"))
both = [sitk.GetArrayFromImage(image) for image in (fixed, sitk.Resample(moving, fixed))]
voxels = convex_adam_pt(*both)[..., ::-1]  # of z, y, x
turn = np.array(fixed.GetDirection()).reshape(3, 3) * fixed.GetSpacing()
field = sitk.GetImageFromArray(np.ascontiguousarray(voxels.astype(np.float64) @ turn.T), isVector=True)
field.CopyInformation(fixed)
sitk.WriteImage(field, "field.nii.gz")
found = sitk.DisplacementFieldTransform(field)
sitk.WriteImage(sitk.Resample(moving, fixed, found), "warped.nii.gz")
"""
CONVEX_ADAM_APPLY = """
import SimpleITK as sitk
from sys import argv
found = sitk.DisplacementFieldTransform(sitk.ReadImage("field.nii.gz", sitk.sitkVectorFloat64))
image = sitk.ReadImage(argv[1] + ".nii.gz")
sitk.WriteImage(sitk.Resample(image, sitk.ReadImage("fixed.nii.gz"), found), f"warped_{argv[1]}.nii.gz")
"""


def by_convex_adam(step: str) -> list[list[str]]:
    """Its default settings, on the fixed grid, from where the headers place the images; it has no affine stage."""
    if step == "register":
        return [[sys.executable, "-c", CONVEX_ADAM]]
    return [[sys.executable, "-c", CONVEX_ADAM_APPLY, step]]


TOOLS: Mapping[str, Callable[[str], list[list[str]]]] = {
    "fast": by_warpzoo("--quality", "fast"),
    "usual": by_warpzoo("--quality", "usual"),
    "best": by_warpzoo("--quality", "best"),
    "affine,svf": by_warpzoo("--method", "affine,svf"),
    "affine,svf, mi": by_warpzoo("--method", "affine,svf", "--similarity", "mi"),
    "affine,ffd": by_warpzoo("--method", "affine,ffd"),
    "greedy": by_greedy("NCC 2x2x2"),
    "greedy, NMI": by_greedy("NMI"),
    "ANTs SyN": by_ants("SyN"),
    "ANTs SyNCC": by_ants("SyNCC"),
    "elastix": by_elastix,
    "convexAdam": by_convex_adam,
}
"""What each runs for `register`, and then to warp an image by what it has found."""


def run(commands: list[list[str]], folder: Path) -> tuple[float, float]:
    """Processor seconds and the most memory in GB of commands, one after the other."""
    seconds = memory = 0.0
    for command in commands:
        measured = folder / "measured.json"
        with (folder / "log.txt").open("w") as log:
            line = [sys.executable, "-c", MEASURED, str(measured), *command]
            subprocess.run(line, cwd=folder, stdout=log, stderr=log, env=os.environ | ENVIRONMENT, check=True)
        code, used, most = json.loads(measured.read_text())
        if code:
            raise RuntimeError(f"{command[:4]} must end well, got {(folder / 'log.txt').read_text()[-2000:]}")
        seconds, memory = seconds + used, max(memory, most)
    return seconds, memory


def by_tool(case: Case, tool: str, tools: Mapping[str, Callable[[str], list[list[str]]]] = TOOLS) -> dict[str, Any]:
    """What a tool makes of a pair."""
    commands = tools[tool]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder)
        begun = time.perf_counter()
        seconds, memory = run(commands("register"), folder)
        elapsed = time.perf_counter() - begun
        for axis in range(3):
            run(commands(f"coordinate{axis}"), folder)
        about = {"kind": case.kind, "pair": case.name, "tool": tool}
        return about | case.measures(folder) | {"seconds": seconds, "elapsed": elapsed, "memory_gb": memory}


def peers(data: Path, tools: list[str], seeds: list[int], hippocampi: int) -> Iterator[dict[str, Any]]:
    """Every tool on every pair, in turn."""
    for case in cases(data, seeds, hippocampi):
        yield from (by_tool(case, tool) for tool in tools)


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| pairs | tool | error, mm | Dice | folds | processor time | memory |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for kind, tool in dict.fromkeys((row["kind"], row["tool"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["tool"]) == (kind, tool)]

        def mean(name: str, digits: int, own: list[dict[str, Any]] = own) -> str:
            values = [row[name] for row in own if name in row]
            return f"{np.mean(values):.{digits}f}" if values else ""

        yield (
            f"| {kind} ({len(own)}) | {tool} | {mean('error_mm', 3)} | {mean('dice', 3)} "
            f"| {100 * max(row['folds'] for row in own):.2g} % | {median(row['seconds'] for row in own):.1f} s "
            f"| {max(row['memory_gb'] for row in own):.2f} GB |"
        )
