"""Handlers of MONAI's engines that MONAI lacks: seeding, progress, a picture to look at, and the record of a run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import ignite.handlers
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import DiskSaver, ProgressBar
from monai.handlers import CheckpointLoader
from monai.utils import set_determinism
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from warpzoo import record
from warpzoo.checks import check_truth
from warpzoo.files import whole_file
from warpzoo.networks.blocks import fold_norms


class SeedEpochs:
    """Seeds every random generator at the start of each epoch from seed, epoch and rank alone: a run resumed from a
    checkpoint goes on with the same numbers as one that was never interrupted."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        set_determinism(seed=((self.seed * 100_003 + engine.state.epoch) * 64 + idist.get_rank()) % 2**32)


class Progress:
    """One bar over all epochs, with the loss and the time left; only the first process shows it."""

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        bar = ProgressBar(
            desc="Training",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs{postfix} [{elapsed}<{remaining}]",
        )
        bar.attach(
            engine,
            event_name=Events.EPOCH_COMPLETED,
            closing_event_name=Events.COMPLETED,
            output_transform=lambda output: {"loss": float(output["loss"].detach())},
        )


class TensorBoard:
    """The loss of each step for TensorBoard. Unlike MONAI's handler it writes nothing before a step went well."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def __call__(self, engine: Engine) -> None:
        if self.writer is None:
            self.writer = SummaryWriter(str(self.folder))
        self.writer.add_scalar("loss", engine.state.output["loss"].item(), engine.state.iteration)

    def close(self, _: Engine) -> None:
        if self.writer is not None:
            self.writer.close()


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


class LoadWeights:
    """Puts the weights of a file into the network when the engine first starts; the file and the network must fit.

    With `fold` the network is from then on one that only predicts, see `fold_norms`.
    """

    def __init__(self, path: str | Path, network: nn.Module, fold: bool = False) -> None:
        self.path = Path(path)
        self.network = network
        self.fold = fold
        self.loaded = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, _: Engine) -> None:
        if not self.loaded:
            load_weights(self.path, self.network)
            self.loaded = True
            if self.fold:
                fold_norms(self.network)


def load_weights(path: str | Path, network: nn.Module) -> None:
    """Loads a plain state dict; a missing file, another network's or a damaged one is a ValueError that says which."""
    if not Path(path).is_file():
        state = "is a folder" if Path(path).is_dir() else "does not exist"
        raise ValueError(f"{path} {state}: the network has no weights. Train some, or name the file with `weights`.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__}); it may be damaged.") from error
    state = state.get("network", state) if isinstance(state, dict) else {}
    own = network.state_dict()
    differing = sorted(
        name
        for name in own.keys() | state.keys()
        if getattr(own.get(name), "shape", 0) != getattr(state.get(name), "shape", 1)
    )
    if differing:
        telling = min(differing, key=lambda name: (name not in state, "made_with" not in name))
        raise ValueError(
            f"{path} holds the weights of another network: {len(differing)} parameters are missing, extra or of "
            f"another shape, such as {telling}. Use the configuration (variant) it was trained with."
        )
    network.load_state_dict(state)


class AverageWeights:
    """Keeps the running mean of a network's weights, which is better than any of them, as the network `averaged`.

    It looks back over about 1 / (1 − decay) steps, over fewer in the beginning. With `use` the network has it in the
    end; for validations on the way, and to go on from a checkpoint, give them `averaged`.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99, use: bool = False) -> None:
        self.network = network
        self.decay = decay
        self.use = use
        self.averaged = deepcopy(network).eval().requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self.averaged.load_state_dict(self.network.state_dict()))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        if self.use:
            engine.add_event_handler(Events.COMPLETED, self.hand_over)

    @torch.no_grad()
    def add(self, engine: Engine) -> None:
        step = engine.state.iteration
        means, values = [], []
        for mean, value in zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                means.append(mean)
                values.append(value)
            else:
                mean.copy_(value)
        torch._foreach_lerp_(means, values, 1 - min(self.decay, step / (10 + step)))

    @torch.no_grad()
    def hand_over(self, _: Engine) -> None:
        for parameter, mean in zip(self.network.parameters(), self.averaged.parameters(), strict=True):
            parameter.copy_(mean)


class EarlyStop:
    """Ends the training when the key metric has not risen for `patience` validations."""

    def __init__(self, best: BestWeights, patience: int) -> None:
        self.best = best
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if self.best.validations_since >= self.patience:
            engine.terminate()


class RunRecord:
    """Keeps what a run was and how it went in one JSON: settings, command, versions, machine, data, time and curve.

    Written after every epoch, so that an interrupted run has its record too; part of the checkpoint, so that a resumed
    run has the whole curve. Attach it to the trainer; `evaluator` adds the metrics of an epoch's validation.
    """

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], data: Mapping[str, Any], evaluator: Engine | None = None
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
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
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
    """Saves a picture of the evaluation's last pair every `every` epochs: what a person looks at to trust a run."""

    def __init__(self, folder: str | Path, every: int = 1) -> None:
        self.folder = Path(folder)
        self.every = every

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch % self.every or idist.get_rank() > 0:
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
