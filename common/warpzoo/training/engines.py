"""MONAI's engines with all that every training needs around a network, an objective and images.

`train.json` names what a method chooses; the loaders, samplers, processes and handlers stand here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import DataLoader, DistributedSampler
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warpzoo.training.averaging import AverageWeights
from warpzoo.training.checkpoints import BestWeights, Checkpoint, LoadWeights
from warpzoo.training.evaluation import PairMetric, PairMetricsd
from warpzoo.training.objectives import total_loss
from warpzoo.training.pairs import PairDataset, RandomPairs
from warpzoo.training.processes import are_several
from warpzoo.training.progress import EarlyStop, Progress, SeedEpochs, TensorBoard
from warpzoo.training.records import MetricsFile, Picture, RunRecord


def objective_trainer(objective: nn.Module, device: torch.device, **options: Any) -> SupervisedTrainer:
    """MONAI's SupervisedTrainer of an objective, whose forward gives the loss; the same network in all processes.

    `options` are those of SupervisedTrainer, such as `train_handlers` or `amp`.
    """
    objective = objective.to(device)
    if are_several():
        objective = DistributedDataParallel(objective, [device] if device.type == "cuda" else None)
    return SupervisedTrainer(device=device, network=objective, loss_function=total_loss, decollate=False, **options)


def registration_trainer(
    max_epochs: int,
    steps_per_epoch: int,
    batch_size: int,
    device: torch.device,
    dataset: PairDataset,
    objective: Any,
    optimizer: Optimizer,
    evaluator: SupervisedEvaluator,
    output_dir: str | Path,
    lr_scheduler: LRScheduler | None = None,
    average: AverageWeights | None = None,
    val_interval: int = 1,
    patience: int | None = None,
    initial_weights: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    num_workers: int = 0,
    train_handlers: Sequence[Any] = (),
    **options: Any,
) -> SupervisedTrainer:
    """Trains `objective.network` on random pairs of a dataset; seeded anew for every epoch, validated on the way.

    The output folder gets model.pt (the weights that `evaluator` found best), last.pt (what `resume` goes on from),
    run.json (settings, data, curve) and events for TensorBoard.

    Args:
        max_epochs: how many epochs, of `steps_per_epoch` batches of `batch_size` pairs each.
        objective: a module of `warpzoo.training.objectives`.
        evaluator: of the network whose weights are kept, as `registration_evaluator` makes it.
        lr_scheduler: a step for each epoch.
        average: of the network's weights, part of last.pt; to validate and keep it, give it to the evaluator.
        val_interval: epochs from one validation and checkpoint to the next.
        patience: validations without a better key metric after which training ends; default: it goes on.
        initial_weights: file of weights to start from.
        resume: go on from last.pt.
        options: of MONAI's SupervisedTrainer, such as `inferer` or `amp`.
    """
    output = Path(output_dir)
    best = BestWeights(output / "model.pt", evaluator.network)
    best.attach(evaluator)
    settings = {
        "seed": seed,
        "epochs": max_epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "learning_rate": optimizer.defaults["lr"],
    }
    validation: Any = evaluator.data_loader
    data = {"train": dataset.data, "validation": validation.dataset.data}
    record = RunRecord(output / "run.json", settings, data, evaluator)
    objects: dict[str, Any] = {"network": objective.network, "optimizer": optimizer, "record": record, "best": best}
    handlers: list[Any] = [SeedEpochs(seed)]
    if initial_weights is not None:
        handlers.append(LoadWeights(initial_weights, objective.network))
    if lr_scheduler is not None:
        handlers.append(LrScheduleHandler(lr_scheduler, print_lr=False))  # type: ignore[arg-type]
        objects["lr_scheduler"] = lr_scheduler
    handlers.append(ValidationHandler(min(val_interval, max_epochs), evaluator))
    if patience is not None:
        handlers.append(EarlyStop(best, patience))
    handlers += [TensorBoard(output / "tensorboard"), Progress()]
    if average is not None:
        handlers.append(average)
        objects["averaged"] = average.averaged
    handlers += [record, Checkpoint(output / "last.pt", objects, val_interval, resume), *train_handlers]
    sampler = RandomPairs(dataset, batch_size * steps_per_epoch, seed)
    trainer = objective_trainer(
        objective,
        device,
        max_epochs=max_epochs,
        train_data_loader=DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers),
        optimizer=optimizer,
        train_handlers=handlers,
        **options,
    )
    trainer.add_event_handler(Events.COMPLETED, best.print_best)
    return trainer


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
    handlers: list[Any] = [] if weights is None else [LoadWeights(weights, network)]
    handlers += [Picture(output / "pictures"), MetricsFile(output / "metrics.json"), *val_handlers]
    sampler = DistributedSampler(dataset, even_divisible=False, shuffle=False) if are_several() else None
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, sampler=sampler),
        network=network.to(device),
        postprocessing=postprocessing or PairMetricsd(),
        key_val_metric={"key_metric": PairMetric(key_metric)},
        additional_metrics={name: PairMetric(name) for name in ("ncc", "folding")},
        val_handlers=handlers,
        **options,
    )
