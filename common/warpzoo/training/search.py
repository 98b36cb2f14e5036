"""A search for good settings over a small space, by Optuna: `warpzoo train … --search SPACE.json`.

A space is a JSON object {setting: choices}: a list of values to choose from, or {"low": …, "high": …[, "log": true]}
for numbers between two. Every trial is a training of its own in a folder below the search's; what was tried stays in
search.log, from which an interrupted search goes on.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpzoo.errors import FAILURES, plain_reason
from warpzoo.files import FileError, reading, whole_file
from warpzoo.record import write_json

if TYPE_CHECKING:
    import optuna

JOURNAL = "search.log"


def read_space(path: str | Path) -> dict[str, Any]:
    """The space in a file, checked."""
    with reading(path, "a space of settings"), open(path, encoding="utf-8") as file:
        space = json.load(file)
    if not isinstance(space, dict) or not space:
        raise FileError(f'{path} must be an object of settings and choices, such as {{"learning_rate": [1e-4, 1e-3]}}.')
    for name, choices in space.items():
        listed = isinstance(choices, list) and len(choices) > 0
        between = isinstance(choices, dict) and {"low", "high"} <= choices.keys() <= {"low", "high", "log"}
        between = between and all(isinstance(choices[end], (int, float)) for end in ("low", "high"))
        if not listed and not between:
            raise FileError(
                f"{path}: {name} must be a list of values, or an object with low, high and optionally log, got "
                f"{json.dumps(choices)}."
            )
        if between and not choices["low"] <= choices["high"]:
            raise FileError(f"{path}: low must be at most high, got {choices['low']} and {choices['high']} for {name}.")
    return space


def search(
    folder: Path,
    space: Mapping[str, Any],
    trials: int,
    seed: int,
    train: Callable[[Path, Mapping[str, Any]], Any],
    whole: Collection[str] = (),
) -> dict[str, Any]:
    """The best of so many trials; writes search.csv, a table of all, and best.json, a variant of the best.

    Args:
        folder: of the search.
        space: of settings.
        trials: how many in all; those that an earlier call has done count.
        seed: of the sampler.
        train: called with a trial's folder and its settings; the folder then has the run.json of a training.
        whole: the settings that are whole numbers.
    """
    if find_spec("optuna") is None:
        raise ValueError("search must have Optuna installed: bash scripts/setup.sh search.")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name="search",
        sampler=optuna.samplers.TPESampler(seed=seed),
        direction="maximize",
        load_if_exists=True,
    )
    if (known := study.user_attrs.get("space")) not in (None, dict(space)):
        raise ValueError(f"{folder} has a search of another space, {json.dumps(known)}; choose another output.")
    study.set_user_attr("space", dict(space))
    for left in study.trials:
        if left.state == TrialState.RUNNING and left.params:  # interrupted: it is gone on with
            study.tell(left.number, state=TrialState.FAIL)
            study.enqueue_trial(left.params, {"folder": left.user_attrs["folder"]})
    for _ in range(len(_done(study)), trials):
        trial = study.ask()
        settings = {name: _suggested(trial, name, choices, name in whole) for name, choices in space.items()}
        where = trial.user_attrs.get("folder") or f"trial_{trial.number:03}"
        trial.set_user_attr("folder", where)
        try:
            train(folder / where, settings)
        except FAILURES as error:  # such as a rate at which the loss is no longer a number
            print(f"{where} failed: {plain_reason(error)}", file=sys.stderr)
            trial.set_user_attr("failure", plain_reason(error))
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, best_of(folder / where / "run.json"))
        _write_table(folder, study, space)
    if not any(one.state == TrialState.COMPLETE for one in study.trials):
        raise ValueError(f"{folder}: no trial has succeeded; {JOURNAL} and search.csv say why.")
    best = study.best_trial
    write_json(folder / "best.json", best.params)
    return {"value": best.value, "folder": best.user_attrs["folder"], **best.params}


def best_of(record: Path) -> float:
    """The best validation of a run; higher is better."""
    rows = json.loads(record.read_text(encoding="utf-8"))["epochs"]
    values = [row.get("key_metric", -row.get("validation_error", math.inf)) for row in rows]
    return max(values)


def _done(study: optuna.Study) -> list[Any]:
    """Trials that have ended, well or not; an interrupted one has not."""
    return [one for one in study.trials if one.state.name == "COMPLETE" or "failure" in one.user_attrs]


def _suggested(trial: optuna.Trial, name: str, choices: Any, whole: bool) -> Any:
    if isinstance(choices, list):
        return trial.suggest_categorical(name, choices)
    if whole:
        return trial.suggest_int(name, choices["low"], choices["high"], log=bool(choices.get("log", False)))
    return trial.suggest_float(name, choices["low"], choices["high"], log=bool(choices.get("log", False)))


def _write_table(folder: Path, study: optuna.Study, space: Mapping[str, Any]) -> None:
    """All trials, the best first."""
    rows = sorted(_done(study), key=lambda trial: -math.inf if trial.value is None else trial.value, reverse=True)
    with whole_file(folder / "search.csv") as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["value", *space, "folder", "failure"])
        for trial in rows:
            chosen = [trial.params[name] for name in space]
            writer.writerow([trial.value, *chosen, trial.user_attrs["folder"], trial.user_attrs.get("failure", "")])
