"""How a run goes from epoch to epoch: its seeds, its bar, its curve for TensorBoard, and when it ends early."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.utils import set_determinism
from torch.utils.tensorboard import SummaryWriter

from warpzoo.training.checkpoints import BestWeights


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
    """The loss of each step for TensorBoard, from the first process. Unlike MONAI's handler it writes nothing before a
    step went well."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def __call__(self, engine: Engine) -> None:
        if self.writer is None:
            self.writer = SummaryWriter(str(self.folder))
        self.writer.add_scalar("loss", engine.state.output["loss"].item(), engine.state.iteration)

    def close(self, _: Engine) -> None:
        if self.writer is not None:
            self.writer.close()


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
