"""Tracking by MLflow, through MONAI's own handler: `--tracking mlflow`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.handlers import MLFlowHandler
from monai.utils import path_to_sqlite_uri

from warpzoo.training.run_folder import MAY_CHANGE, RECORD, flat

ARTIFACTS = ("model.pt", "run.json", "report.html", "pictures")
"""Of a run, what is logged beside its numbers."""
NO_PARAMETERS = {*MAY_CHANGE, "records", "train", "validate", "optimizer", "lr_scheduler"}
"""Parts of a configuration that are not logged as parameters: MLflow refuses one that changes."""


def track(config: ConfigParser, tracking: str) -> None:
    """Adds MONAI's tracking to a training's configuration, as its command does: by name, or by a file of settings.

    A run that goes on is tracked as the one that it was, and any other as a new one, even if an earlier one is said to
    be running yet: MONAI would go on with that.
    """
    settings: Any
    if tracking in DEFAULT_EXP_MGMT_SETTINGS:
        if find_spec("mlflow") is None:
            raise ValueError("tracking by mlflow must have it installed: bash scripts/setup.sh registry.")
        settings = DEFAULT_EXP_MGMT_SETTINGS[tracking]
    elif Path(tracking).is_file():
        settings = ConfigParser.load_config_files(tracking)
    else:
        names = ", ".join(DEFAULT_EXP_MGMT_SETTINGS)
        raise ValueError(f"tracking must be {names}, or a file of settings as MONAI takes it, got {tracking!r}.")
    config["run_name"] = settings["configs"].get("run_name") or run_name(config)
    config["save_execute_config"] = False  # it is in the record, which is logged
    ConfigWorkflow.patch_bundle_tracking(parser=config, settings=settings)


def run_name(config: ConfigParser) -> str:
    """What a run is called there: that of the run which it goes on with, or its folder and the time."""
    folder = Path(config.get_parsed_content("output_dir"))
    recorded = folder / RECORD
    if config.get("resume") and recorded.is_file():
        name = json.loads(recorded.read_text(encoding="utf-8"))["config"].get("run_name")
        if name:
            return str(name)
    return f"{folder.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"


def adapt_tracking(handlers: Sequence[Any], output: Path, config: ConfigParser | None) -> list[MLFlowHandler]:
    """Makes MONAI's handlers of a trainer log all terms of the loss, the settings, and the files of the run when it
    ends; returns them."""
    found = [handler for handler in handlers if isinstance(handler, MLFlowHandler)]
    for handler in found:
        handler.output_transform = terms_of
        handler.artifacts = (*handler.artifacts, *(str(output / name) for name in ARTIFACTS))
        if config is not None:
            handler.experiment_param = parameters(config)
    return found


def parameters(config: ConfigParser) -> dict[str, Any]:
    """The plain settings of a configuration by their names, such as learning_rate or similarity.window."""
    parts = {name: part for name, part in config.get().items() if name not in NO_PARAMETERS}
    return {
        name.replace("#", "."): value
        for name, value in flat(json.loads(json.dumps(parts, default=str))).items()
        if value is not None and not str(value).startswith(("$", "@", "%"))
    }


class ForgetTracked:
    """Removes what MLflow has of earlier runs in the folder of a run that overwrites them. Of a database that is in use
    by now, the runs are deleted."""

    def __init__(self, folder: Path, trackers: Sequence[MLFlowHandler]) -> None:
        self.folder = folder
        self.trackers = trackers

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, _: Engine) -> None:
        database = self.folder / "mlruns.db"
        here = [one.client for one in self.trackers if one.client.tracking_uri == path_to_sqlite_uri(database)]
        for client in here:
            for experiment in client.search_experiments():
                for run in client.search_runs([experiment.experiment_id]):
                    client.delete_run(run.info.run_id)
        if not here:
            database.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "mlruns", ignore_errors=True)
        kept = {Path(str(name)).name for one in self.trackers for name in one.artifacts}
        for path in self.folder.glob("config_????????_??????.json"):  # of MONAI's command
            if path.name not in kept:
                path.unlink()


def terms_of(output: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in output["pred"].items()}
