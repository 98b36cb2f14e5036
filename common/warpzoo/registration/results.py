"""What comes out of a registration: files on the fixed image's own grid, numbers, and a report to look at."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from warpzoo.checks import check_truth
from warpzoo.geometry.transforms import Affine, DisplacementField, Transform, resample
from warpzoo.images.image import Image, write_image
from warpzoo.losses import normalised_cross_correlation
from warpzoo.metrics import dice, folding, present_labels, target_registration_error
from warpzoo.record import provenance, write_json
from warpzoo.registration.budget import Budget
from warpzoo.registration.listing import names_from, paths_of, remove_results
from warpzoo.registration.pairs import FilePairs, OpenPair, identity
from warpzoo.report.page import write_report
from warpzoo.transforms.itk import write_transforms
from warpzoo.transforms.landmarks import carry_points, write_points

REFINED_LEVELS = 2
"""A network has seen what is coarser."""


class SaveRegistrationd(MapTransform):
    """Postprocessing of a registration network: its displacement becomes a transform, the transform becomes files.

    Args:
        keys: the network's output, [warped | displacement] on the working grid.
        dataset: where the pair came from.
        output_dir: one pair's folder; with a list of pairs, each gets one below it by its id.
        method: what to call it in the report.
        refine: optimisation of the transform on the pair at hand, starting at the network's answer: iterations, or
            seconds such as "10s".
        similarity: what refinement maximises; see `warpzoo.registration.similarities`.
        report: whether to write report.html and report.png.
        save: False writes nothing and leaves the pair to the next method of a chain, in `dataset.begun`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dataset: FilePairs,
        output_dir: str | Path,
        method: str,
        refine: str | float = 0,
        similarity: str | None = None,
        report: bool = True,
        save: bool = True,
    ) -> None:
        super().__init__(keys)
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.method = method
        self.refine = Budget.read("refine", refine)
        self.similarity = similarity
        self.save = save
        self.settings = {"refine": str(refine), "similarity": similarity, "report": check_truth("report", report)}

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        pair = self.dataset.opened.pop(int(data["index"]))
        pair.lap("network")
        prediction = torch.as_tensor(data[str(self.keys[0])]).detach()
        pair.add(DisplacementField(prediction[None, 1:].float().cpu(), pair.working))
        if self.refine:
            pair.optimise("svf", self.similarity, self.refine, prediction.device, levels=REFINED_LEVELS)
            pair.lap("refine")
        if self.save:
            write_results(self.output_dir / pair.files["id"], pair, self.method, self.settings)
        else:
            self.dataset.begun[pair.files["id"]] = pair
        return {"index": data["index"]}


def write_results(folder: Path, pair: OpenPair, method: str, settings: Mapping[str, Any]) -> None:
    """Every file of one registered pair, the report if `settings["report"]`; all of them or none.

    `metrics.json`, with the settings in it, comes last and says that all others are whole.
    """
    remove_results(folder, pair.files)
    try:
        _write(folder, pair, method, settings)
    except BaseException:
        remove_results(folder, pair.files)
        raise


def _write(folder: Path, pair: OpenPair, method: str, settings: Mapping[str, Any]) -> None:
    fixed, moving = pair.fixed, pair.moving
    transform = identity(fixed.grid) if pair.transform is None else pair.transform
    still, field = identity(fixed.grid), DisplacementField(transform.field(fixed.grid), fixed.grid)
    before, warped = carry(moving, still, fixed), carry(moving, field, fixed)
    carried = {name: (image, carry(image, field, fixed)) for name, image in pair.also.items()}
    labels = {}
    if "moving" in pair.labels:
        image = pair.labels["moving"]
        labels = {"dice_before": carry(image, still, fixed), "dice": carry(image, field, fixed)}
        carried["warped_labels.nii.gz"] = (image, labels["dice"])
    pair.lap("carry")

    folded = folding(field.displacement)
    numbers = {
        "ncc_before": float(normalised_cross_correlation(fixed.array[None], before)),
        "ncc": float(normalised_cross_correlation(fixed.array[None], warped)),
        "folding": float(folded.central),
        "folding_corners": float(folded.forward),
        **overlap(pair, labels),
        **distance(pair, field),
    }
    pair.lap("measure")

    files = {role: ", ".join(map(str, paths)) for role in pair.files if (paths := paths_of(pair.files, role))}
    origin = provenance(method, files)

    def write_files() -> None:
        write_image(folder / "warped.nii.gz", warped[0], fixed.header, moving.header.dtype)
        write_transforms(folder, transform if isinstance(transform, Affine) else field, fixed, moving)
        for name, (image, result) in carried.items():
            write_image(folder / name, result[0], fixed.header, image.header.dtype)
        if "moving" in pair.points:
            there = carry_points(field, pair.points["moving"].points)
            write_points(folder / "warped_points.csv", pair.points["moving"]._replace(points=there), fixed.header)

    # compressing volumes takes as long as drawing the report, and each wants one processor
    with ThreadPoolExecutor(1) as other:
        written = other.submit(write_files)
        if settings["report"]:
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
        written.result()
    pair.lap("write")
    seconds = {name: round(value, 3) for name, value in pair.seconds.items()}
    warnings = [str(finding) for finding in pair.findings]
    about = {"settings": dict(settings), "seconds": seconds, "warnings": warnings, **origin}
    about["files"] = names_from(folder, pair.files)
    write_json(folder / "metrics.json", {**numbers, **about})


def carry(image: Image, transform: Transform, fixed: Image) -> Tensor:
    """An image on the fixed grid, (1, 1, *fixed). Beyond its edge lies its least value; labels (whole numbers) are
    taken from the nearest voxel, 0 beyond the edge."""
    labels = not image.array.is_floating_point()
    mode, value = ("nearest", 0.0) if labels else ("linear", float(image.array.min()))
    return resample(image.array[None], image.grid, transform, fixed.grid, mode=mode, value=value)


def overlap(pair: OpenPair, carried: dict[str, Tensor]) -> dict[str, Any]:
    """Dice of every label, and their mean, for each of the carried label maps; None where a label is in neither."""
    if "fixed" not in pair.labels:
        return {}
    fixed = pair.labels["fixed"].array[None]
    labels = present_labels(pair.labels["moving"].array, fixed)
    numbers: dict[str, Any] = {}
    for name, label_map in carried.items():
        scores = dice(label_map, fixed, labels)[0].tolist() if labels else []
        known = [score for score in scores if not np.isnan(score)]
        numbers[name] = {
            str(label): None if np.isnan(score) else score for label, score in zip(labels, scores, strict=True)
        }
        numbers[f"{name}_mean"] = float(np.mean(known)) if known else None
    return numbers


def distance(pair: OpenPair, field: DisplacementField) -> dict[str, float]:
    """How far corresponding landmarks lie apart in the moving space, without and with the transform, on average."""
    if "fixed" not in pair.points:
        return {}
    fixed, moving = pair.points["fixed"].points, pair.points["moving"].points
    return {
        name: float(target_registration_error(points, moving).mean())
        for name, points in (("tre_before", fixed), ("tre", field.world(fixed)[0]))
    }
