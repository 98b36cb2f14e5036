"""What is left to read of a run: its settings and curve, the numbers of an evaluation, a picture to look at."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events

from warpzoo import record


class RunRecord:
    """Keeps what a run was and how it went in one JSON: settings, command, versions, machine, data, time and curve.

    Written after every epoch, so that an interrupted run has its record too; part of the checkpoint, so that a resumed
    run has the whole curve. Attach it to the trainer; `evaluator` adds the metrics of an epoch's validation.
    """

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], data: Mapping[str, Any], evaluator: Engine
    ) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self.record: dict[str, Any] = {
            "settings": dict(settings),
            "command": record.command(),
            "data": {name: [image["id"] for image in images] for name, images in data.items()},
            "seconds": 0.0,
            "cpu_seconds": 0.0,
            "epochs": [],
        }
        self.sums: dict[str, float] = defaultdict(float)

    def state_dict(self) -> dict[str, Any]:
        return {key: self.record[key] for key in ("seconds", "cpu_seconds", "epochs")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.record |= state

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def start(self, _: Engine) -> None:
        self.record["machine"] = record.machine() | {"processes": idist.get_world_size()}
        self.record["versions"] = record.versions()
        self.clock = time.perf_counter(), time.process_time()

    def add(self, engine: Engine) -> None:
        for name, value in engine.state.output["pred"].items():
            self.sums[name] += float(value.detach()) / engine.state.epoch_length

    def write(self, engine: Engine) -> None:
        now = time.perf_counter(), time.process_time()
        self.record["seconds"] += now[0] - self.clock[0]
        self.record["cpu_seconds"] += now[1] - self.clock[1]
        self.clock = now
        row: dict[str, float] = {"epoch": engine.state.epoch, **self.sums}
        if self.evaluator.state.epoch == engine.state.epoch:
            row |= {name: float(value) for name, value in self.evaluator.state.metrics.items()}
        self.record["epochs"].append({name: round(value, 6) for name, value in row.items()})
        self.sums.clear()
        if idist.get_rank() == 0:
            record.write_json(self.path, self.record)


class MetricsFile:
    """Writes one JSON at the end of an evaluation: mean and standard deviation of every number, and the pairs' own."""

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

    def write(self, _: Engine) -> None:
        pairs = self.pairs
        if idist.get_world_size() > 1:
            pairs = [pair for part in idist.all_gather(pairs) for pair in part]
        if idist.get_rank() == 0:
            names = [name for name in pairs[0] if name != "id"]
            values = {name: np.array([pair[name] for pair in pairs]) for name in names}
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
