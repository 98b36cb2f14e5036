"""What is left to read of a run: its settings and curve, the numbers of an evaluation, a picture to look at."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events

from warpzoo import record
from warpzoo.files import reading
from warpzoo.training.limit import TrainingLimit
from warpzoo.training.processes import of_all_processes
from warpzoo.training.run_folder import changes, check_same_data, check_same_settings

EXPECTED = "data_of_run"
"""The setting that says what `data` must be."""
OF_THE_BEGINNING = ("command", "machine", "versions", "commit")
"""What a record keeps when the run is gone on with; `resumed` says what was different from then on."""
SILENT = ("resume", "overwrite")
"""Settings whose change says nothing more."""


class RunRecord:
    """Keeps what a run was and how it went in one JSON: configuration, command, commit, versions, machine, data with
    checksums, time and curve.

    Written after the first step and every epoch, so that an interrupted run has its record too; part of the checkpoint,
    so that a resumed run has the whole curve, and `resumed` in it: by which commands, after which steps, and what was
    different. When its settings have ended the run, `ended` says which. Attach it to the trainer.

    Args:
        path: of the file.
        settings: by name, the ones that a person looks for first.
        data: {"train": {id: checksum}, …}.
        validated: the numbers of the last validation, and the step after which it was.
        config: the whole configuration, as it was resolved.
        limit: of the run, if it has a budget.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        data: Mapping[str, Any],
        validated: Callable[[], tuple[int, Mapping[str, float]]],
        config: Mapping[str, Any] | None = None,
        limit: TrainingLimit | None = None,
    ) -> None:
        self.path = Path(path)
        self.validated = validated
        self.limit = limit
        self.record: dict[str, Any] = {
            "settings": dict(settings),
            "command": record.command(),
            "config": dict(config or {}),
            "data": dict(data),
            "steps": 0,
            "seconds": 0.0,
            "cpu_seconds": 0.0,
            "epochs": [],
        }
        if expected := self.record["config"].pop(EXPECTED, None):
            check_same_data(expected, self.record["data"])
        self.sums: dict[str, float] = defaultdict(float)
        self.added = 0
        self.begun = False

    def go_on(self) -> None:
        """Takes over what the record in the folder says of the run's beginning; refuses other settings and images."""
        if not self.path.is_file():
            return
        with reading(self.path, "the record of a run"):
            was = json.loads(self.path.read_text(encoding="utf-8"))
        name = "config" if was.get("config") and self.record["config"] else "settings"
        changed = changes(was.get(name, {}), self.record[name])
        check_same_settings(self.path.parent, changed)
        check_same_data(was.get("data", {}), self.record["data"])
        now = {
            "command": self.record["command"],
            "after_step": 0,
            "changed": {key: changed[key] for key in changed if key not in SILENT},
        }
        self.record |= {key: was[key] for key in OF_THE_BEGINNING if key in was}
        self.record["data"] = {**was.get("data", {}), **self.record["data"]}
        self.record["resumed"] = [*was.get("resumed", []), now]

    def state_dict(self) -> dict[str, Any]:
        return {key: self.record[key] for key in ("seconds", "cpu_seconds", "epochs", "ended") if key in self.record}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.record |= {key: value for key, value in state.items() if key != "ended"}
        if state["epochs"]:
            self.record["steps"] = int(state["epochs"][-1].get("step", 0))  # not there in runs of before
        for now in self.record.get("resumed", ())[-1:]:
            now["after_step"] = self.record["steps"]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self.add_row)
        engine.add_event_handler(Events.COMPLETED, self.end)

    def start(self, _: Engine) -> None:
        now = {
            "machine": record.machine() | {"processes": idist.get_world_size()},
            "versions": record.versions(),
            "commit": record.commit(),
        }
        if "resumed" in self.record:
            self.record["resumed"][-1] |= {key: now[key] for key in now if now[key] != self.record.get(key)}
        else:
            self.record |= now
        self.clock = time.perf_counter(), time.process_time()

    def add(self, engine: Engine) -> None:
        for name, value in engine.state.output["pred"].items():
            number = float(value.detach())
            if not math.isfinite(number):
                raise ValueError(
                    f"{name} must be a finite number, got {number} in step {engine.state.iteration}: lower the rate "
                    f"(learning_rate), and look at the images for values that stand out."
                )
            self.sums[name] += number
        self.rate = engine.optimizer.param_groups[0]["lr"]
        self.added += 1
        if not self.begun:
            self.begun = True
            self.write(engine)

    def add_row(self, engine: Engine) -> None:
        """The means of the steps since the last row, and what a validation after them has found; at the end of a run
        that ends with an epoch, that alone, which the last row gets."""
        row: dict[str, float] = {"epoch": engine.state.epoch, "step": engine.state.iteration}
        if self.added:
            row["rate"] = self.rate
            row |= {name: total / self.added for name, total in self.sums.items()}
            self.record["epochs"].append({})
        elif not self.record["epochs"] or self.record["epochs"][-1].get("step") != engine.state.iteration:
            return
        step, metrics = self.validated()
        if step == engine.state.iteration:
            row |= {name: float(value) for name, value in metrics.items()}
        rounded = {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in row.items()}
        self.record["epochs"][-1] |= rounded
        self.sums.clear()
        self.added = 0
        self.write(engine)

    def end(self, engine: Engine) -> None:
        """Notes what has ended the run, if it was not something else than its settings."""
        state, ended = engine.state, getattr(engine.state, "ended", None)
        if self.limit is not None and self.limit.is_used_up:
            ended = "Ctrl-C" if self.limit.interrupted else "budget"
        elif state.max_epochs is not None and state.iteration >= state.max_epochs * state.epoch_length:
            ended = "epochs"
        if ended is not None:
            self.record["ended"] = ended
        self.write(engine)

    def write(self, engine: Engine) -> None:
        now = time.perf_counter(), time.process_time()
        self.record["seconds"] += now[0] - self.clock[0]
        self.record["cpu_seconds"] += now[1] - self.clock[1]
        self.record["steps"] = engine.state.iteration
        self.record["interrupted"] = self.limit is not None and self.limit.interrupted
        self.clock = now
        if idist.get_rank() == 0:
            record.write_json(self.path, self.record)


class MetricsFile:
    """Writes one JSON at the end of an evaluation: mean and standard deviation of every number, over the pairs that
    have it, and the pairs' own."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.pairs: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self.pairs.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def add(self, engine: Engine) -> None:
        for pair, batch in zip(engine.state.output, engine.state.batch, strict=True):
            self.pairs.append({"id": batch["id"], **pair["metrics"]})

    def write(self, engine: Engine) -> None:
        pairs = of_all_processes(self.pairs, engine)
        if idist.get_rank() == 0:
            names = {name: None for pair in pairs for name in pair if name != "id"}
            values = {name: np.array([pair[name] for pair in pairs if name in pair]) for name in names}
            summary = {name: {"mean": float(np.nanmean(v)), "std": float(np.nanstd(v))} for name, v in values.items()}
            record.write_json(self.path, {"pairs": len(pairs), "summary": summary, "each": pairs})


class Picture:
    """Saves a picture of the evaluation's last pair: what a person looks at to trust a run."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        from warpzoo.report.figure import save_registration_figure

        pair = engine.state.output[-1]
        self.folder.mkdir(parents=True, exist_ok=True)
        save_registration_figure(
            self.folder / f"epoch_{engine.state.epoch:04d}.png",
            moving=pair["image"][0],
            fixed=pair["image"][1],
            warped=pair["pred"][0],
            displacement=pair["pred"][1:],
        )
