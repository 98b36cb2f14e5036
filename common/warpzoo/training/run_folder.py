"""The folder of a run: what a run that begins there or goes on there may find of an earlier one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warpzoo.files import shortened
from warpzoo.record import checksum

RECORD = "run.json"
"""What a run was, in its output folder: it is there as soon as the run has made its first step."""
OF_A_RUN = ("last.pt", "model.pt", RECORD, "metrics.json", "report.html", "pictures", "tensorboard")
"""All that a training writes into its output folder."""
OF_THE_MACHINE = ("device", "num_workers", "accumulate")
"""Settings of which the weights follow only up to rounding: a run may go on with others."""
MAY_CHANGE = {
    *OF_THE_MACHINE,
    *("epochs", "resume", "overwrite", "output_dir", "bundle_root", "data_of_run", "cache", "summary"),
    *("dataset_dir", "images", "source", "records#labels"),  # the images themselves are compared
    *("imports", "initialize", "run", "finalize"),  # of `multi_gpu_train.json`
    *("train_handlers", "val_handlers", "tracking_uri", "experiment_name", "run_name", "is_not_rank0"),
    "save_execute_config",
    "_meta_",
}
"""Parts of a configuration, with all below them, in which a run that goes on may differ from the one before."""
WEIGHTS = "initial_weights"
"""What a record's data call the file that a run started from."""
SAID = 3
"""How many of several differences a message names."""


def check_unused(folder: Path) -> None:
    """That there is nothing of an earlier run."""
    for name in OF_A_RUN:
        if (path := folder / name).exists():
            raise ValueError(
                f"{path} is there from an earlier run: go on with it (resume), remove it (overwrite), or choose "
                f"another output_dir."
            )


def remove_run(folder: Path) -> None:
    """Removes what an earlier run has left there; anything else stays."""
    for name in OF_A_RUN:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{setting: (its value then, its value now)} of two configurations; None where there was none."""
    before, after = (flat(json.loads(json.dumps(one, default=str))) for one in (was, now))
    return {
        name: (before.get(name), after.get(name))
        for name in before | after
        if before.get(name) != after.get(name) and " at 0x" not in f"{before.get(name)}{after.get(name)}"
    }


def check_same_settings(folder: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """That a run goes on with its own settings, but for those that may change."""
    other = [
        f"{name} must be {shortened(str(was), 40)}, got {shortened(str(now), 40)}"
        for name, (was, now) in changed.items()
        if not MAY_CHANGE.intersection([name, *name.split("#")])
    ]
    if other:
        more = f" and {len(other) - SAID} more" if len(other) > SAID else ""
        raise ValueError(
            f"to go on with the run in {folder}, {', '.join(other[:SAID])}{more}: leave out what is other than in that "
            f"run, or start another one from its weights (initial_weights)."
        )


def check_same_data(was: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> None:
    """That the images {part: {name: checksum}}, and the weights to start from, are those of the run that is gone
    on with or repeated; a record of before says nothing of weights."""
    weights = [[*one.get(WEIGHTS, {}).values()] for one in (was, now)]
    if all(weights) and weights[0] != weights[1]:
        raise ValueError(
            f"{[*was[WEIGHTS]][0]} must be as it was in the run that is gone on with or repeated: its weights are "
            f"others now."
        )
    was, now = ({part: one[part] for part in one if part != WEIGHTS} for one in (was, now))
    before, after = ({name for part in one.values() for name in part} for one in (was, now))
    both = [(was[part], now.get(part, {})) for part in was]
    found = {
        "is missing": before - after,
        "is new": after - before,
        "is another image now": {name for one, two in both for name in one.keys() & two if one[name] != two[name]},
        "has changed sides, between training and validation": {name for one, two in both for name in one.keys() ^ two},
    }
    for what, names in found.items():
        if names:
            more = f", as {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"{min(names)} must be as it was in the run that is gone on with or repeated: it {what}{more}."
            )


def weights_of(path: str | Path | None) -> dict[str, dict[str, str]]:
    """The weights that a run starts from as a part of a record's data; nothing without."""
    return {} if path is None else {WEIGHTS: {Path(path).name: checksum(path)}}


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """{id: value} of all that a configuration holds, with ids as MONAI has them; of a list of values, the list."""
    if isinstance(content, dict) and content:
        parts = content.items()
    elif isinstance(content, list) and any(isinstance(one, (dict, list)) for one in content):
        parts = {str(number): one for number, one in enumerate(content)}.items()
    else:
        return {prefix: content}
    return {
        name: value for key, one in parts for name, value in flat(one, f"{prefix}#{key}" if prefix else key).items()
    }
