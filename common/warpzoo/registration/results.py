"""What comes out of a registration: files on the fixed image's own grid, numbers, and a report to look at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Composition, DisplacementField, Transform, resample
from warpzoo.losses import normalised_cross_correlation
from warpzoo.metrics import dice, folding, present_labels
from warpzoo.record import provenance, write_json
from warpzoo.registration.pairs import FilePairs, OpenPair, identity
from warpzoo.registration.refinement import refine
from warpzoo.report.page import write_report
from warpzoo.space.images import read_image, write_image
from warpzoo.space.itk_transforms import write_transforms
from warpzoo.space.points import carry_points as carry_to_fixed
from warpzoo.space.points import read_points, write_points


class SaveRegistrationd(MapTransform):
    """Postprocessing of a registration network: its displacement becomes a transform, the transform becomes files.

    Args:
        keys: the network's output, [warped | displacement] on the working grid.
        dataset: where the pair came from.
        output_dir: one pair's folder; with a list of pairs, each gets one below it by its id.
        method: what to call it in the report.
        refine: iterations of refinement on the pair at hand, starting at the network's answer.
        report: whether to write report.html and report.png.
        save: False keeps the transform in `dataset.initial` for the next method of a chain and writes nothing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dataset: FilePairs,
        output_dir: str | Path,
        method: str,
        refine: int = 0,
        report: bool = True,
        save: bool = True,
    ) -> None:
        super().__init__(keys)
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.method = method
        self.refine = refine
        self.report = report
        self.save = save

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        pair = self.dataset.opened[int(data["index"])]
        pair.seconds["network"] = time.perf_counter() - pair.ready
        prediction = torch.as_tensor(data[self.keys[0]]).detach().cpu()
        displacement = prediction[None, 1:].float()
        if self.refine:
            start = time.perf_counter()
            displacement = refine(torch.as_tensor(data["image"]).cpu()[None], displacement, self.refine)
            pair.seconds["refine"] = time.perf_counter() - start
        transform: Transform = DisplacementField(displacement, pair.working)
        if pair.initial is not None:
            transform = Composition(transform, pair.initial)
        if self.save:
            save_registration(self.output_dir / pair.files["id"], pair, transform, self.method, self.report)
        else:
            self.dataset.initial[pair.files["id"]] = transform
        return {"index": data["index"]}


def save_registration(folder: Path, pair: OpenPair, transform: Transform, method: str, report: bool = True) -> None:
    """Writes every file of one registered pair; `metrics.json` comes last and says that all others are whole."""
    start = time.perf_counter()
    fixed, moving = pair.fixed, pair.moving
    field = DisplacementField(transform.field(fixed.grid), fixed.grid)
    before = carry(moving.array, moving.grid, identity(fixed.grid), fixed.grid)
    warped = carry(moving.array, moving.grid, field, fixed.grid)
    pair.seconds["carry"] = time.perf_counter() - start

    start = time.perf_counter()
    write_image(folder / "warped.nii.gz", warped[0], fixed.header, moving.header.dtype)
    write_transforms(folder, field, fixed, moving)
    for path in pair.files.get("also", ()):
        other = read_image(path)
        carried = carry(other.array, other.grid, field, fixed.grid)
        write_image(folder / f"warped_{plain_name(path)}.nii.gz", carried[0], fixed.header, other.header.dtype)
    numbers = measure(pair, field, before, warped)
    numbers |= carry_labels(folder, pair, field)
    numbers |= carry_points(folder, pair, field)
    pair.seconds["write"] = time.perf_counter() - start

    origin = provenance(method, pair.files)
    if report:
        start = time.perf_counter()
        write_report(
            folder,
            fixed.array[0],
            before[0, 0],
            warped[0, 0],
            field.displacement[0],
            fixed.grid,
            {**numbers, "seconds": pair.seconds},
            origin,
            findings=pair.findings,
            unit="pixels" if fixed.header.pixels else "mm",
        )
        pair.seconds["report"] = time.perf_counter() - start
    seconds = {name: round(value, 3) for name, value in pair.seconds.items()}
    warnings = [finding.message for finding in pair.findings]
    write_json(folder / "metrics.json", {**numbers, "seconds": seconds, "warnings": warnings, **origin})


def carry(image: Tensor, grid: Grid, transform: Transform, fixed_grid: Grid, mode: str = "linear") -> Tensor:
    """An image (1, *spatial) onto the fixed grid, (1, 1, *fixed); its least value (labels: 0) beyond its edge."""
    value = 0.0 if mode != "linear" else float(image.min())
    return resample(image[None], grid, transform, fixed_grid, mode=mode, value=value)


def measure(pair: OpenPair, field: DisplacementField, before: Tensor, warped: Tensor) -> dict[str, Any]:
    fixed = pair.fixed.array[None]
    folds = folding(field.displacement)
    return {
        "ncc_before": float(normalised_cross_correlation(fixed, before)),
        "ncc": float(normalised_cross_correlation(fixed, warped)),
        "folding": float(folds.central),
        "folding_corners": float(folds.forward),
    }


def carry_labels(folder: Path, pair: OpenPair, field: DisplacementField) -> dict[str, Any]:
    """The moving labels on the fixed grid, and Dice of every label where there are fixed ones."""
    if "moving_labels" not in pair.files:
        return {}
    moving = read_image(pair.files["moving_labels"], labels=True)
    carried = {
        name: carry(moving.array, moving.grid, transform, pair.fixed.grid, "nearest")
        for name, transform in (("dice_before", identity(pair.fixed.grid)), ("dice", field))
    }
    write_image(folder / "warped_labels.nii.gz", carried["dice"][0], pair.fixed.header, moving.header.dtype)
    if "fixed_labels" not in pair.files:
        return {}
    fixed = read_image(pair.files["fixed_labels"], labels=True)
    if fixed.grid != pair.fixed.grid:
        raise ValueError(
            f"{pair.files['fixed_labels']} has {fixed.grid}; it wants the fixed image's {pair.fixed.grid}."
        )
    reference = fixed.array[None].long()
    labels = present_labels(moving.array.long(), reference)
    numbers: dict[str, Any] = {}
    for name, label_map in carried.items():
        scores = dice(label_map.long(), reference, labels)[0].tolist() if labels else []
        numbers[name] = {str(label): score for label, score in zip(labels, scores, strict=True)}
        numbers[f"{name}_mean"] = float(np.nanmean(scores)) if scores else float("nan")
    return numbers


def carry_points(folder: Path, pair: OpenPair, field: DisplacementField) -> dict[str, Any]:
    """The moving landmarks in the fixed space, and how far apart corresponding ones lie in the moving space."""
    if "moving_points" not in pair.files:
        return {}
    moving = read_points(pair.files["moving_points"], pair.moving.header)
    carried = moving._replace(points=carry_to_fixed(field, moving.points))
    write_points(folder / "warped_points.csv", carried, pair.fixed.header)
    if "fixed_points" not in pair.files:
        return {}
    fixed = read_points(pair.files["fixed_points"], pair.fixed.header)
    if fixed.points.shape != moving.points.shape:
        raise ValueError(
            f"{pair.files['fixed_points']} has {len(fixed.points)} points and {pair.files['moving_points']} "
            f"{len(moving.points)}; the target registration error wants them in pairs, in the same order."
        )
    arrived = {"tre_before": fixed.points, "tre": field.world(fixed.points[None])[0]}
    return {name: float((points - moving.points).norm(dim=-1).mean()) for name, points in arrived.items()}


def plain_name(path: str | Path) -> str:
    return Path(path).name.split(".")[0]
