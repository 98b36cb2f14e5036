"""Minimisation within a budget, in iterations or seconds: Adam on any parameters, a quasi-Newton method on a few; the
lowest loss is kept."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType

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
"""Of the learning rate is left at the end of a level: large steps come near the minimum, small ones reach it."""

HALVINGS = 6
"""Shorter steps that are tried where one does not lead downhill."""
SUFFICIENT = 1e-4
"""Part of what the slope promises that a step must bring."""


class InterruptedAgain(KeyboardInterrupt):
    """A second Ctrl-C: nothing is to be kept."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended an optimisation; `transform` is the best that it had found, the start if it had found nothing."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform


class Descent:
    """One optimisation on its way through its levels: what it has spent, a progress bar, and whether it goes on.

    From entering to leaving it, also between and before levels, Ctrl-C sets `interrupted`: the budget counts as spent,
    and whoever has made a transform of the best so far passes it through `finished`. A second Ctrl-C raises
    KeyboardInterrupt. Outside the main thread, and where SIGINT is ignored or handled by the program, it is left so.
    Seconds count from the first `minimise`.

    Example:
        >>> with Descent(Budget.read("refine", "10s"), "Refining") as descent:
        ...     descent.minimise(coarse_loss, [control_points], learning_rate=0.05, until=0.5)
        ...     descent.minimise(fine_loss, [control_points], learning_rate=0.05)
    """

    def __init__(self, budget: Budget, title: str) -> None:
        self.budget = budget
        self.title = title
        self.iterations = 0.0
        self.share = 1.0
        self.interrupted = False
        self.begun: float | None = None

    def __enter__(self) -> Descent:
        clock = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        # thousandths of the budget, whether in seconds or in iterations
        self.bar = tqdm(total=1000, desc=self.title, leave=False, disable=None, bar_format=clock)
        in_main = threading.current_thread() is threading.main_thread()
        self.handles = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.handles:
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.handles:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.bar.close()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise InterruptedAgain
        self.interrupted = True

    def finished(self, transform: Transform) -> Transform:
        """The transform; raises `Interrupted` with it if Ctrl-C came."""
        if self.interrupted:
            raise Interrupted(transform)
        return transform

    @property
    def spent(self) -> float:
        """Which part of the budget is used up."""
        if self.interrupted or not self.budget:
            return 1.0
        seconds = 0.0 if self.begun is None else time.perf_counter() - self.begun
        return self.budget.spent(self.iterations, seconds)

    @contextmanager
    def shared(self, parts: int) -> Iterator[None]:
        """Within it an iteration counts as that part of one, of so many parts of an image; one that gains does not end
        early, with what its last, small steps would find still missing."""
        self.share = 1 / parts
        try:
            yield
        finally:
            self.share = 1.0

    def minimise(
        self,
        loss: Callable[[], Tensor],
        parameters: Sequence[Tensor],
        learning_rate: float,
        until: float = 1.0,
    ) -> float:
        """Minimises until that part of the budget is spent, or the loss has stalled; returns the lowest loss.

        The parameters are left where the loss was lowest, and what is not spent to the levels that follow.
        """
        adam = Adam(parameters)
        self._begin()
        first = lowest = float("inf")
        best: list[Tensor] = []
        recent: list[float] = []
        try:
            begun = self.spent
            while True:
                going = self.spent < until and not (_stalled(recent, first) and (self.share == 1 or lowest == first))
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
                adam.step(value, learning_rate * (1 - (1 - SLOWEST) * min(part, 1.0)))
                self._count()
        except KeyboardInterrupt:
            if self.interrupted:  # a second one
                raise
            self.interrupted = True
        with torch.no_grad():
            for one, kept in zip(parameters, best, strict=False):
                one.copy_(kept)
        return lowest

    def settle(
        self,
        loss: Callable[[], Tensor],
        parameters: Sequence[Tensor],
        curvature: Curvature,
        tolerance: float,
        until: float = 1.0,
    ) -> float:
        """The same for a few parameters of one scale, by BFGS: until a step is shorter than the tolerance.

        `curvature` is what is known of the loss, for the next level as well.
        """
        self._begin()
        best = [one.detach().clone() for one in parameters]
        lowest = float("inf")
        try:
            lowest, slope = _value_and_slope(loss, parameters)
            self._count()
            while self.spent < until:
                step = curvature.step(slope)
                expected = float(slope @ step)
                for _ in range(HALVINGS):
                    with torch.no_grad():
                        for one, kept, part in zip(parameters, best, _parted(step, parameters), strict=True):
                            one.copy_(kept + part)
                    value, there = _value_and_slope(loss, parameters)
                    self._count()
                    if value <= lowest + SUFFICIENT * expected:
                        break
                    # the minimum of the parabola through what is known, but no less than a tenth of the way
                    share = max(0.1, min(0.5, -0.5 * expected / max(value - lowest - expected, 1e-12)))
                    step, expected = share * step, share * expected
                else:
                    break
                curvature.learn(step, there - slope)
                best, lowest, slope = [one.detach().clone() for one in parameters], value, there
                if float(step.norm()) < tolerance:
                    break
        except KeyboardInterrupt:
            if self.interrupted:  # a second one
                raise
            self.interrupted = True
        with torch.no_grad():
            for one, kept in zip(parameters, best, strict=True):
                one.copy_(kept)
        return lowest

    def _begin(self) -> None:
        self.begun = time.perf_counter() if self.begun is None else self.begun

    def _count(self) -> None:
        self.iterations += self.share
        self.bar.update(int(1000 * min(self.spent, 1.0)) - self.bar.n)


class Curvature:
    """The inverse of a loss's second derivatives, as BFGS learns it from steps and how they change the slope.

    `reach` is the length of the first step, and no later one is ten times as long.
    """

    def __init__(self, reach: float) -> None:
        self.reach = reach
        self.inverse: Tensor | None = None

    def step(self, slope: Tensor) -> Tensor:
        if self.inverse is None:
            return -slope * (self.reach / max(float(slope.norm()), 1e-12))
        step = -self.inverse @ slope
        return step * min(1.0, 10 * self.reach / max(float(step.norm()), 1e-12))

    def learn(self, step: Tensor, change: Tensor) -> None:
        along = float(step @ change)
        if along <= 1e-10 * float(step.norm() * change.norm()):
            return  # no minimum in this direction
        if self.inverse is None:
            self.inverse = along / float(change @ change) * torch.eye(len(step), dtype=step.dtype)
        left = torch.eye(len(step), dtype=step.dtype) - torch.outer(step, change) / along
        self.inverse = left @ self.inverse @ left.T + torch.outer(step, step) / along


class Adam:
    """Adam as `torch.optim` has it with its defaults; that one imports PyTorch's compiler at its first step, which
    takes longer than registering a small pair."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = [(one, torch.zeros_like(one), torch.zeros_like(one)) for one in parameters]
        self.steps = 0

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """One step down the gradient of the loss."""
        gradients = torch.autograd.grad(loss, [one for one, _, _ in self.parameters], allow_unused=True)
        self.steps += 1
        share, share_of_squares = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        with torch.no_grad():
            for (one, mean, square), gradient in zip(self.parameters, gradients, strict=True):
                if gradient is not None:
                    mean.lerp_(gradient, 1 - 0.9)
                    square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
                    scale = (square / share_of_squares).sqrt_().add_(1e-8)
                    one.addcdiv_(mean, scale, value=-learning_rate / share)


def _stalled(lowest: Sequence[float], first: float) -> bool:
    """Whether the last iterations have brought next to nothing."""
    if len(lowest) <= PATIENCE:
        return False
    return lowest[-PATIENCE - 1] - lowest[-1] <= STALLED * (first - lowest[-1])


def _value_and_slope(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> tuple[float, Tensor]:
    with torch.enable_grad():  # MONAI's evaluator switches it off
        value = loss()
    slopes = torch.autograd.grad(value, list(parameters))
    return float(value.detach()), torch.cat([slope.detach().flatten().double().cpu() for slope in slopes])


def _parted(step: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """A step in all parameters, flat, as one for each."""
    parts = step.split([one.numel() for one in parameters])
    return [part.view_as(one).to(one) for part, one in zip(parts, parameters, strict=True)]
