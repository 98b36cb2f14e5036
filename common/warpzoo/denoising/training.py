"""Training on the noisy images at hand within a budget of seconds or steps: MONAI's trainer and its handlers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, default_collate

from warpzoo import record
from warpzoo.bundles.portable import configuration, network_settings
from warpzoo.checks import check_count, check_truth
from warpzoo.denoising.objective import BlindSpotObjective
from warpzoo.denoising.patches import Patches, PatchesInOrder
from warpzoo.denoising.tiles import Tile, plan_tiles
from warpzoo.images.stacks import Stack
from warpzoo.training.averaging import AverageWeights
from warpzoo.training.checkpoints import BestWeights, Checkpoint, LoadWeights
from warpzoo.training.ending import RunPage
from warpzoo.training.engines import UNLIMITED, Trainer, objective_trainer
from warpzoo.training.limit import TrainingLimit
from warpzoo.training.processes import check_workers, share_of
from warpzoo.training.progress import EarlyStop, SeedEpochs, TensorBoard
from warpzoo.training.records import RunRecord
from warpzoo.training.run_folder import RECORD, weights_of
from warpzoo.training.tracking import ForgetTracked, adapt_tracking

BACKGROUND = 0.001
"""Quantile of the pixels taken for the camera's offset: the darkest ones, less a few that are broken."""
WINDOW = {2: 256, 3: 48}
"""Pixels a side of the windows that a trained network is measured on, in 2-D and 3-D."""
WINDOWS = 4
"""How many, at most."""
PROBE = 0.02
"""By how much, in standard deviations of the image, pixels are changed to see what follows."""
VALIDATED = 16
"""Patches that a validation looks at."""


def denoising_trainer(
    device: torch.device | str,
    dataset: Patches,
    objective: BlindSpotObjective,
    optimizer: Optimizer,
    weights: str | Path,
    budget: str | float = "60s",
    clock: Callable[[], float] = time.perf_counter,
    batch_size: int = 4,
    steps_per_epoch: int = 100,
    validation: Patches | None = None,
    val_interval: int = 0,
    patience: int | None = None,
    output_dir: str | Path = ".",
    initial_weights: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    num_workers: int = 0,
    train_handlers: Sequence[Any] = (),
    summary: bool = False,
    max_epochs: int = UNLIMITED,
    **options: Any,
) -> Trainer:
    """Trains `objective.network` on random patches until the budget is used up, and calibrates it.

    `weights` is the file to write: of the mean of the last steps' weights, the one that was best in validation. The
    output folder gets last.pt (what `resume` goes on from), run.json, report.html and events for TensorBoard. Without
    validations (`val_interval` 0) the last mean is written and the record of the run beside it, and nothing else.

    Args:
        budget, clock: those of `TrainingLimit`; an epoch is `steps_per_epoch` batches.
        validation: patches that the blind-spot error is measured on; default: others of the same images.
        val_interval: epochs from one validation and checkpoint to the next; the last step is validated, too.
        patience: validations without a lower error after which training ends; default: it goes on.
        initial_weights: file of weights to start from.
        resume: go on from last.pt.
        overwrite: remove what an earlier run has left in the output folder.
        num_workers: processes that read patches; 0 for this one.
        summary: print one line about the file at the end.
        options: `precision` and `accumulate` of `Step`, and those of MONAI's SupervisedTrainer.
    """
    check_count("batch_size", batch_size)
    check_count("steps_per_epoch", steps_per_epoch)
    check_count("val_interval", val_interval, 0)
    check_workers(num_workers)
    if patience is not None:
        check_count("patience", patience)
    summary = check_truth("summary", summary)
    network, output, weights = objective.network, Path(output_dir), Path(weights)
    if resume and (output / "last.pt").is_file():
        initial_weights = None  # what it has become since is there
    config = configuration()
    limit = TrainingLimit(budget, optimizer, clock=clock)
    average = AverageWeights(network)
    best = BestWeights(
        weights,
        average.averaged,
        network_settings(config),
        finish=lambda kept: Calibrate(kept, dataset)(None),
        lower_is_better=True,
    )
    pictures = output / "pictures"
    validate = BlindSpotValidation(objective, average.averaged, validation or dataset, best, val_interval, pictures)
    settings = {
        "seed": dataset.seed,
        "budget": budget,
        "patch": dataset.size,
        "batch_size": batch_size,
        "learning_rate": optimizer.defaults["lr"],
        "fraction": objective.masking.fraction,
    }
    data = {"train": dataset, **({} if validation is None else {"validation": validation})}
    kept = RunRecord(
        output / RECORD if val_interval else weights.with_suffix(".training.json"),
        settings,
        {
            name: {label: record.checksum(one.path) if val_interval else "" for label, one in short_names(part.data)}
            for name, part in data.items()
        }
        | weights_of(initial_weights),
        validate.numbers,
        None if config is None else config.get(),
        limit,
    )
    validate.trackers = adapt_tracking(train_handlers, output, config)
    handlers: list[Any] = [SeedEpochs(dataset.seed)]
    if initial_weights is not None:
        handlers.append(LoadWeights(initial_weights, network))
    handlers += [FitIntensities(network, dataset), average, validate, kept]
    if val_interval:
        objects = {"network": network, "optimizer": optimizer, "averaged": average.averaged, "limit": limit}
        objects |= {"record": kept, "best": best}
        checkpoint = Checkpoint(output / "last.pt", objects, val_interval, resume, overwrite)
        handlers += [
            TensorBoard(output / "tensorboard", validate.numbers, pictures),
            RunPage(output, kept, best, "validation error", summary),
            checkpoint,
            *([] if patience is None else [EarlyStop(best, patience)]),
            *([ForgetTracked(output, validate.trackers)] if checkpoint.overwrite else []),
        ]
    trainer = objective_trainer(
        objective,
        device,
        max_epochs=max_epochs,
        train_data_loader=DataLoader(
            dataset,
            batch_size=share_of(batch_size),
            sampler=PatchesInOrder(dataset, batch_size * steps_per_epoch),
            num_workers=num_workers,
            generator=torch.Generator().manual_seed(dataset.seed),
        ),
        optimizer=optimizer,
        train_handlers=[*handlers, limit, *train_handlers],
        **options,
    )
    if val_interval:
        trainer.checkpoint, trainer.record = checkpoint, kept
    return trainer


class BlindSpotValidation:
    """Measures the blind-spot error of a network on the same patches with the same pixels hidden, every `interval`
    epochs and when the training ends, offers it to `best`, and draws a part of one image into the folder `pictures`;
    with an interval of 0 it only writes the last weights.
    """

    def __init__(
        self,
        objective: BlindSpotObjective,
        network: nn.Module,
        patches: Patches,
        best: BestWeights,
        interval: int,
        pictures: Path,
    ) -> None:
        self.objective = copy(objective)
        self.objective._modules = {**objective._modules, "network": network}
        self.patches = patches
        self.best = best
        self.interval = interval
        self.pictures = pictures
        self.found: tuple[int, Mapping[str, float]] = (0, {})
        self.trackers: list[Any] = []

    def attach(self, engine: Engine) -> None:
        if self.interval:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self)

    def numbers(self) -> tuple[int, Mapping[str, float]]:
        """The step after which the last validation was, and what it found."""
        return self.found

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        step = engine.state.iteration
        if engine.state.output is None or step == self.found[0]:
            return
        if not self.interval:
            self.best.save()
            return
        errors = []
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(self.patches.seed)
            for index in range(VALIDATED):
                patch = default_collate([self.patches.fixed(index)])["image"]
                errors.append(self.objective(patch.to(engine.state.device))["error"])
        error = float(torch.stack(errors).mean())
        self.found = step, {"validation_error": error}
        for tracker in self.trackers:
            tracker._log_metrics(self.found[1], engine.state.epoch)
        self.best.offer(error, engine.state.epoch)
        if idist.get_rank() == 0:
            self.draw(self.pictures / f"epoch_{engine.state.epoch:04d}.png")

    def draw(self, path: Path) -> None:
        """A part of one image, noisy and denoised; of a volume its slice in the middle."""
        from warpzoo.report.figure import save_denoising_figure

        network = self.objective.network
        noisy, tile = next(Calibrate(network, self.patches).windows())
        images = (tile.core(one)[0, 0] for one in (noisy, network.psf(network.phantom(noisy))))
        save_denoising_figure(path, *(one if one.dim() == 2 else one[len(one) // 2] for one in images))


def short_names(stacks: Sequence[Stack]) -> list[tuple[str, Stack]]:
    """Each with the name of its file, or where two have the same one, with its path below the folder of all."""
    names = [one.path.name for one in stacks]
    if len(set(names)) < len(names):
        folder = os.path.commonpath([one.path.parent for one in stacks])
        names = [one.path.relative_to(folder).as_posix() for one in stacks]
    return [*zip(names, stacks, strict=True)]


class FitIntensities:
    """Puts the images' mean, deviation and background, and what is a hot pixel in them, into the network before its
    training."""

    def __init__(self, network: Any, patches: Patches) -> None:
        self.network = network
        self.patches = patches

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, _: Engine) -> None:
        values = self.patches.sample(256)
        if not np.isfinite(values).all():
            raise ValueError(f"{self.patches.data[0].path} has NaN or infinite values; replace them first.")
        if values.min() == values.max():
            raise ValueError(f"{self.patches.data[0].path} is constant; there is nothing to denoise.")
        sample = torch.from_numpy(values)[:, None].to(self.network.mean.device)
        self.network.hot.fit(sample)
        values = self.network.hot(sample).double().cpu().numpy()
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
            yield self.network.normalise(self.network.hot(noisy)), tile
