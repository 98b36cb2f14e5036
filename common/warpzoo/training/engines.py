"""MONAI's engines with all that every training needs around a network, an objective and images.

`train.json` names what a method chooses; the loaders, samplers, processes and handlers stand here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, DistributedSampler
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warpzoo.bundles.portable import configuration, network_settings
from warpzoo.checks import check_count
from warpzoo.errors import nearest
from warpzoo.files import alone_in
from warpzoo.training.averaging import AverageWeights
from warpzoo.training.checkpoints import BestWeights, Checkpoint, LoadWeights
from warpzoo.training.ending import RunPage
from warpzoo.training.evaluation import PairMetric, PairMetricsd
from warpzoo.training.inspection import Seen
from warpzoo.training.limit import TrainingLimit
from warpzoo.training.looking import checksums, look_through, ranges_of
from warpzoo.training.made_pairs import MadePairs
from warpzoo.training.objectives import total_loss
from warpzoo.training.pairs import PairDataset, RandomPairs
from warpzoo.training.processes import are_several, check_workers, share_of
from warpzoo.training.progress import EarlyStop, Progress, SeedEpochs, TensorBoard
from warpzoo.training.records import MetricsFile, Picture, RunRecord
from warpzoo.training.run_folder import RECORD, weights_of
from warpzoo.training.stepping import Step
from warpzoo.training.tracking import ForgetTracked, adapt_tracking
from warpzoo.training.validation import Validation

UNLIMITED = 10**9
"""Epochs of a run that ends by its budget."""


class Trainer(SupervisedTrainer):
    """MONAI's, and of a run that has a folder: nobody else trains there meanwhile, and a run that has ended stays as it
    is."""

    checkpoint: Checkpoint | None = None
    record: RunRecord | None = None

    def run(self) -> None:
        if self.checkpoint is None or self.record is None:
            super().run()
            return
        with alone_in(self.checkpoint.path.parent) if idist.get_rank() == 0 else nullcontext():
            if self.checkpoint.resume:
                self.record.go_on()
            if not (ending := self.checkpoint.ending(self.state.max_epochs)):
                super().run()
            elif idist.get_rank() == 0:
                print(
                    f"{self.checkpoint.path} is of a run that has {ending}: nothing is left to resume. To train "
                    f"longer, start from its weights (initial_weights)."
                )


def objective_trainer(
    objective: nn.Module,
    device: torch.device | str,
    precision: str = "float32",
    accumulate: int = 1,
    **options: Any,
) -> Trainer:
    """MONAI's SupervisedTrainer of an objective, whose forward gives the loss; the same network in all processes.

    `precision` and `accumulate` are those of `Step`, `options` those of SupervisedTrainer, such as `train_handlers`.
    """
    device = torch.device(device)
    check_count("accumulate", accumulate)
    options = {name: value for name, value in options.items() if value is not None}  # MONAI's own
    if precision != "float32" or accumulate > 1:
        options["iteration_update"] = Step(precision, accumulate)
    known = signature(SupervisedTrainer).parameters
    for name in options.keys() - known.keys():
        raise ValueError(f"{name} is no option of a trainer{nearest(name, known)}.")
    objective = objective.to(device)
    if are_several():
        objective = DistributedDataParallel(objective, [device] if device.type == "cuda" else None)
    return Trainer(device=device, network=objective, loss_function=total_loss, decollate=False, **options)


def registration_trainer(
    max_epochs: int,
    steps_per_epoch: int,
    batch_size: int,
    device: torch.device | str,
    dataset: PairDataset | MadePairs,
    objective: Any,
    optimizer: Optimizer,
    evaluator: SupervisedEvaluator,
    output_dir: str | Path,
    lr_scheduler: LRScheduler | None = None,
    average: AverageWeights | None = None,
    val_interval: int = 1,
    patience: int | None = None,
    budget: str | float | None = None,
    initial_weights: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    num_workers: int = 0,
    precision: str = "float32",
    accumulate: int = 1,
    train_handlers: Sequence[Any] = (),
    **options: Any,
) -> Trainer:
    """Trains `objective.network` on random pairs of a dataset; seeded anew for every epoch, validated on the way.

    The output folder gets model.pt (the weights that `evaluator` found best, and what they say of their network),
    last.pt (what `resume` goes on from), run.json (configuration, data, curve), report.html (the curves to look at) and
    events for TensorBoard. The images are looked through first: what cannot be trained on ends the run there.

    Args:
        max_epochs: how many epochs, of `steps_per_epoch` batches of `batch_size` pairs each; the pairs of a batch are
            shared out among the processes, if there are several.
        objective: a module of `warpzoo.training.objectives`.
        evaluator: of the network whose weights are kept, as `registration_evaluator` makes it.
        lr_scheduler: a step for each epoch.
        average: of the network's weights, part of last.pt; to validate and keep it, give it to the evaluator.
        val_interval: epochs from one validation and checkpoint to the next; the last step is validated, too.
        patience: validations without a better key metric after which training ends; default: it goes on.
        budget: how long to train instead of `max_epochs`, such as "2h" or "5000steps"; the learning rate then falls
            from where it starts to 0 over that time, whatever `lr_scheduler` is.
        initial_weights: file of weights to start from.
        resume: go on from last.pt.
        overwrite: remove what an earlier run has left in the output folder.
        num_workers: processes that read images; 0 for this one.
        precision, accumulate: see `warpzoo.training.stepping.Step`.
        options: of MONAI's SupervisedTrainer, such as `inferer`.
    """
    for name, count in {
        "max_epochs": max_epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "val_interval": val_interval,
        **({} if patience is None else {"patience": patience}),
    }.items():
        check_count(name, count)
    check_workers(num_workers)
    if not 1 <= accumulate <= share_of(batch_size):
        raise ValueError(
            f"accumulate must be from 1 to {share_of(batch_size)}, the pairs of a batch, got {accumulate}."
        )
    output = Path(output_dir)
    if resume and (output / "last.pt").is_file():
        initial_weights = None  # what it has become since is there
    validation: Any = evaluator.data_loader
    config = configuration()
    seen = look_through(dataset, validation.dataset, batch_size)
    about = about_weights(config, dataset, seen)
    best = BestWeights(output / "model.pt", evaluator.network, about)
    best.attach(evaluator)
    validate = Validation(evaluator, min(val_interval, max_epochs))
    limit = None if budget is None else TrainingLimit(budget, optimizer, warm_up=1)
    settings = {
        "seed": seed,
        **({"epochs": max_epochs} if budget is None else {"budget": budget}),
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "learning_rate": optimizer.defaults["lr"],
    }
    record = RunRecord(
        output / RECORD,
        settings,
        {
            "train": checksums(dataset.data, seen),
            "validation": checksums(validation.dataset.data, seen),
            **weights_of(initial_weights),
        },
        validate.numbers,
        None if config is None else config.get(),
        limit,
    )
    trackers = adapt_tracking(train_handlers, output, config)
    objects: dict[str, Any] = {"network": objective.network, "optimizer": optimizer, "record": record, "best": best}
    handlers: list[Any] = [SeedEpochs(seed)]
    if initial_weights is not None:
        handlers.append(LoadWeights(initial_weights, objective.network))
    if limit is not None:
        objects["limit"] = limit
    elif lr_scheduler is not None:
        handlers.append(LrScheduleHandler(lr_scheduler, print_lr=False))  # type: ignore[arg-type]
        objects["lr_scheduler"] = lr_scheduler
    if average is not None:
        handlers.append(average)
        objects["averaged"] = average.averaged
    checkpoint = Checkpoint(output / "last.pt", objects, val_interval, resume, overwrite)
    handlers += [
        validate,
        record,
        TensorBoard(output / "tensorboard", validate.numbers, output / "pictures"),
        RunPage(output, record, best, "key metric" if config is None else config.get("key_metric", "key metric")),
        checkpoint,
        *([] if patience is None else [EarlyStop(best, patience)]),
        Progress() if limit is None else limit,
        *([ForgetTracked(output, trackers)] if checkpoint.overwrite else []),
        *train_handlers,
    ]
    trainer = objective_trainer(
        objective,
        device,
        precision,
        accumulate,
        max_epochs=max_epochs if budget is None else UNLIMITED,
        train_data_loader=random_loader(dataset, batch_size, steps_per_epoch, seed, num_workers),
        optimizer=optimizer,
        train_handlers=handlers,
        **options,
    )
    trainer.checkpoint, trainer.record = checkpoint, record
    return trainer


def about_weights(
    config: ConfigParser | None, dataset: PairDataset | MadePairs, seen: Sequence[Seen]
) -> dict[str, Any]:
    """What weights say of their network and of the images that they are for."""
    settings = network_settings(config)
    if settings and isinstance(dataset, PairDataset):
        spacing = dataset.resampled_to
        settings |= {"spacing": spacing, "training_data": ranges_of(seen, spacing)}
    return settings


def random_loader(
    dataset: PairDataset | MadePairs, batch_size: int, steps_per_epoch: int, seed: int, num_workers: int
) -> DataLoader:
    """Batches of random pairs. It has random numbers of its own, so that those of this process do not depend on the
    number of workers."""
    if num_workers and isinstance(dataset, PairDataset):
        dataset.fill()
    sampler = RandomPairs(dataset, batch_size * steps_per_epoch, seed)
    return DataLoader(
        dataset,
        batch_size=share_of(batch_size),
        sampler=sampler,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed),
    )


def registration_evaluator(
    device: torch.device,
    dataset: PairDataset,
    network: nn.Module,
    output_dir: str | Path,
    key_metric: str = "ncc",
    postprocessing: PairMetricsd | None = None,
    weights: str | Path | None = None,
    val_handlers: Sequence[Any] = (),
    **options: Any,
) -> SupervisedEvaluator:
    """Measures a network on every pair of a dataset: metrics.json and a picture in the output folder.

    Args:
        network: image → [warped | displacement].
        key_metric: the number of `postprocessing` that tells which weights are best; higher is better.
        postprocessing: what to measure; default: all that needs no surfaces or named structures.
        weights: file of weights to load first; default: the network as it is.
        options: of MONAI's SupervisedEvaluator, such as `inferer` or `amp`.
    """
    output = Path(output_dir)
    postprocessing = postprocessing or PairMetricsd()
    if key_metric not in postprocessing.names:
        there = ", ".join(postprocessing.names)
        raise ValueError(
            f"key_metric must be one of {there}, got {key_metric!r}{nearest(key_metric, postprocessing.names)}."
        )
    handlers: list[Any] = [] if weights is None else [LoadWeights(weights, network)]
    handlers += [Picture(output / "pictures"), MetricsFile(output / "metrics.json"), *val_handlers]
    sampler = DistributedSampler(dataset, shuffle=False) if are_several() else None
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, sampler=sampler),
        network=network.to(device),
        postprocessing=postprocessing,
        key_val_metric={"key_metric": PairMetric(key_metric)},
        additional_metrics={name: PairMetric(name) for name in dict.fromkeys((key_metric, "ncc", "folding"))},
        val_handlers=handlers,
        **options,
    )
