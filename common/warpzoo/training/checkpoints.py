"""What a run keeps of its network: the state to go on from, the best weights so far, and weights to start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import ignite.handlers
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader
from torch import nn

from warpzoo.checks import check_truth
from warpzoo.files import reading, whole_file
from warpzoo.networks import described, load_weights, save_weights
from warpzoo.training.run_folder import RECORD, check_unused, remove_run

ENDINGS = {
    "epochs": "done its {} epochs",
    "budget": "used up its budget, in epoch {}",
    "early stop": "stopped early, after epoch {}",
    "Ctrl-C": "been ended by Ctrl-C, in epoch {}",
}
"""How a run may have ended, as its record says it, and in words with the epoch."""


class Checkpoint:
    """Saves all that a run needs to go on (`objects` and the engine) every `interval` epochs and at its end, whole
    files only. The network alone, best so far, is the business of `BestWeights`.

    With `resume` it starts from there, or, if a run ended before its first checkpoint, at the beginning. Without, what
    is there from an earlier run is not overwritten but with `overwrite`, which removes it.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        interval: int = 1,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.interval = interval
        self.resume = check_truth("resume", resume)
        self.overwrite = check_truth("overwrite", overwrite)
        if self.resume and self.overwrite:
            raise ValueError(
                "resume and overwrite must not be given together: one goes on with what the other removes."
            )

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load if self.resume else self.begin)
        objects = {**self.objects, "trainer": engine}
        saver = ignite.handlers.Checkpoint(objects, self.save, filename_pattern=self.path.name, n_saved=None)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval) | Events.COMPLETED, saver)

    def begin(self, _: Engine) -> None:
        if idist.get_rank() > 0:
            return
        if self.overwrite:
            remove_run(self.path.parent)
        else:
            check_unused(self.path.parent)

    def save(self, state: Mapping[str, Any], *_: Any) -> None:
        """Writes the state; its weights say of their network what those that are best do, unless these are finished."""
        if idist.get_rank() == 0:
            best = self.objects.get("best")
            for name in ("network", "averaged"):
                if isinstance(best, BestWeights) and best.finish is None and name in state:
                    described(state[name], best.about)
            with whole_file(self.path) as unfinished:
                torch.save(state, unfinished)

    def ending(self, epochs: int | None = None) -> str:
        """How the run that is to be gone on with has ended, in words; empty if something is left to do of `epochs`."""
        if not self.resume or not self.path.is_file():
            return ""
        with reading(self.path, "the state of a training"):
            record = torch.load(self.path, map_location="cpu", weights_only=True).get("record", {})
        ended = record.get("ended", "")  # not there in runs of before
        done = record["epochs"][-1]["epoch"] if ended else 0
        if not ended or (ended == "epochs" and epochs is not None and epochs > done):
            return ""
        return ENDINGS[ended].format(done)

    def load(self, engine: Engine) -> None:
        if not self.path.is_file():
            if self.path.with_name(RECORD).is_file():
                if idist.get_rank() == 0:
                    print(f"note: {self.path} does not exist yet: the run starts at its beginning.")
                return
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


class BestWeights:
    """Writes the network's weights, a plain state dict, whenever the key metric is better than ever before.

    Part of the checkpoint, so that a resumed run does not take its first validation for the best one.

    Args:
        path: of the file.
        network: whose weights are validated and kept.
        about: what the file says about its network.
        finish: what is done to a copy of the network before it is written.
        lower_is_better: whether the key metric is an error.
    """

    def __init__(
        self,
        path: str | Path,
        network: nn.Module,
        about: Mapping[str, Any] | None = None,
        finish: Callable[[Any], None] | None = None,
        lower_is_better: bool = False,
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.about = dict(about or {})
        self.finish = finish
        self.sign = -1 if check_truth("lower_is_better", lower_is_better) else 1
        self.best = self.sign * float("-inf")
        self.epoch = 0
        self.validations_since = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch, "validations_since": self.validations_since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.validations_since = state["best"], state["validations_since"]
        self.epoch = state.get("epoch", 0)  # not there in runs of before

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.offer(float(engine.state.metrics["key_metric"]), engine.state.epoch)

    def offer(self, value: float, epoch: int) -> None:
        """A validation's key metric, and in which epoch it was measured."""
        self.validations_since += 1
        if self.sign * value > self.sign * self.best:
            self.best, self.epoch, self.validations_since = value, epoch, 0
            self.save()

    def save(self) -> None:
        if idist.get_rank() == 0:
            network = self.network
            if self.finish is not None:
                network = deepcopy(network)
                self.finish(network)
            save_weights(self.path, network, self.about)


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
