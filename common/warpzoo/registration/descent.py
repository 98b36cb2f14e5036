"""Going downhill within a budget: Adam on any parameters, in iterations or seconds, the best that was met is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import Tensor
from tqdm import tqdm

from warpzoo.geometry.transforms import Transform
from warpzoo.registration.budget import Budget

PATIENCE = 20
"""Iterations without progress after which a level ends; the first steps, which are large, often lead uphill."""
STALLED = 0.005
"""Progress is a fall of the loss by more than this part of what the level has gained so far."""
SLOWEST = 0.1
"""Of the learning rate is left at the end of a level: large steps find the valley, small ones its bottom."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended an optimisation; `transform` is the best that it had met."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform


class Descent:
    """One optimisation on its way through its levels: what it has spent, a progress bar, and whether it goes on.

    Ctrl-C ends it where it is, with the best so far, and sets `interrupted`: whoever has made a transform of it raises
    `Interrupted` with that.

    Example:
        >>> with Descent(Budget.read("refine", "10s"), "Refining") as descent:
        ...     descent.minimise(coarse_loss, [control_points], learning_rate=0.05, until=0.5)
        ...     descent.minimise(fine_loss, [control_points], learning_rate=0.05)
    """

    def __init__(self, budget: Budget, title: str) -> None:
        self.budget = budget
        self.title = title
        self.iterations = 0
        self.interrupted = False

    def __enter__(self) -> Descent:
        self.begun = time.perf_counter()
        clock = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        # what is counted is thousandths: seconds and iterations alike
        self.bar = tqdm(total=1000, desc=self.title, leave=False, disable=None, bar_format=clock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    @property
    def spent(self) -> float:
        """Which part of the budget is used up."""
        if self.interrupted or not self.budget:
            return 1.0
        used = time.perf_counter() - self.begun if self.budget.seconds else self.iterations
        return used / self.budget.amount

    def minimise(
        self,
        loss: Callable[[], Tensor],
        parameters: Sequence[Tensor],
        learning_rate: float,
        until: float = 1.0,
    ) -> float:
        """The lowest loss that was met, and the parameters there, until that part of the budget is spent.

        It ends early when the loss has stalled. What is not spent is left to the levels that follow.
        """
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        begun = self.spent
        first = lowest = float("inf")
        best: list[Tensor] = []
        recent: list[float] = []
        try:
            while True:
                going = self.spent < until and not _stalled(recent, first)
                with torch.set_grad_enabled(going):  # the last look is at where the last step has led
                    value = loss()
                now = float(value.detach())
                if now < lowest:
                    best, lowest = [one.detach().clone() for one in parameters], now
                if not going:
                    break
                first = now if first == float("inf") else first
                recent.append(lowest)
                part = (self.spent - begun) / max(until - begun, 1e-9)
                optimizer.param_groups[0]["lr"] = learning_rate * (1 - (1 - SLOWEST) * min(part, 1.0))
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                self.iterations += 1
                self.bar.update(int(1000 * min(self.spent, 1.0)) - self.bar.n)
        except KeyboardInterrupt:
            self.interrupted = True
        with torch.no_grad():
            for one, kept in zip(parameters, best, strict=False):
                one.copy_(kept)
        return lowest


def _stalled(lowest: Sequence[float], first: float) -> bool:
    """Whether the last iterations have brought next to nothing."""
    if len(lowest) <= PATIENCE:
        return False
    return lowest[-PATIENCE - 1] - lowest[-1] <= STALLED * (first - lowest[-1])
