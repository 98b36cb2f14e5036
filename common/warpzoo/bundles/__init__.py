"""Bundles: where they lie, what they say of themselves, and their configurations with variants on top.

A bundle is a folder with `configs/metadata.json`. It is given by its path, or by its name: looked for in the folders
that WARPZOO_BUNDLES lists (separated as in PATH), then among the fetched and the shipped ones, first found first taken.
What it is for is the format of its output `pred` in the metadata: "registration" or "denoised". Bundles of other
formats, such as the segmentations of MONAI's zoo, may lie in the same folders; they are not listed, and neither are
damaged ones.

Importing this module makes the bundles' own packages importable, which MONAI does in `run` only: a
bundle's configuration therefore imports it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import warpzoo
from warpzoo.bundles.fetched import fetched_folder
from warpzoo.errors import as_value_error, nearest
from warpzoo.files import reading

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

FOLDERS_VARIABLE = "WARPZOO_BUNDLES"
METADATA = Path("configs", "metadata.json")
TASKS = {"registration": "registration", "denoised": "denoising"}
"""Format of a network's output `pred` → what the bundle is for."""


@dataclass(frozen=True)
class Bundle:
    """One bundle: its folder and its metadata."""

    root: Path
    metadata: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def task(self) -> str | None:
        """ "registration", "denoising" or None, by the format of the output."""
        return TASKS.get(self.metadata["network_data_format"]["outputs"]["pred"]["format"])

    @property
    def spatial_dims(self) -> int:
        return len(self.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"])

    @property
    def variants(self) -> list[str]:
        return sorted(path.stem for path in (self.root / "configs" / "variants").glob("*.json"))

    def variants_for(self, dims: int) -> list[str]:
        """The variant, such as 3d, that makes it one for images of so many dimensions, if it is one for others."""
        return [] if dims == self.spatial_dims else [f"{dims}d"]

    def dims_of(self, variants: Sequence[str] = ()) -> int:
        """The dimensions of the images that it takes with these variants."""
        return int(self.settings("inference", variants).get("spatial_dims", self.spatial_dims))

    def weights(self, variants: Sequence[str] = ()) -> Path:
        """Where the shipped weights of the last of these variants are, or those of the bundle itself."""
        return self.root / "models" / f"{variants[-1] if variants else 'model'}.pt"

    def shipped_weights(self) -> list[str]:
        models = self.root / "models"
        return [path.relative_to(models).with_suffix("").as_posix() for path in sorted(models.rglob("*.pt"))]

    def settings(self, name: str, variants: Sequence[str] = ()) -> dict[str, Any]:
        """`configs/<name>.json` with variants on top, later ones last.

        Of a variant counts what the configuration has, and what that refers to: a variant of a training may change
        things that its inference does not have. A variant may be a JSON file of one's own, by its path: what neither
        the training nor the inference has, or what is of another kind there, is refused.
        """
        found = self._read(f"{name}.json")
        for variant in variants:
            if not variant.endswith(".json") and variant not in self.variants:
                there = ", ".join(self.variants) or "none"
                raise ValueError(
                    f"variant must be one of {self.name}'s ({there}), got {variant!r}{nearest(variant, self.variants)}."
                )
            changes = _read_json(self.variant_file(variant))
            if variant.endswith(".json"):
                self._check_own(variant, changes, found)
            known = {key for key in changes if key.partition("#")[0] in found}
            while more := {key for key in changes.keys() - known if _refers(found, changes, known, key)}:
                known |= more
            found |= {key: value for key, value in changes.items() if key in known}
        return found

    def variant_file(self, variant: str) -> Path:
        """Where a variant is: one of the bundle's by its name, another one by its path, which ends in .json."""
        return Path(variant) if variant.endswith(".json") else self.root / "configs" / "variants" / f"{variant}.json"

    def config(self, name: str, variants: Sequence[str] = (), **settings: Any) -> ConfigParser:
        """The same, and `settings` on top, to get parts from."""
        from monai.bundle import ConfigParser

        parser = ConfigParser({})
        for key, value in self.settings(name, variants).items():  # as MONAI puts one file on top of another
            parser[key] = value
        parser.read_meta(str(self.root / METADATA))
        parser.update({"bundle_root": str(self.root), **settings})
        return parser

    def part(self, key: str, name: str, variants: Sequence[str] = (), **settings: Any) -> Any:
        """One part of that configuration, such as "method" of "inference"."""
        with as_value_error():
            return self.config(name, variants, **settings).get_parsed_content(key)

    def workflow(self, name: str, variants: Sequence[str] = (), **settings: Any) -> ConfigWorkflow:
        """MONAI's workflow of "train" or "inference", initialised."""
        return self.workflow_of(name, self.config(name, variants, **settings))

    def workflow_of(self, name: str, config: ConfigParser) -> ConfigWorkflow:
        """The same of a whole configuration."""
        from monai.bundle import ConfigWorkflow

        logger = logging.getLogger("monai.bundle.workflows")
        disabled, logger.disabled = logger.disabled, True  # it would warn that there is no logging_file
        try:
            workflow = ConfigWorkflow(
                config_file=str(self.root / "configs" / f"{name}.json"),
                meta_file=str(self.root / METADATA),
                logging_file=False,
                workflow_type="train" if name == "train" else "inference",
            )
        finally:
            logger.disabled = disabled
        workflow.parser = config
        with as_value_error():
            workflow.initialize()
        return workflow

    def _check_own(self, path: str, changes: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """That a file of settings has names and kinds of `found`, or of the bundle's other configuration."""
        from warpzoo.bundles.overrides import check_overrides

        others = [f"{name}.json" for name in ("inference", "train")]
        there = [self._read(one) for one in others if (self.root / "configs" / one).is_file()]
        known = {key: value for content in (*there, found) for key, value in content.items()}
        try:
            check_overrides(known, changes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _read(self, name: str) -> dict[str, Any]:
        path = self.root / "configs" / name
        if not path.is_file():
            raise ValueError(f"{path} does not exist; a bundle must have it.")
        return _read_json(path)


def open_bundle(root: str | Path) -> Bundle:
    """The bundle in a folder, whose package can be imported from then on."""
    root = Path(root).expanduser().resolve()
    if not (root / METADATA).is_file():
        raise ValueError(f"bundle_root must be the folder of a bundle, with {METADATA.as_posix()}, got {root}.")
    package = sys.modules.get(root.name)
    if package is not None and root not in Path(getattr(package, "__file__", None) or "").parents:
        raise ValueError(f"{root} cannot be used: another package {root.name} is loaded already ({package}).")
    bundle = read_bundle(root)
    _PACKAGES.opened[root.name] = root
    return bundle


def absolute_name(name: str) -> str:
    """A bundle's name, or its folder from any working directory."""
    return str(Path(name).expanduser().absolute()) if "/" in name else name


def variant_names(variant: str | None) -> list[str]:
    """The variants that a user names, joined by commas."""
    return [name.strip() for name in variant.split(",")] if variant else []


def find_bundle(name: str, task: str | None = None, others: Sequence[str] = ()) -> Bundle:
    """The bundle of that name, or in that folder, if it is for the task, or for any that is known; otherwise a
    ValueError that lists those, and the `others` that are no bundles."""
    tasks = [*TASKS.values()] if task is None else [task]
    if os.sep in name or "/" in name or "\\" in name or name in (".", ".."):
        bundle = open_bundle(name)
    else:
        root = next((root for root in bundle_roots() if root.name == name), None)
        if root is None:
            there = ", ".join([*others, *(bundle.name for one in tasks for bundle in bundles(one))])
            raise ValueError(
                f"method must be one of {there}, a bundle's folder such as ./my_bundle, or a bundle in the folders "
                f"that the environment variable {FOLDERS_VARIABLE} lists, got {name!r}"
                f"{nearest(name, there.split(', '))}."
            )
        bundle = open_bundle(root)
    if bundle.task not in tasks:
        raise ValueError(
            f"method must be a bundle for {' or '.join(tasks)}, got {name!r}, which is for "
            f"{bundle.task or 'something else'}."
        )
    return bundle


def bundles(task: str, folders: Sequence[Path] | None = None) -> list[Bundle]:
    """All that are found by name, or in these folders, for that task; what cannot be opened is left out."""
    found = []
    for root in bundle_roots(folders):
        with suppress(ValueError):
            found.append(read_bundle(root))
    return [bundle for bundle in found if bundle.task == task]


def shipped(task: str) -> Bundle:
    """The first one for that task of those that are shipped, whatever WARPZOO_BUNDLES lists."""
    there = bundles(task, bundle_folders()[-1:])
    if not there:
        raise ValueError(f"method must be given: no bundle for {task} is shipped here.")
    return open_bundle(there[0].root)


def bundle_roots(folders: Sequence[Path] | None = None) -> Iterator[Path]:
    """The folders of all bundles that are found by name, or in these folders; the first of a name hides others."""
    seen = set()
    for folder in bundle_folders() if folders is None else folders:
        for path in sorted(folder.glob(f"*/{METADATA.as_posix()}")):
            root = path.parents[1].resolve()
            if root.name not in seen:
                seen.add(root.name)
                yield root


def bundle_folders() -> list[Path]:
    """The folders that hold bundles: those of WARPZOO_BUNDLES, that of the fetched ones, that of the shipped ones."""
    listed = [Path(name).expanduser() for name in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if name]
    package = Path(warpzoo.__file__).resolve().parent
    if (package.parent / METADATA).is_file():  # a bundle that comes with its own copy of this package
        return [*listed, package.parents[1]]
    installed = package / "shipped"  # as `setup.py` puts them into a wheel
    return [*listed, fetched_folder(), installed if installed.is_dir() else package.parents[1] / "bundles"]


def training_objective(root: str | Path, network: Any, variants: Sequence[str] = ()) -> Any:
    """What the bundle trains its network for, around this network: `objective(image)["loss"]`."""
    return open_bundle(root).part("objective", "train", variants, network=network, network_def=network)


def read_bundle(root: Path) -> Bundle:
    """The bundle in a folder, without its code; metadata that lack what this package needs are a ValueError that names
    the file."""
    metadata = _read_json(root / METADATA)
    try:
        data = metadata["network_data_format"]
        complete = isinstance(data["outputs"]["pred"]["format"], str)
        complete &= isinstance(data["inputs"]["image"]["spatial_shape"], list)
    except (KeyError, TypeError):
        complete = False
    if not complete:
        raise ValueError(
            f"{root / METADATA} must have a network_data_format with the spatial_shape of inputs.image and the format "
            f"of outputs.pred."
        )
    return Bundle(root, metadata)


def _read_json(path: Path) -> dict[str, Any]:
    with reading(path, "JSON"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, got a {type(content).__name__}.")
    return content


def _refers(found: Mapping[str, Any], changes: Mapping[str, Any], known: set[str], key: str) -> bool:
    """Whether what is known of the changes refers to one of their own entries."""
    if key in found or "#" in key:
        return False
    return any(re.search(rf"@{re.escape(key)}\b", json.dumps(changes[one])) for one in known)


class _Packages:
    """Finds modules in the folders of bundles: those opened, the one that the command line names, and, for a package
    that is called as its bundle, all that are found by name."""

    def __init__(self) -> None:
        self.opened: dict[str, Path] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if path is not None or "." in name:
            return None
        for root in self._roots(name):
            spec: ModuleSpec | None = PathFinder.find_spec(name, [str(root)])
            if spec is not None:
                return spec
        return None

    def _roots(self, name: str) -> Iterator[Path]:
        yield from reversed(self.opened.values())
        for argument in sys.argv[1:]:
            for found in re.findall(r"[^'\",\[\]=]+?(?=/configs/[^/]+\.json)", argument):
                if (Path(found.strip()) / METADATA).is_file():
                    yield Path(found.strip()).resolve()
        if METADATA.is_file():
            yield Path.cwd()
        yield from (root for root in bundle_roots() if root.name == name)


_PACKAGES = _Packages()
sys.meta_path.append(_PACKAGES)
