"""What a person sees of a run: its page while it goes on, and one line when it ends."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events

from warpzoo.checks import check_truth
from warpzoo.errors import plain_reason
from warpzoo.report.run import RUNS, duration, write_run_page
from warpzoo.training.checkpoints import BestWeights
from warpzoo.training.records import RunRecord


class RunPage:
    """Writes report.html into the run's folder after every epoch, and when the run ends; prints the last line."""

    def __init__(
        self, folder: str | Path, record: RunRecord, best: BestWeights, metric: str, summary: bool = True
    ) -> None:
        self.folder = Path(folder)
        self.record = record
        self.best = best
        self.metric = metric
        self.summary = check_truth("summary", summary)

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)
            engine.add_event_handler(Events.COMPLETED, self.end)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self.give_up)

    def write(self, _: Engine, state: str = RUNS) -> None:
        if self.record.record["epochs"]:
            pictures = sorted((self.folder / "pictures").glob("*.png"))
            write_run_page(self.folder / "report.html", self.record.record, pictures, self.best_so_far(), state)

    def give_up(self, engine: Engine, error: BaseException) -> None:
        """What shows the progress raises it again. A run that is refused as it starts is left as it was."""
        if self.record.begun:
            self.write(engine, f"has stopped: {plain_reason(error) or type(error).__name__}")

    def best_so_far(self) -> str:
        """Which weights are the best so far, in words; empty before the first validation."""
        return f"{self.metric} {self.best.best:.4f} at epoch {self.best.epoch}" if self.best.epoch else ""

    def end(self, engine: Engine) -> None:
        self.write(engine, "has ended")
        if self.summary and (found := self.best_so_far()):
            spent = duration(self.record.record["seconds"])
            last = self.record.record["epochs"][-1]["epoch"]
            print(f"{self.best.path}: best {found} of {last}; {spent}, {self.folder / 'report.html'}")
