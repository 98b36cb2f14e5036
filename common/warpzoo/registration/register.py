"""The command `warpzoo register`: drives the bundles' own inference configurations, one pair or a list of them."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from warpzoo.errors import FAILURES, plain_reason
from warpzoo.registration.listing import list_pairs, remove_results
from warpzoo.registration.methods import Method, find_methods
from warpzoo.space.files import whole_file

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

    from warpzoo.registration.pairs import OpenPair


def register(
    fixed: str | None = None,
    moving: str | None = None,
    *,
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
    weights: str | None = None,
    variant: str | None = None,
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
        refine: iterations of optimisation on the pair at hand after the last network's one pass.
        strict: treat warnings about what is likely to fail as errors.
        report: write the report.
        overwrite: do pairs of a list again that are done.
        device: such as cuda:1 or cpu; the GPU if there is one.
        weights: your own for the (last) method, instead of the shipped ones.
        variant: overrides of the (last) method's configuration, such as digits, that the weights were trained with.
    """
    if refine < 0:
        raise ValueError(f"refine is {refine}; a number of iterations, 0 or more, is wanted.")
    chain = find_methods(method)
    listed = list_pairs(
        pairs,
        fixed=fixed,
        moving=moving,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        fixed_points=fixed_points,
        moving_points=moving_points,
        also=also,
    )
    if not listed:
        raise ValueError("there is nothing to register: give fixed and moving, or pairs.")
    folder = Path(output).absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{output} is a file; output wants a folder.")
    name = ",".join(one.name for one in chain)
    done = {"method": name, "refine": refine}
    todo = [pair for pair in listed if pairs is None or overwrite or not is_done(folder / pair["id"], pair, done)]
    if len(todo) < len(listed):
        print(f"{len(listed) - len(todo)} of {len(listed)} pairs are done already (--overwrite does them again).")
    options: dict[str, Any] = {"strict": strict} | ({} if device is None else {"device": f"$torch.device({device!r})"})
    last = {"refine": refine, "report": report, "postprocessing#method": name}
    if weights is not None:
        last["weights"] = str(Path(weights).expanduser().absolute())
    stages = [workflow_of(one, folder, None, **options, **{"postprocessing#save": False}) for one in chain[:-1]]
    stages.append(workflow_of(chain[-1], folder, variant, **options, **last))
    if pairs is None:
        run_chain(stages, folder, listed[0])
        print_result(folder, output)
        return
    failures = {}
    for pair in tqdm(todo, desc="Registering", unit="pair"):
        try:
            run_chain(stages, folder / pair["id"], pair)
        except FAILURES as error:
            failures[pair["id"]] = plain_reason(error)
    write_tables(folder, [pair["id"] for pair in listed], failures)


def is_done(folder: Path, pair: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds the whole results of the same files and settings."""
    try:
        numbers = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    files = {name: str(value) for name, value in pair.items()}
    return {"files": files, **settings}.items() <= numbers.items()


def workflow_of(method: Method, folder: Path, variant: str | None = None, **options: Any) -> ConfigWorkflow:
    """The inference workflow of one method, whose dataset is filled pair by pair."""
    from monai.bundle import ConfigWorkflow

    configs = method.root / "configs"
    files = [configs / "inference.json"]
    if variant is not None:
        files.append(configs / "variants" / f"{variant}.json")
        if not files[-1].is_file():
            there = ", ".join(sorted(path.stem for path in files[-1].parent.glob("*.json")))
            raise ValueError(f"{method.name} has no variant {variant!r}; it has {there or 'none'}.")
    options |= {"bundle_root": str(method.root), "output_dir": str(folder)}
    options["dataset#data"] = [{}]  # an engine asks once for the number of pairs
    workflow = ConfigWorkflow(
        config_file=[str(path) for path in files],
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        **options,
    )
    workflow.initialize()
    return workflow


def run_chain(stages: Sequence[ConfigWorkflow], folder: Path, pair: Mapping[str, Any]) -> None:
    """One pair through all methods: what a method has begun the next one continues, the last one saves."""
    remove_results(folder, pair)
    begun: dict[str, OpenPair] = {}
    for workflow in stages:
        path = list(sys.path)
        try:
            workflow.dataset.data, workflow.dataset.begun = [pair], begun
            workflow.run()
        except BaseException:
            # an engine that has failed does nothing, silently, when it is run again: the next pair gets a new one
            if workflow.parser.ref_resolver.remove_resolved_content("evaluator") is not None:
                workflow.parser.get_parsed_content("evaluator")
            raise
        finally:
            sys.path[:] = path  # each run puts the bundle there once more


def print_result(folder: Path, name: str) -> None:
    numbers = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    told = [f"ncc {numbers['ncc_before']:.3f} -> {numbers['ncc']:.3f}", f"folding {100 * numbers['folding']:.2f} %"]
    if numbers.get("dice_mean") is not None:
        told.append(f"Dice {numbers['dice_before_mean']:.3f} -> {numbers['dice_mean']:.3f}")
    if "tre" in numbers:
        told.append(f"target registration error {numbers['tre_before']:.2f} -> {numbers['tre']:.2f}")
    for warning in numbers["warnings"]:
        print(f"warning: {warning}")
    print(f"{name}: {', '.join(told)}")


def write_tables(folder: Path, ids: Sequence[str], failures: Mapping[str, str]) -> None:
    """`metrics.csv` with a row of numbers for every pair that is done, `failures.csv` with the others' reasons."""
    rows = [
        {"id": name, **flat_numbers(json.loads((folder / name / "metrics.json").read_text(encoding="utf-8")))}
        for name in ids
        if name not in failures
    ]
    tables: dict[str, list[dict[str, Any]]] = {
        "metrics.csv": rows,
        "failures.csv": [{"id": name, "reason": why} for name, why in failures.items()],
    }
    for name, table in tables.items():
        if not table:
            (folder / name).unlink(missing_ok=True)
            continue
        columns = list(dict.fromkeys(column for row in table for column in row))
        with whole_file(folder / name) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(table)
    if rows:
        print(f"{len(rows)} of {len(ids)} pairs registered: {folder / 'metrics.csv'}")
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
