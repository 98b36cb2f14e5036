"""Tracking by MLflow, through MONAI's own handler: `--tracking mlflow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.handlers import MLFlowHandler

ARTIFACTS = ("model.pt", "run.json", "report.html", "pictures")
"""Of a run, what is logged beside its numbers."""


def track(config: ConfigParser, tracking: str) -> None:
    """Adds MONAI's tracking to a training's configuration, as its command does: by name, or by a file of settings."""
    if tracking in DEFAULT_EXP_MGMT_SETTINGS:
        if find_spec("mlflow") is None:
            raise ValueError("tracking by mlflow must have it installed: bash scripts/setup.sh registry.")
        settings = DEFAULT_EXP_MGMT_SETTINGS[tracking]
    elif Path(tracking).is_file():
        settings = ConfigParser.load_config_files(tracking)
    else:
        names = ", ".join(DEFAULT_EXP_MGMT_SETTINGS)
        raise ValueError(f"tracking must be {names}, or a file of settings as MONAI takes it, got {tracking!r}.")
    ConfigWorkflow.patch_bundle_tracking(parser=config, settings=settings)


def adapt_tracking(handlers: Sequence[Any], output: Path) -> list[MLFlowHandler]:
    """Makes MONAI's handlers of a trainer log all terms of the loss, and the files of the run when it ends; returns
    them."""
    found = [handler for handler in handlers if isinstance(handler, MLFlowHandler)]
    for handler in found:
        handler.output_transform = terms_of
        handler.artifacts = (*handler.artifacts, *(str(output / name) for name in ARTIFACTS))
    return found


def terms_of(output: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in output["pred"].items()}
