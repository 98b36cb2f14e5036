"""How a run goes from epoch to epoch: its seeds, its bar, its curves for TensorBoard, and when it ends early."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import PIL.Image
from ignite.engine import Engine, Events
from monai.utils import set_determinism
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

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
    """One bar over all epochs from the first step on, with the loss and the time left; only the first process shows it,
    once a minute where it does not come to a terminal."""

    bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.give_up)

    def start(self, engine: Engine) -> None:
        state = engine.state
        self.bar = tqdm(
            total=state.max_epochs * state.epoch_length,
            initial=state.iteration,
            mininterval=0.5 if sys.stderr.isatty() else 60,
            bar_format="Training {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]",
        )

    def __call__(self, engine: Engine) -> None:
        if self.bar is None:
            return
        state = engine.state
        words = f"epoch {state.epoch} of {state.max_epochs}, loss={float(state.output['loss'].detach()):.3g}"
        self.bar.set_postfix_str(words, refresh=False)
        self.bar.update()

    def close(self, _: Engine) -> None:
        if self.bar is not None:
            self.bar.close()

    def give_up(self, engine: Engine, error: BaseException) -> None:
        self.close(engine)
        raise error


class TensorBoard:
    """Curves and pictures for TensorBoard, from the first process: of each step the loss, its terms and the learning
    rate, of each validation its numbers and the picture.

    A resumed run goes on in the same curves: what the interrupted one wrote after its last checkpoint is taken back.
    Unlike MONAI's handler it writes nothing before a step went well.

    Args:
        folder: of the events.
        validated: the numbers of the last validation, and the step after which it was.
        pictures: the folder that validations put their pictures into.
    """

    def __init__(
        self, folder: str | Path, validated: Callable[[], tuple[int, Mapping[str, float]]], pictures: str | Path
    ) -> None:
        self.folder = Path(folder)
        self.validated = validated
        self.pictures = Path(pictures)
        self.writer: SummaryWriter | None = None
        self.shown = 0

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self.of_epoch)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def __call__(self, engine: Engine) -> None:
        step = engine.state.iteration
        if self.writer is None:
            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in engine.state.output["pred"].items():
            self.writer.add_scalar(name, value.item(), step)
        self.writer.add_scalar("rate", engine.optimizer.param_groups[0]["lr"], step)

    def of_epoch(self, engine: Engine) -> None:
        if self.writer is None:
            return
        step = engine.state.iteration
        validated, metrics = self.validated()
        if validated == step != self.shown:
            self.shown = step
            for name, value in metrics.items():
                self.writer.add_scalar(f"validation/{name}", value, step)
            if pictures := sorted(self.pictures.glob("*.png")):
                pixels = np.asarray(PIL.Image.open(pictures[-1]).convert("RGB"))
                self.writer.add_image("validation", pixels, step, dataformats="HWC")
        self.writer.flush()

    def close(self, _: Engine) -> None:
        if self.writer is not None:
            self.writer.close()


class EarlyStop:
    """Ends the training when the key metric has not risen for `patience` validations. Attach it after `Checkpoint`, of
    which it sees what a run that goes on has found so far."""

    def __init__(self, best: BestWeights, patience: int) -> None:
        self.best = best
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED | Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if self.best.validations_since >= self.patience:
            engine.state.ended = "early stop"
            engine.terminate()
