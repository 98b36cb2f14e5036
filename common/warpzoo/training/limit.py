"""How long a training lasts: a budget of time or of steps, over which the learning rate falls to 0."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch.optim import Optimizer
from tqdm import tqdm

from warpzoo.checks import check_truth
from warpzoo.durations import amount_of, seconds_of


def parse_budget(budget: str | float) -> tuple[float, str]:
    """ "60s", "2 min", 60 → (seconds, "seconds"); "2000 steps" → (2000, "steps")."""
    if (found := amount_of(str(budget))) and found[1] in ("step", "steps"):
        return math.ceil(found[0]), "steps"
    if (seconds := seconds_of(str(budget))) is not None:
        return seconds, "seconds"
    raise ValueError(f"budget must be a time such as 60s or 10min, or steps such as 2000steps, got {budget!r}.")


class TrainingLimit:
    """Ends the training when its time or number of steps is used up, with the learning rate falling to 0 till then.

    A warm-up over the first steps, then half a cosine. A run that is resumed goes on with what was left. Ctrl-C ends
    the training early, as if that had been the budget; a second one breaks off everything. The bar shows the time left.

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
        self.used = 0.0
        self.bar: tqdm | None = None
        self.before: Any = None

    @property
    def is_used_up(self) -> bool:
        return self.used >= self.total

    def state_dict(self) -> dict[str, Any]:
        return {"used": self.used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.used = state["used"]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.set_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.check)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.give_up)

    def start(self, engine: Engine) -> None:
        if self.is_used_up:  # killed after its last step
            engine.terminate()
        self.began = self.clock() - self.used
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
        if self.bar is not None and (engine.state.iteration % 10 == 0 or used >= self.total):
            self.bar.set_postfix(loss=f"{engine.state.output['loss'].item():.3f}", refresh=False)
            self.bar.update(min(used, self.total) - self.bar.n)
        if used >= self.total:
            engine.terminate()

    def close(self, _: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def give_up(self, engine: Engine, error: BaseException) -> None:
        self.close(engine)
        raise error
