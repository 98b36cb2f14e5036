"""Training on the noisy images at hand within a budget of seconds or steps: MONAI's trainer and its handlers."""

from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader  # MONAI's would start the random numbers again that the network began with
from tqdm import tqdm

from warpzoo import record
from warpzoo.checks import check_truth
from warpzoo.denoising.objective import BlindSpotObjective
from warpzoo.denoising.patches import Patches
from warpzoo.denoising.tiles import Tile, plan_tiles
from warpzoo.files import whole_file
from warpzoo.training.averaging import AverageWeights
from warpzoo.training.checkpoints import LoadWeights
from warpzoo.training.engines import objective_trainer

UNITS = {"s": 1, "sec": 1, "seconds": 1, "m": 60, "min": 60, "minutes": 60, "h": 3600, "hours": 3600}
BACKGROUND = 0.001
"""Quantile of the pixels taken for the camera's offset: the darkest ones, less a few that are broken."""
WINDOW = {2: 256, 3: 48}
"""Pixels a side of the windows that a trained network is measured on, in 2-D and 3-D."""
WINDOWS = 4
"""How many, at most."""
PROBE = 0.02
"""By how much, in standard deviations of the image, pixels are changed to see what follows."""


def denoising_trainer(
    device: torch.device,
    dataset: Patches,
    objective: BlindSpotObjective,
    optimizer: Optimizer,
    weights: str | Path,
    budget: str | float = "60s",
    clock: Callable[[], float] = time.perf_counter,
    batch_size: int = 4,
    initial_weights: str | Path | None = None,
    train_handlers: Sequence[Any] = (),
    summary: bool = False,
    **options: Any,
) -> SupervisedTrainer:
    """Trains `objective.network` on random patches until the budget is used up, and calibrates it.

    `weights` is the file to write, the mean of the last steps' weights; the record of the run is written beside it.
    `budget` and `clock` are those of `TrainingLimit`, `options` those of MONAI's SupervisedTrainer, such as `amp`; with
    `summary`, one line about the file is printed at the end.
    """
    network = objective.network
    settings = {
        "seed": dataset.seed,
        "budget": budget,
        "patch": dataset.size,
        "batch_size": batch_size,
        "learning_rate": optimizer.defaults["lr"],
        "fraction": objective.masking.fraction,
    }
    handlers: list[Any] = [] if initial_weights is None else [LoadWeights(initial_weights, network)]
    limit = TrainingLimit(budget, optimizer, clock=clock)
    handlers += [
        FitIntensities(network, dataset),
        AverageWeights(network, use=True),
        Calibrate(network, dataset),
        SaveWeights(weights, network, settings, dataset, limit, summary),
        limit,
        *train_handlers,
    ]
    return objective_trainer(
        objective,
        device,
        train_data_loader=DataLoader(dataset, batch_size=batch_size),
        optimizer=optimizer,
        train_handlers=handlers,
        **options,
    )


def parse_budget(budget: str | float) -> tuple[float, str]:
    """ "60s", "2 min", 60 → (seconds, "seconds"); "2000 steps" → (2000, "steps")."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+|[0-9]+\.)\s*([a-z]*)\s*", str(budget).lower())
    if match and float(match[1]) > 0:
        if match[2] in ("step", "steps"):
            return math.ceil(float(match[1])), "steps"
        if match[2] in UNITS or not match[2]:
            return float(match[1]) * UNITS.get(match[2], 1), "seconds"
    raise ValueError(f"budget must be a time such as 60s or 10min, or steps such as 2000steps, got {budget!r}.")


class TrainingLimit:
    """Ends the training when its time or number of steps is used up, with the learning rate falling to 0 till then.

    A warm-up over the first steps, then half a cosine. Ctrl-C ends the training early, as if that had been the budget;
    a second one breaks off everything. The bar shows the time left.

    Args:
        budget: such as "60s", "10min" or "2000steps".
        optimizer: whose learning rates follow; those it starts with are the highest.
        warm_up: steps.
        clock: seconds since any time; wall clock time, or `time.process_time` for the processor's.
        constant: keep the learning rate instead.
    """

    def __init__(
        self,
        budget: str | float,
        optimizer: Optimizer,
        warm_up: int = 50,
        clock: Callable[[], float] = time.perf_counter,
        constant: bool = False,
    ) -> None:
        self.total, self.unit = parse_budget(budget)
        self.optimizer = optimizer
        self.warm_up = warm_up
        self.clock = clock
        self.constant = check_truth("constant", constant)
        self.highest = [group["lr"] for group in optimizer.param_groups]
        self.interrupted = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.set_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.check)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.give_up)

    def start(self, _: Engine) -> None:
        self.began = self.clock()
        self.used = 0.0
        self.before: Any = None
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as under nohup
        if threading.current_thread() is threading.main_thread() and not ignored:
            self.before = signal.signal(signal.SIGINT, self.interrupt)
        self.bar = tqdm(
            total=round(self.total),
            desc="Training",
            disable=idist.get_rank() > 0 or None,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total} " + self.unit + "{postfix} [{remaining} left]",
        )

    def interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def set_rate(self, engine: Engine) -> None:
        done = min(1.0, self.used / self.total)
        rate = min(1.0, engine.state.iteration / self.warm_up) * (0.5 + 0.5 * math.cos(math.pi * done))
        rate = 1.0 if self.constant else rate
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = rate * highest

    def check(self, engine: Engine) -> None:
        used = self.total if self.interrupted else self.clock() - self.began
        if self.unit == "steps" and not self.interrupted:
            used = engine.state.iteration
        if idist.get_world_size() > 1:  # the first process tells when to end, lest the others wait for it for ever
            used = float(idist.broadcast(float(used)))
        self.used = used
        if engine.state.iteration % 10 == 0 or used >= self.total:
            self.bar.set_postfix(loss=f"{engine.state.output['loss'].item():.3f}", refresh=False)
            self.bar.update(min(used, self.total) - self.bar.n)
        if used >= self.total:
            engine.terminate()

    def close(self, _: Engine) -> None:
        self.bar.close()
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def give_up(self, engine: Engine, error: BaseException) -> None:
        self.close(engine)
        raise error


class FitIntensities:
    """Puts the images' mean, deviation and background into the network before its training."""

    def __init__(self, network: Any, patches: Patches) -> None:
        self.network = network
        self.patches = patches

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, _: Engine) -> None:
        values = self.patches.sample(256).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"{self.patches.data[0].path} has NaN or infinite values; replace them first.")
        if values.min() == values.max():
            raise ValueError(f"{self.patches.data[0].path} is constant; there is nothing to denoise.")
        self.network.mean.fill_(values.mean())
        self.network.deviation.fill_(values.std())
        self.network.background.fill_(float(np.quantile(values, BACKGROUND)))


class Calibrate:
    """Once the network is trained: measures the noise for its Wiener filter, if it has one, and keeps the mean.

    Noise has mean 0, so the result's mean is the noisy images' mean; a short training may miss it by a per cent or two.
    Both are measured on whole small images, or on a few windows of larger ones.
    """

    def __init__(self, network: Any, patches: Patches) -> None:
        self.network = network
        self.patches = patches

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    @torch.no_grad()
    def __call__(self, _: Engine) -> None:
        network = self.network.eval()
        windows = [(noisy, network.psf(network.phantom(noisy)), tile) for noisy, tile in self.windows()]
        if network.wiener is not None:
            network.wiener.fit(*(torch.cat([tile.core(w[i]).flatten() for *w, tile in windows]) for i in (0, 1)))
            network.wiener.choose_share(self.probed(*window) for window in windows)
            windows = [(noisy, network.wiener(noisy, pilot), tile) for noisy, pilot, tile in windows]
        errors = torch.cat([tile.core(noisy - result).flatten() for noisy, result, tile in windows])
        network.shift.fill_(float(errors.mean() * network.deviation))

    def probed(self, noisy: Tensor, pilot: Tensor, tile: Tile) -> tuple[Tensor, ...]:
        """What the Wiener filter chooses its share by."""
        network = self.network
        generator = torch.Generator().manual_seed(self.patches.seed)
        probe = (torch.randint(2, noisy.shape, generator=generator) * 2.0 - 1).to(noisy)
        moved = noisy + PROBE * probe
        moved_pilot = network.psf(network.phantom(moved))
        filtered, moved_filtered = network.wiener.filtered(noisy, pilot), network.wiener.filtered(moved, moved_pilot)
        follows = (
            probe * (after - before) / PROBE for before, after in ((filtered, moved_filtered), (pilot, moved_pilot))
        )
        return tuple(tile.core(values) for values in (noisy, pilot, filtered, *follows))

    def windows(self) -> Iterator[tuple[Tensor, Tile]]:
        """Normalised parts of the images."""
        tiles = [
            (stack, tile)
            for stack in self.patches.data
            for tile in plan_tiles(stack.shape, WINDOW[stack.dims], self.network.halo, self.network.alignment)
        ]
        for index in np.random.default_rng(self.patches.seed).permutation(len(tiles))[:WINDOWS]:
            stack, tile = tiles[index]
            noisy = torch.from_numpy(stack.read(tile.frame, tile.read))[None, None].to(self.network.mean.device)
            yield self.network.normalise(noisy), tile


class SaveWeights:
    """Writes the trained network's weights, a plain state dict, and beside them the record of the run as JSON."""

    def __init__(
        self,
        path: str | Path,
        network: nn.Module,
        settings: Mapping[str, Any],
        patches: Patches,
        budget: TrainingLimit,
        summary: bool = False,
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.budget = budget
        self.settings = dict(settings)
        self.patches = patches
        self.summary = check_truth("summary", summary)
        self.curve: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=100), self.add)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def start(self, _: Engine) -> None:
        self.clock = time.perf_counter(), time.process_time()

    def add(self, engine: Engine) -> None:
        terms = {name: round(value.item(), 6) for name, value in engine.state.output["pred"].items()}
        self.curve.append({"step": engine.state.iteration, **terms})

    def save(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        with whole_file(self.path) as unfinished:
            torch.save(self.network.state_dict(), unfinished)
        run = {
            "settings": self.settings,
            "command": record.command(),
            "images": [stack.path.name for stack in self.patches.data],
            "steps": engine.state.iteration,
            "interrupted": self.budget.interrupted,
            "seconds": round(time.perf_counter() - self.clock[0], 2),
            "cpu_seconds": round(time.process_time() - self.clock[1], 2),
            "machine": record.machine(),
            "versions": record.versions(),
            "curve": self.curve,
        }
        record.write_json(self.path.with_suffix(".training.json"), run)
        if self.summary:
            print(f"{self.path}: {run['steps']} steps in {run['seconds']:.0f} s")
