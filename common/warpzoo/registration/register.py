"""The command `warpzoo register`: drives the bundles' own inference configurations, one pair or a list of them."""

from __future__ import annotations

import csv
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from tqdm import tqdm

from warpzoo.geometry.transforms import Transform
from warpzoo.registration.methods import Method, find_methods
from warpzoo.registration.pairs import list_pairs
from warpzoo.space.files import whole_file


def register(
    fixed: str | None = None,
    moving: str | None = None,
    method: str = "dirnet",
    output: str = "registered",
    pairs: str | None = None,
    fixed_labels: str | None = None,
    moving_labels: str | None = None,
    fixed_points: str | None = None,
    moving_points: str | None = None,
    also: str | Sequence[str] | None = None,
    refine: int = 0,
    strict: bool = False,
    report: bool = True,
    overwrite: bool = False,
    device: str | None = None,
) -> None:
    """Carries the moving image onto the fixed one and writes what comes of it, on the fixed image's grid.

    The output folder gets warped.nii.gz, transform.h5 and displacement.nii.gz (for ITK, ANTs, Slicer, SimpleITK),
    report.html and report.png, and metrics.json. Files may be NIfTI, MetaImage, NRRD, PNG, JPEG, TIFF or a folder of
    one DICOM series; they may differ in grid, spacing, orientation and data type.

    Args:
        fixed: the image that stays.
        moving: the image that is carried.
        method: one of `warpzoo methods`, or a chain of them such as affine,fcn_multires: composed, then resampled once.
        output: folder for the results.
        pairs: instead of fixed and moving, a CSV with the columns fixed and moving, and optionally id, fixed_labels,
            moving_labels, fixed_points, moving_points; each pair gets a folder below output, what is done is skipped.
        fixed_labels: label map of the fixed image, for Dice.
        moving_labels: label map of the moving image, carried along.
        fixed_points: landmarks of the fixed image, in the order of moving_points, for the target registration error.
        moving_points: landmarks of the moving image (CSV, .fcsv or .mrk.json), carried along.
        also: other images of the moving image's space, separated by commas, carried along.
        refine: iterations of optimisation on the pair at hand after the network's one pass.
        strict: treat warnings about what is likely to fail as errors.
        report: write the report.
        overwrite: do pairs again that are done.
        device: such as cuda:1 or cpu; the GPU if there is one.
    """
    warnings.filterwarnings("ignore")
    for name in ("ignite", "BundleWorkflow", "monai.bundle.workflows"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    chain = find_methods(method)
    listed = list_pairs(
        pairs,
        fixed=fixed,
        moving=moving,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        fixed_points=fixed_points,
        moving_points=moving_points,
        also=also.split(",") if isinstance(also, str) else also,
    )
    if not listed:
        raise ValueError("there is nothing to register: give fixed and moving, or pairs.")
    folder = Path(output)
    options = {"refine": refine, "strict": strict, "report": report}
    if device is not None:
        options["device"] = f"$torch.device({device!r})"
    stages = [stage(one, listed[0], folder, save=one is chain[-1], **options) for one in chain]
    if pairs is None:
        run_chain(stages, listed[0])
        print_result(folder)
        return
    failures = {}
    todo = [pair for pair in listed if overwrite or not (folder / pair["id"] / "metrics.json").exists()]
    if len(todo) < len(listed):
        print(f"{len(listed) - len(todo)} of {len(listed)} pairs are done already (overwrite does them again).")
    for pair in tqdm(todo, desc="Registering", unit="pair"):
        try:
            run_chain(stages, pair)
        except (ValueError, RuntimeError, OSError) as error:
            from warpzoo.__main__ import plain_reason

            failures[pair["id"]] = plain_reason(error)
    write_tables(folder, [pair["id"] for pair in listed], failures)


def stage(method: Method, pair: Mapping[str, Any], folder: Path, save: bool, **options: Any) -> ConfigWorkflow:
    """The inference workflow of one method, set up for one pair at a time."""
    workflow = ConfigWorkflow(
        config_file=str(method.root / "configs" / "inference.json"),
        meta_file=str(method.root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(method.root),
        output_dir=str(folder),
        **{"dataset#data": [dict(pair)], "postprocessing#save": save},
        **options,
    )
    workflow.initialize()
    return workflow


def run_chain(stages: Sequence[ConfigWorkflow], pair: Mapping[str, Any]) -> None:
    """One pair through all methods; what a method finds is where the next one starts."""
    initial: dict[str, Transform] = {}
    for workflow in stages:
        workflow.dataset.data, workflow.dataset.initial = [pair], initial
        workflow.run()
        initial = workflow.dataset.initial


def print_result(folder: Path) -> None:
    numbers = json.loads((folder / "metrics.json").read_text())
    told = [f"ncc {numbers['ncc_before']:.3f} -> {numbers['ncc']:.3f}", f"folding {100 * numbers['folding']:.2f} %"]
    if "dice_mean" in numbers:
        told.append(f"Dice {numbers['dice_before_mean']:.3f} -> {numbers['dice_mean']:.3f}")
    if "tre" in numbers:
        told.append(f"target registration error {numbers['tre_before']:.2f} -> {numbers['tre']:.2f}")
    for warning in numbers["warnings"]:
        print(f"warning: {warning}")
    print(f"{folder}: {', '.join(told)}")


def write_tables(folder: Path, ids: Sequence[str], failures: Mapping[str, str]) -> None:
    """`metrics.csv` with a row of numbers for every pair that is done, `failures.csv` with the others' reasons."""
    rows = []
    for name in ids:
        path = folder / name / "metrics.json"
        if path.exists() and name not in failures:
            rows.append({"id": name, **flat_numbers(json.loads(path.read_text()))})
    tables = {"metrics.csv": rows, "failures.csv": [{"id": name, "reason": why} for name, why in failures.items()]}
    for name, table in tables.items():
        if not table:
            (folder / name).unlink(missing_ok=True)
            continue
        columns = list(dict.fromkeys(column for row in table for column in row))
        with whole_file(folder / name) as unfinished, open(unfinished, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(table)
    print(f"{len(rows)} pairs registered: {folder / 'metrics.csv'}")
    if failures:
        for name, why in failures.items():
            print(f"  {name}: {why}")
        raise ValueError(f"{len(failures)} of {len(ids)} pairs failed: {folder / 'failures.csv'}")


def flat_numbers(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested dictionary, by names such as dice_1 and seconds_read."""
    flat: dict[str, float] = {}
    for name, value in numbers.items():
        if name in ("versions", "files"):
            continue
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{name}_")
        elif isinstance(value, (int, float)):
            flat[prefix + name] = value
    return flat
