"""An unbiased template of many subjects: all are registered to it, intensities and transforms are averaged, again and
again; memory is that of one pair.

Convention: a subject's transform takes points of the template to the subject. The mean of all transforms, see
`poses`, is what the template lies off the middle of its subjects; each iteration takes it there. What an iteration has
done lies in files of its own for each subject, so that a run that was stopped goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from tqdm import tqdm

from warpzoo.cohorts.many import Recipe, on_workers
from warpzoo.cohorts.poses import (
    Pose,
    centred_pose,
    mean_matrix,
    off_centre,
    read_mean,
    read_pose,
    way_back,
    write_pose,
)
from warpzoo.errors import FAILURES, plain_reason
from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Image, read_image, write_image
from warpzoo.images.resampling import Resampling
from warpzoo.registration.budget import Budget
from warpzoo.registration.computing import computing
from warpzoo.registration.network import centred
from warpzoo.registration.optimisation import DEFORMATIONS, Optimisation, Refinement
from warpzoo.registration.pair import Method, register_pair
from warpzoo.transforms import write_transforms

FIRST, REFINED = Budget(80), Budget(30)
"""Iterations of a deformation's first round, to a template that is still blurred, and of later ones, which begin where
the one before has ended."""
SHARPENING = 0.5
"""Of the mean: how much of what a blur by one voxel takes away is added."""
DARK, BRIGHT = 0.01, 0.99
"""The shares of a subject's voxels below what counts as 0 and as 1: scales of intensity differ."""


class Iteration(NamedTuple):
    """One round: its number from 1, the template that it starts from, and the folders of the round before and its own,
    which hold a file for each subject."""

    number: int
    last: int
    template: Path
    before: Path
    folder: Path

    @property
    def transforms(self) -> Path:
        return self.template.parent / "transforms"

    def methods(self, chain: Sequence[Method]) -> Sequence[Method]:
        """Matrices first, deformations in the other rounds, but for the first of them from where they were."""
        linear = [method for method in chain if getattr(method, "linear", False)]
        if not linear or len(linear) == len(chain):
            return chain
        if self.number == 1:
            return linear if self.last > 1 else chain
        others = [method for method in chain if method not in linear]
        return [_shortened(method, self.number == 2) for method in others]


def _shortened(method: Method, first: bool) -> Method:
    if not isinstance(method, Optimisation) or method.name not in DEFORMATIONS:
        return method
    if first:
        return replace(method, budget=FIRST)
    return Refinement(REFINED, method.similarity, method.device, method.name, resolution=method.resolution)


def find(iteration: Iteration, recipe: Recipe, subject: tuple[str, Path]) -> None:
    """Registers a subject to the template of an iteration, from where it was; in `found` of the iteration's folder."""
    name, path = subject
    with computing(recipe.settings["seed"], recipe.threads):
        fixed, moving = read_image(iteration.template), read_image(path)
        before = iteration.before / f"{name}.npz"
        start = read_pose(before).transform(fixed.grid) if before.exists() else None
        methods = iteration.methods(recipe.methods)
        found = register_pair(fixed, moving, methods, start, strict=recipe.strict, interruptible=False)
        write_pose(iteration.folder / "found" / f"{name}.npz", Pose.of(found.transform, fixed.grid))


def average(iteration: Iteration, names: Sequence[str]) -> Pose:
    """What the template lies off the middle of its subjects, as a pose; written as `mean.npz`."""
    grid = read_image(iteration.template).grid
    matrices, total = [], None
    for name in names:
        pose = read_pose(iteration.folder / "found" / f"{name}.npz")
        matrices.append(pose.matrix)
        if pose.displacement is not None:
            part = pose.displacement.astype(np.float64) / len(names)
            total = part if total is None else total + part
    mean = Pose(mean_matrix(matrices, grid.centre), None if total is None else total.astype(np.float32))
    back = {} if mean.displacement is None else {"back": way_back(mean, grid)}
    write_pose(iteration.folder / "mean.npz", mean, **back)
    return mean


def move(iteration: Iteration, recipe: Recipe, subject: tuple[str, Path]) -> None:
    """The pose of a subject seen from the middle of all, and the subject as the template sees it then."""
    name, path = subject
    with computing(recipe.settings["seed"], recipe.threads):
        template, image = read_image(iteration.template), read_image(path)
        grid, (mean, back) = template.grid, read_mean(iteration.folder / "mean.npz")
        pose = centred_pose(read_pose(iteration.folder / "found" / f"{name}.npz"), mean, back, grid)
        seen = replace(recipe.resampling, outside=float("nan"))
        warped = seen(normalised(image), pose.transform(grid), template)
        write_pose(iteration.folder / f"{name}.npz", pose, warped=warped.array[0].numpy())


def save(iteration: Iteration, recipe: Recipe, subject: tuple[str, Path]) -> None:
    """The transform of a subject as a file for ITK, after the last iteration."""
    name, path = subject
    template, image = read_image(iteration.template), read_image(path)
    transform = read_pose(iteration.folder / f"{name}.npz").transform(template.grid)
    write_transforms(iteration.transforms, transform, template, image, ("transform",), prefix=f"{name}_")


Step = Callable[[Iteration, Recipe, tuple[str, Path]], None]
WORDS: Mapping[Step, str] = {find: "registering", move: "warping", save: "writing transforms"}


def normalised(image: Image) -> Image:
    """The image between 0 and 1 but for its darkest and brightest voxels."""
    if bad := int((~image.array.isfinite()).sum()):
        raise ValueError(f"{image.header.path} must be finite, got {bad} voxels that are NaN or infinite.")
    low, high = np.quantile(image.array.numpy(), (DARK, BRIGHT))
    if high <= low:
        raise ValueError(f"{image.header.path} must show something, got a nearly constant image.")
    return replace(image, array=(image.array - float(low)) / float(high - low))


def sharpened(mean: Tensor) -> Tensor:
    """A mean with more of what it has in detail: of what averaging has blurred."""
    return mean + SHARPENING * (mean - torch.from_numpy(gaussian_filter(mean.numpy(), 1.0, mode="nearest")))


def start_from_mean(subjects: Sequence[tuple[str, Path]], folder: Path) -> Image:
    """The first template: the mean of all subjects, centres of mass on one another, on the grid of the largest one."""
    seen, largest = Resampling(outside=float("nan")), None
    for _, path in subjects:
        image = read_image(path)
        if largest is not None and image.grid.dims != largest.grid.dims:
            raise ValueError(
                f"subjects must have as many axes as one another, got {image.header.path} of {image.grid.dims} and "
                f"{largest.header.path} of {largest.grid.dims}."
            )
        if largest is None or _extent(image.grid) > _extent(largest.grid):
            largest = image
    assert largest is not None
    images = (normalised(read_image(path)) for _, path in subjects)
    placed = (seen(image, centred(largest, image, 1), largest).array[0] for image in images)
    header = replace(largest.header, path=folder / "template_0.nii.gz", dtype=np.dtype(np.float32))
    return Image(mean_of(placed)[None], largest.grid, header)


def _extent(grid: Grid) -> float:
    return float(np.prod(grid.shape) * np.prod(grid.spacing))


def iterate(
    subjects: Sequence[tuple[str, Path]],
    folder: Path,
    recipe: Recipe,
    iterations: int,
    begin: int = 0,
    client: Any = None,
) -> Iterator[dict[str, float]]:
    """The iterations that are left of a template in `folder`, from `template_{begin}.nii.gz`: the numbers of each."""
    names, work = [name for name, _ in subjects], folder / "work"
    for number in range(begin + 1, iterations + 1):
        template = folder / f"template_{number - 1}.nii.gz"
        iteration = Iteration(number, iterations, template, work / str(number - 1), work / str(number))
        _do(find, iteration, iteration.folder / "found", subjects, recipe, client)
        mean = average(iteration, names)
        _do(move, iteration, iteration.folder, subjects, recipe, client)
        before = read_image(template)
        after = sharpened(mean_of(_warped(iteration, names)))
        correlations = correlations_with(after, iteration, names)
        write_image(folder / f"template_{number}.nii.gz", after[None], before.header)
        yield {
            "iteration": number,
            "ncc": float(np.mean(correlations)),
            "ncc_worst": float(np.min(correlations)),
            "change": 1 - correlation(after, before.array[0]),
            "off_centre": off_centre(mean, before.grid),
        }
        shutil.rmtree(iteration.before, ignore_errors=True)
        shutil.rmtree(iteration.folder / "found")


def finish(
    subjects: Sequence[tuple[str, Path]], folder: Path, recipe: Recipe, iterations: int, client: Any = None
) -> list[float]:
    """Writes template.nii.gz and every subject's transform; returns the subjects' correlations with the template."""
    last = folder / f"template_{iterations}.nii.gz"
    iteration = Iteration(iterations, iterations, last, folder, folder / "work" / str(iterations))
    shutil.rmtree(iteration.transforms, ignore_errors=True)
    _do(save, iteration, iteration.transforms, subjects, recipe, client)
    template = read_image(last)
    write_image(folder / "template.nii.gz", template.array, template.header)
    return correlations_with(template.array[0], iteration, [name for name, _ in subjects])


def _do(
    step: Step,
    iteration: Iteration,
    into: Path,
    subjects: Sequence[tuple[str, Path]],
    recipe: Recipe,
    client: Any,
) -> None:
    """A step for all subjects that have no file of it in the folder yet, here or on workers."""
    left = [one for one in subjects if not (into / f"{one[0]}.npz").exists()]
    function, output = partial(_attempt, step, iteration), iteration.template.parent
    if client is None or not left:
        ended: Any = ((one, function(one, recipe)) for one in left)
    else:
        ended = on_workers(client, function, left, recipe, output, {path.parent for _, path in left})
    title = f"Iteration {iteration.number} of {iteration.last}, {WORDS[step]}"
    for (name, path), why in tqdm(ended, desc=title, unit="subject", total=len(left), leave=step is find):
        if why is not None:
            raise ValueError(f"{path} ({name}) cannot be registered to the template: {getattr(why, 'reason', why)}")


def _attempt(step: Step, iteration: Iteration, subject: tuple[str, Path], recipe: Recipe) -> str | None:
    try:
        step(iteration, recipe, subject)
    except FAILURES as error:
        return plain_reason(error)
    return None


def _warped(iteration: Iteration, names: Sequence[str]) -> Iterator[Tensor]:
    for name in names:
        with np.load(iteration.folder / f"{name}.npz") as parts:
            yield torch.from_numpy(parts["warped"])


def correlations_with(template: Tensor, iteration: Iteration, names: Sequence[str]) -> list[float]:
    """Of each subject as the template sees it."""
    return [correlation(template, warped) for warped in _warped(iteration, names)]


def mean_of(images: Iterable[Tensor]) -> Tensor:
    """The mean at each voxel of the images that show it, which are NaN elsewhere; where none does, the lowest value."""
    total: Tensor | None = None
    for image in images:
        both = torch.stack([image.nan_to_num(0.0), image.isfinite().float()]).double()
        total = both if total is None else total + both
    assert total is not None
    values, count = total
    mean = (values / count.clamp_min(1)).float()
    return torch.where(count > 0, mean, mean[count > 0].min())


def correlation(one: Tensor, other: Tensor) -> float:
    """Where both have values."""
    both = (one.isfinite() & other.isfinite()).numpy()
    return float(np.corrcoef(one.numpy()[both], other.numpy()[both])[0, 1])
