"""What a run keeps of its network: the state to go on from, the best weights so far, and weights to start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import ignite.handlers
import torch
from ignite.engine import Engine, Events
from ignite.handlers import DiskSaver
from monai.handlers import CheckpointLoader
from torch import nn

from warpzoo.checks import check_truth
from warpzoo.files import whole_file
from warpzoo.networks import load_weights


class Checkpoint:
    """Saves all that a run needs to go on (`objects` and the engine) every `interval` epochs and at its end, whole
    files only; with `resume` it starts from there. The network alone, best so far, is the business of `BestWeights`."""

    def __init__(self, path: str | Path, objects: Mapping[str, Any], interval: int = 1, resume: bool = False) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.interval = interval
        self.resume = check_truth("resume", resume)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load if self.resume else self.refuse_to_overwrite)
        objects = {**self.objects, "trainer": engine}
        disk = DiskSaver(str(self.path.parent), create_dir=True, require_empty=False)
        saver = ignite.handlers.Checkpoint(objects, disk, filename_pattern=self.path.name, n_saved=None)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval) | Events.COMPLETED, saver)

    def refuse_to_overwrite(self, _: Engine) -> None:
        if self.path.exists() and idist.get_rank() == 0:
            raise ValueError(
                f"{self.path} is there from an earlier run: go on with it (resume), or choose another output_dir."
            )

    def load(self, engine: Engine) -> None:
        if not self.path.is_file():
            raise ValueError(f"{self.path} does not exist: there is nothing to resume. Start without `resume`.")
        for network in self.objects.values():
            if isinstance(network, nn.Module):
                load_weights(self.path, network)
        loader = CheckpointLoader(str(self.path), {**self.objects, "trainer": engine}, map_location=engine.state.device)
        try:
            loader(engine)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{self.path} is of a run with an optimiser or a schedule of another kind, or without a part that this "
                f"one has ({error}). Resume it with its own, or start from its weights (initial_weights) with another "
                f"output_dir."
            ) from None
        planned = getattr(self.objects.get("lr_scheduler"), "T_max", None)
        if planned is not None and engine.state.max_epochs is not None and engine.state.max_epochs > planned:
            raise ValueError(
                f"{self.path} is of a run whose learning rate was planned for {planned} epochs and would rise again in "
                f"{engine.state.max_epochs}. To train longer, start from its weights (initial_weights)."
            )
        if engine.state.max_epochs is not None and engine.state.epoch >= engine.state.max_epochs:
            engine.logger.warning(
                f"{self.path} is of a run that has done its {engine.state.max_epochs} epochs: nothing is left to "
                f"resume. To train longer, start from its weights (initial_weights)."
            )


class BestWeights:
    """Writes the network's weights, a plain state dict, whenever the evaluator's key metric is higher than ever before.

    Part of the checkpoint, so that a resumed run does not take its first validation for the best one.
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path = Path(path)
        self.network = network
        self.best = float("-inf")
        self.validations_since = 0

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "validations_since": self.validations_since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.validations_since = state["best"], state["validations_since"]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        value = float(engine.state.metrics["key_metric"])
        self.validations_since += 1
        if value > self.best:
            self.best, self.validations_since = value, 0
            if idist.get_rank() == 0:
                with whole_file(self.path) as unfinished:
                    torch.save(self.network.state_dict(), unfinished)

    def print_best(self, _: Engine) -> None:
        """What a training ends with."""
        if idist.get_rank() == 0 and self.best > float("-inf"):
            print(f"{self.path}: best key metric {self.best:.4f}")


class LoadWeights:
    """Puts the weights of a file into the network when the engine first starts; the file and the network must fit."""

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path = Path(path)
        self.network = network
        self.loaded = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, _: Engine) -> None:
        if not self.loaded:
            load_weights(self.path, self.network)
            self.loaded = True
