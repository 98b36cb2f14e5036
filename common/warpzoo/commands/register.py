"""The command `warpzoo register`: the bundles' own inference configurations, and methods without a network."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from warpzoo.errors import FAILURES, plain_reason
from warpzoo.files import whole_file
from warpzoo.registration.budget import Budget
from warpzoo.registration.listing import list_pairs, names_from, remove_results
from warpzoo.registration.methods import Method, find_methods

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

    from warpzoo.registration.pairs import OpenPair

Stage = Callable[[Mapping[str, Any], "dict[str, OpenPair]"], None]
"""Takes a pair's files, and the pairs that have been begun, by their id, where it leaves its own."""


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
    also_labels: str | Sequence[str] | None = None,
    refine: str = "0",
    adapt: str = "0",
    similarity: str | None = None,
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
        method: one of `warpzoo methods`, or a chain of them such as affine,svf: composed, then resampled once. rigid,
            affine, ffd and svf need no network; rigid and affine find large misplacements.
        output: folder for the results.
        pairs: instead of fixed and moving, a CSV with the columns fixed and moving, and optionally id, fixed_labels,
            moving_labels, fixed_points, moving_points; each pair gets a folder below output, what is done is skipped.
        fixed_labels: label map of the fixed image, for Dice.
        moving_labels: label map of the moving image, carried along.
        fixed_points: landmarks of the fixed image, in the order of moving_points, for the target registration error.
        moving_points: landmarks of the moving image (CSV, .fcsv or .mrk.json), carried along.
        also: other images of the moving image's space, separated by commas, carried along.
        also_labels: other label maps of it, likewise; the nearest label is taken, none is mixed.
        refine: optimisation of the transform on the pair at hand after the last network's one pass: iterations such as
            40, or seconds such as 10s.
        adapt: training of the last network on the pair at hand before its one pass: iterations, or seconds such as 10s.
        similarity: what rigid, affine, ffd, svf and refine maximise: ncc (rigid and affine unless told), lncc (the
            others unless told), mse, or mi for images of different modalities.
        strict: treat warnings about what is likely to fail as errors.
        report: write the report.
        overwrite: do pairs of a list again that are done.
        device: such as cuda:1 or cpu; the GPU if there is one.
        weights: your own for the (last) network, instead of the shipped ones.
        variant: overrides of the (last) network's configuration, such as digits or paper,coarse, that the weights were
            trained with; without weights, those that are shipped for it.
    """
    chain = find_methods(method)
    name = ",".join(one if isinstance(one, str) else one.name for one in chain)
    if similarity is not None:
        from warpzoo.registration.optimisation import check_similarity

        check_similarity(similarity)
    for_network = {
        "refine": refine if Budget.read("refine", refine) else None,
        "adapt": adapt if Budget.read("adapt", adapt) else None,
        "weights": weights,
        "variant": variant,
    }
    for option, value in for_network.items():
        if value is not None and all(isinstance(one, str) for one in chain):
            raise ValueError(f"{option} is {value!r}, but {name} has no network; leave it out.")
    if similarity is not None and not for_network["refine"] and all(isinstance(one, Method) for one in chain):
        raise ValueError(f"similarity is {similarity!r}, but {name} optimises nothing without refine; leave it out.")
    listed = list_pairs(
        pairs,
        fixed=fixed,
        moving=moving,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        fixed_points=fixed_points,
        moving_points=moving_points,
        also=also,
        also_labels=also_labels,
    )
    if not listed:
        raise ValueError("there is nothing to register: give fixed and moving, or pairs.")
    folder = Path(output).absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{output} is a file; output wants a folder.")
    networks = [number for number, one in enumerate(chain) if isinstance(one, Method)]
    files = [one.weights for one in chain if isinstance(one, Method)]
    overrides: dict[str, Any] = {}
    if variant is not None:
        last_network = [one for one in chain if isinstance(one, Method)][-1]
        overrides = overrides_of(last_network, variant)
        files[-1] = last_network.root / "models" / f"{variant.split(',')[-1].strip()}.pt"
    if weights is not None:
        files[-1] = Path(weights).expanduser().absolute()
    elif variant is not None and not files[-1].exists():
        models = files[-1].parent
        there = ", ".join(str(path.relative_to(models)) for path in sorted(models.rglob("*.pt")))
        raise ValueError(
            f"{name} comes with no weights for its variant {variant!r}; name a file with `weights`. Those in {models}: "
            f"{there or 'none'}."
        )
    settings = {
        "refine": refine,
        "adapt": adapt,
        "similarity": similarity,
        "report": report,
        "variant": variant,
        "weights": [fingerprint(path) for path in files],
    }
    done = {"method": name, "settings": settings}
    todo = [pair for pair in listed if pairs is None or overwrite or not is_done(folder / pair["id"], pair, done)]
    if len(todo) < len(listed):
        print(f"{len(listed) - len(todo)} of {len(listed)} pairs are done already (--overwrite does them again).")

    common: dict[str, Any] = {"similarity": similarity, "strict": strict}
    stages: list[Stage] = []
    for number, one in enumerate(chain):
        if isinstance(one, str):
            stages.append(partial(run_optimisation, method=one, device=device, **common))
            continue
        options: dict[str, Any] = {**common, "postprocessing#save": False}
        if device is not None:
            options["device"] = f"$torch.device({device!r})"
        last = number == networks[-1]
        if last:
            options |= {**overrides, "weights": str(files[-1]), "refine": refine, "adapt": adapt}
            if weights is not None or variant is not None:
                options["dataset#expectations"] = None  # what the bundle's own weights were trained on
        stages.append(partial(run_workflow, workflow_of(one, folder, **options)))
    if pairs is None:
        run_chain(stages, folder, listed[0], name, settings)
        print_result(folder, output)
        return
    failures = {}
    for pair in tqdm(todo, desc="Registering", unit="pair"):
        try:
            run_chain(stages, folder / pair["id"], pair, name, settings)
        except FAILURES as error:
            failures[pair["id"]] = plain_reason(error)
    write_tables(folder, [pair["id"] for pair in listed], failures)


def is_done(folder: Path, pair: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds the whole results of the same files and settings."""
    try:
        numbers = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return {"files": names_from(folder, pair), **settings}.items() <= numbers.items()


def fingerprint(weights: Path) -> str:
    """What tells weights from others: the first half of their SHA-256; nothing where there is no file."""
    return sha256(weights.read_bytes()).hexdigest()[:32] if weights.is_file() else ""


def overrides_of(method: Method, variants: str) -> dict[str, Any]:
    """What variants, separated by commas, change in the inference configuration, later ones on top."""
    configs = method.root / "configs"
    known = json.loads((configs / "inference.json").read_text(encoding="utf-8"))
    overrides: dict[str, Any] = {}
    for name in variants.split(","):
        file = configs / "variants" / f"{name.strip()}.json"
        if not file.is_file():
            there = ", ".join(sorted(path.stem for path in file.parent.glob("*.json")))
            raise ValueError(f"{method.name} has no variant {name.strip()!r}; it has {there or 'none'}.")
        changed = json.loads(file.read_text(encoding="utf-8"))
        overrides |= {key: value for key, value in changed.items() if key.partition("#")[0] in known}
    return overrides


def workflow_of(method: Method, folder: Path, **options: Any) -> ConfigWorkflow:
    """The inference workflow of one method, whose dataset is filled pair by pair."""
    from monai.bundle import ConfigWorkflow

    configs = method.root / "configs"
    options |= {"bundle_root": str(method.root), "output_dir": str(folder)}
    options["dataset#data"] = [{}]  # an engine asks once for the number of pairs
    workflow = ConfigWorkflow(
        config_file=str(configs / "inference.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        **options,
    )
    workflow.initialize()
    return workflow


def run_chain(
    stages: Sequence[Stage], folder: Path, files: Mapping[str, Any], method: str, settings: Mapping[str, Any]
) -> None:
    """One pair through all methods, each of which goes on where the one before has come; then what comes of it."""
    from warpzoo.registration.results import write_results

    remove_results(folder, files)
    begun: dict[str, OpenPair] = {}
    for run in stages:
        run(files, begun)
    write_results(folder, begun[files["id"]], method, settings)


def run_workflow(workflow: ConfigWorkflow, files: Mapping[str, Any], begun: dict[str, OpenPair]) -> None:
    """A network's stage of a chain."""
    path = list(sys.path)
    try:
        workflow.dataset.data, workflow.dataset.begun = [files], begun
        workflow.run()
    except BaseException:
        # an engine that has failed does nothing, silently, when it is run again: the next pair gets a new one
        if workflow.parser.ref_resolver.remove_resolved_content("evaluator") is not None:
            workflow.parser.get_parsed_content("evaluator")
        raise
    finally:
        sys.path[:] = path  # each run puts the bundle there once more


def run_optimisation(
    files: Mapping[str, Any],
    begun: dict[str, OpenPair],
    method: str,
    similarity: str | None,
    strict: bool,
    device: str | None,
) -> None:
    """A stage of a chain without a network."""
    import torch

    from warpzoo.registration.pairs import open_pair

    anywhere = {"displacement": float("inf")} if method in ("rigid", "affine") else {}
    pair = open_pair(files, begun, anywhere, strict)
    pair.optimise(method, similarity, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pair.lap(method)
    begun[files["id"]] = pair


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
        if name in ("versions", "files", "settings"):
            continue
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{name}_")
        elif isinstance(value, (int, float)):
            flat[prefix + name] = value
    return flat
