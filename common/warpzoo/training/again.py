"""A run once more, from what its record says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpzoo import record
from warpzoo.bundles import METADATA, Bundle, find_bundle, open_bundle
from warpzoo.bundles.overrides import check_overrides
from warpzoo.errors import nearest
from warpzoo.files import FileError, reading
from warpzoo.training.records import EXPECTED
from warpzoo.training.run_folder import OF_THE_MACHINE, RECORD

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

NEEDED = ("config", "data", "versions", "machine")


def read_run(path: str | Path) -> dict[str, Any]:
    """The record of a run, as `RunRecord` writes it: the file, or the run's folder."""
    path = Path(path) / RECORD if Path(path).is_dir() else path
    with reading(path, "the record of a run"), open(path, encoding="utf-8") as file:
        found = json.load(file)
    if not isinstance(found, dict) or not all(isinstance(found.get(name), dict) and found[name] for name in NEEDED):
        raise FileError(f"{path} must be the run.json of a training, with {', '.join(NEEDED)}.")
    return found


def check_typed(found: Mapping[str, Any], typed: Mapping[str, Any], option: str) -> None:
    """That of a run which is gone on with or repeated by that option nothing is changed but what is of the machine, or,
    if it goes on, how many epochs it has."""
    allowed = [*OF_THE_MACHINE, *(["epochs"] if option == "resume" and "epochs" in found["config"] else [])]
    others = [name for name in typed if name not in allowed]
    if others:
        raise ValueError(
            f"{' and '.join(others)} must not be given with {option}{nearest(others[0], allowed)}: the run keeps its "
            f"own settings, but for {', '.join(allowed)}."
        )
    check_overrides(found["config"], typed)


def moved(found: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Of "data" and "labels", as they are typed for a run that has them, the setting and where they are now."""
    config, places = found["config"], dict[str, tuple[str, str]]()
    settings = {"data": "dataset_dir" if "dataset_dir" in config else "images"}
    if "labels" in (config.get("records") or {}):
        settings["labels"] = "records#labels"
    for what in settings.keys() & typed.keys():
        place = Path(typed[what]).absolute()
        if not place.exists():
            raise ValueError(f"{place} does not exist; {what} must be where those of the run are now.")
        places[what] = settings[what], str(place)
    return places


def recorded_config(
    found: Mapping[str, Any], path: str | Path, **changes: Any
) -> tuple[Bundle, ConfigParser, list[str]]:
    """The bundle and the configuration of a run, with changes to its settings; and sentences about what is no longer as
    it was then. Data that have changed are refused when it starts."""
    from monai.bundle import ConfigParser

    root = Path(str(found["config"].get("bundle_root", "")))
    bundle = open_bundle(root) if (root / METADATA).is_file() else find_bundle(root.name)
    config = ConfigParser({**found["config"], "bundle_root": str(bundle.root), EXPECTED: found["data"], **changes})
    config.read_meta(str(bundle.root / METADATA))
    differing = [f"{name} {was}, now {now}" for name, was, now in _changed(found["versions"], record.versions())]
    if (was := found.get("commit")) != (now := record.commit()):
        differing.append(f"commit {was}, now {now}")
    if (processes := found["machine"].get("processes", 1)) > 1:
        differing.append(f"{processes} processes, now one")
    return bundle, config, [f"note: {path} is of {one}" for one in differing]


def _changed(was: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [(name, value, now.get(name, "none")) for name, value in was.items() if now.get(name) != value]
