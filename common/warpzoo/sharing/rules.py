"""What MONAI's model zoo asks of a bundle, in our own words; each rule yields one sentence for everything wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, cast

import torch

from warpzoo.bundles import METADATA, Bundle
from warpzoo.errors import FAILURES, plain_reason
from warpzoo.networks import load_weights
from warpzoo.sharing.results import results
from warpzoo.sharing.vendoring import NAME, configurations, foreign_packages

MOST_BYTES = 25 * 2**20
FILES = (
    "LICENSE",
    METADATA.as_posix(),
    "configs/train.json",
    "configs/inference.json",
    "models/model.pt",
    "docs/README.md",
    "docs/data_license.txt",
)
TEXTS = [
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "name",
    "task",
    "description",
    "authors",
    "copyright",
    "data_source",
    "intended_use",
]
MAPPINGS = ("changelog", "required_packages_version", "network_data_format")
SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
TENSOR: Mapping[str, type] = {
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
}
SECTIONS = {
    "Model Description": True,
    "Data": True,
    "Performance": True,
    "Additional Usage Steps": False,
    "System Configuration": True,
    "Limitations": False,
    "Citation Info": False,
    "References": False,
}
"""Of a bundle's page: whether the zoo asks for it."""
STATED_APART = {"torch": "pytorch_version", "monai": "monai_version", "numpy": "numpy_version"}
OPTIONAL = {"zarr", "ome_zarr", "SimpleITK", "ants", "pydicom", "mlflow", "optuna", "dask", "distributed"}
"""Imported where somebody has it: nothing that a bundle does needs it."""
COMES_WITH = {"ignite": "pytorch-ignite", "skimage": "scikit-image", "pywt": "PyWavelets", "PIL": "pillow"}
"""The distribution of a package, where its name does not tell."""


def files(bundle: Bundle) -> Iterator[str]:
    """What must be there, and that git can hold it."""
    for name in FILES:
        path = bundle.root / name
        if not path.is_file() or not path.stat().st_size:
            yield f"{name} must be there and not be empty."
    for path in bundle.root.rglob("*"):
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            yield f"{path.relative_to(bundle.root).as_posix()} must have {MOST_BYTES} bytes or less."


def metadata(bundle: Bundle) -> Iterator[str]:
    """The schema of 2024-07-25, and what the zoo asks for beyond it."""
    content = bundle.metadata
    for word, kind, keys in (("text", str, TEXTS), ("mapping", dict, MAPPINGS)):
        for key in keys:
            if not isinstance(content.get(key), kind) or not content[key]:
                yield f"{key} of the metadata must be a {word} that is not empty."
    if content.get("schema") != SCHEMA:
        yield f"schema of the metadata must be {SCHEMA}."
    if "optional_packages_version" in content:
        yield "optional_packages_version must not be in the metadata: MONAI takes it for the required ones."
    for side in ("inputs", "outputs"):
        for name, tensor in content.get("network_data_format", {}).get(side, {}).items():
            for key, expected in TENSOR.items():
                if not isinstance(tensor.get(key), expected):
                    yield f"{key} of {name} in {side} must be a {expected.__name__}."
            if "channel_def" in tensor and len(tensor["channel_def"]) != tensor.get("num_channels"):
                yield f"channel_def of {name} in {side} must name {tensor.get('num_channels')} channels."
    formats = content.get("network_data_format", {})
    if bundle.task is None:
        yield "the format of the output pred must be registration or denoised."
    if [*formats.get("inputs", {})] != ["image"] or [*formats.get("outputs", {})] != ["pred"]:
        yield "network_data_format must have one input, image, and one output, pred."


def changelog(bundle: Bundle) -> Iterator[str]:
    """Versions are compared as text: 0.9.0 would be after 0.10.0."""
    version = str(bundle.metadata.get("version"))
    if not re.fullmatch(r"\d\.\d\.\d", version):
        yield f"version must be three digits such as 0.1.0, got {version!r}."
    if version not in bundle.metadata.get("changelog", {}):
        yield f"changelog must have an entry for version {version}."


def names(bundle: Bundle) -> Iterator[str]:
    """Names that MONAI's own tools do not cut, and packages that hide nobody else's."""
    if re.search(r"_v\D", bundle.name):
        yield f"the bundle's name must not have _v before a letter, got {bundle.name}: MONAI takes what follows off."
    if is_package(bundle.name):
        yield f"the bundle's name must not be that of a package, got {bundle.name}."
    packages = {path.parent.name for path in bundle.root.glob("*/__init__.py")} - {NAME}  # of a release
    if packages != {bundle.name}:
        yield f"the bundle must have one package, {bundle.name}, got {', '.join(sorted(packages)) or 'none'}."
    for other in bundle.root.parent.glob(f"*/{METADATA.as_posix()}"):
        name = other.parents[1].name
        if name != bundle.name and (name in bundle.name or bundle.name in name):
            yield f"the bundle's name must not hold another's, nor be held by it, got {bundle.name} beside {name}."


def is_package(name: str) -> bool:
    """Whether Python itself or what is installed has a package of that name; bundles on the path do not count."""
    found = PathFinder.find_spec(name, [one for one in sys.path if not Path(one, METADATA).is_file()])
    return name in sys.stdlib_module_names or (found is not None and found.origin is not None)


def form(bundle: Bundle) -> Iterator[str]:
    """JSON as the zoo's hooks write it, and no paths of somebody's machine."""
    for path in [bundle.root / METADATA, *configurations(bundle.root)]:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(bundle.root).as_posix()
        if text != json.dumps(json.loads(text), indent=4, ensure_ascii="\\u" in text) + "\n":
            yield f"{name} must be indented by four spaces and end with a newline."
        if re.search(r'"(/(home|root|Users)/|[A-Z]:\\\\)', text):
            yield f"{name} must not have a path of somebody's machine."


def properties(bundle: Bundle) -> Iterator[str]:
    """The parts of a training and of an inference that MONAI's workflows ask for, by name."""
    from monai.bundle.properties import InferProperties, TrainProperties

    for name, asked in (("train", TrainProperties), ("inference", InferProperties)):
        found: Any = bundle.config(name)
        required = [entry["id"] for entry in cast(Any, asked).values() if entry["required"]]
        for identifier in required:
            if identifier not in found:
                yield f"configs/{name}.json must have {identifier.replace('::', '#')}."
        if "run" not in found:
            yield f"configs/{name}.json must have run."


def packages(bundle: Bundle) -> Iterator[str]:
    """Everything that the bundle and its part of this package import is among the required packages."""
    stated = {name.lower() for name in bundle.metadata.get("required_packages_version", {})}
    for package in sorted(foreign_packages(bundle.root) - OPTIONAL - STATED_APART.keys()):
        distribution = COMES_WITH.get(package, package)
        if distribution.lower() not in stated:
            yield f"required_packages_version must have {distribution}."


def network(bundle: Bundle) -> Iterator[str]:
    """Weights that are a plain state, fit and are finite; one tensor in, one tensor out, as the metadata say."""
    from warpzoo.sharing.exports import examples

    formats = bundle.metadata["network_data_format"]
    try:
        made = bundle.part("network_def", "inference")
        load_weights(bundle.weights(), made)
        with torch.no_grad():
            for image in examples(bundle):
                found = made.eval()(image)
                shape = (len(image), formats["outputs"]["pred"]["num_channels"], *image.shape[2:])
                if tuple(found.shape) != shape or not bool(found.isfinite().all()):
                    yield f"the network must give a finite {shape} for {tuple(image.shape)}, got {tuple(found.shape)}."
    except (*FAILURES, RuntimeError) as error:
        yield f"the network must load its weights and run ({plain_reason(error)})."


def readme(bundle: Bundle) -> Iterator[str]:
    """The sections of the zoo's template, in its order."""
    text = (bundle.root / "docs" / "README.md").read_text(encoding="utf-8")
    found = re.findall(
        r"^## \**(.+?)\**$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    if missing := [name for name, required in SECTIONS.items() if required and name not in found]:
        yield f"docs/README.md must have the sections {', '.join(missing)}."
    if found != [name for name in SECTIONS if name in found]:
        yield f"docs/README.md must have sections of {', '.join(SECTIONS)}, in this order, got {', '.join(found)}."


def numbers(bundle: Bundle) -> Iterator[str]:
    """The page of results that the metadata name has the row of the shipped weights."""
    try:
        results(bundle)
    except ValueError as error:
        yield str(error)


def licence(bundle: Bundle) -> Iterator[str]:
    if "Apache License" not in (bundle.root / "LICENSE").read_text(encoding="utf-8"):
        yield "LICENSE must be the Apache License."


RULES: Mapping[str, Callable[[Bundle], Iterator[str]]] = {
    rule.__name__: rule
    for rule in (files, metadata, changelog, names, form, properties, packages, licence, readme, network, numbers)
}


def broken_rules(bundle: Bundle) -> list[str]:
    """What is wrong, a sentence each; what stands on files is only looked at if these are there."""
    if missing := [*files(bundle)]:
        return missing
    return [sentence for rule in RULES.values() for sentence in rule(bundle)]
