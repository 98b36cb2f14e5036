"""What is connected to what: a pair, a denoising, a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application

from warpzoo.deployment.application.bundle import Released
from warpzoo.deployment.application.operators import (
    DenoisingWriter,
    ImageLoader,
    PairLoader,
    PairRegistration,
    PairWriter,
    SequenceRegistration,
    SequenceWriter,
)


class BundleApplication(Application):
    """A released bundle from input to output folder, once; `kind` and `settings` of app.yaml say how."""

    def __init__(self, root: Path, context: AppContext, config: Path) -> None:
        super().__init__()
        self.config(str(config))
        self.root, self.context = root, context

    def compose(self) -> None:
        options: Mapping[str, Any] = self.kwargs("application")
        source, target = Path(self.context.input_path), Path(self.context.output_path)
        released = Released(self.root, options.get("settings") or {})
        if options["kind"] == "pair":
            series = options.get("series") or {}
            loader = PairLoader(self, released=released, folder=source, series=series)
            registration = PairRegistration(self, released=released)
            self.add_flow(_once(self, loader), registration)
            self.add_flow(registration, PairWriter(self, released=released, folder=target))
        elif options["kind"] == "sequence":
            loader = ImageLoader(self, folder=source)
            registration = SequenceRegistration(self, released=released)
            self.add_flow(_once(self, loader), registration)
            self.add_flow(registration, SequenceWriter(self, folder=target))
        else:
            loader = ImageLoader(self, folder=source, spatial_dims=options["spatial_dims"])
            self.add_flow(_once(self, loader), DenoisingWriter(self, released=released, folder=target))


def _once(application: Application, loader: Any) -> Any:
    loader.add_arg(CountCondition(application, 1))
    return loader
