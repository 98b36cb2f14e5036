"""Going downhill within a budget."""

from __future__ import annotations

import time
from itertools import count

import pytest
import torch

from warpzoo.registration.budget import Budget
from warpzoo.registration.descent import PATIENCE, Descent


def parabola(x: torch.Tensor) -> torch.Tensor:
    return (x - 3).square().sum()


@pytest.mark.parametrize(("value", "amount", "seconds"), [(50, 50, False), ("7", 7, False), ("2.5s", 2.5, True)])
def test_budgets(value: str | int, amount: float, seconds: bool) -> None:
    assert Budget.read("refine", value) == Budget(amount, seconds)
    assert not Budget.read("refine", 0)


@pytest.mark.parametrize("value", ["10 parsecs", "-3", "", "s", "1.5", "True", "nan"])
def test_no_budgets(value: str) -> None:
    with pytest.raises(ValueError, match=f"refine must be .* 50, or seconds such as 10s, got '{value}'"):
        Budget.read("refine", value)


def test_iterations_are_counted_over_all_levels() -> None:
    looks = []

    def loss() -> torch.Tensor:
        looks.append(torch.is_grad_enabled())
        return parabola(x)

    with Descent(Budget(13), "test") as descent:
        for until in (0.5, 1.0):
            x = torch.zeros(2, requires_grad=True)
            descent.minimise(loss, [x], 0.1, until)
            assert descent.iterations == (7 if until == 0.5 else 13)
    assert sum(looks) == 13
    assert len(looks) == 15, "a last look at where each level has led"


def test_seconds_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr(time, "perf_counter", lambda: 0.01 * next(ticks))
    x = torch.zeros(2, requires_grad=True)
    with Descent(Budget(2, seconds=True), "test") as descent:
        descent.minimise(lambda: parabola(x), [x], 0.01)
    assert 20 < descent.iterations < 200


def test_ends_where_nothing_is_gained() -> None:
    x = torch.full((2,), 3.0, requires_grad=True)
    with Descent(Budget(1000), "test") as descent:
        descent.minimise(lambda: parabola(x), [x], 0.1)
    assert descent.iterations == PATIENCE + 1
    torch.testing.assert_close(x.detach(), torch.full((2,), 3.0))


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_best_is_kept(interrupted: bool) -> None:
    """Far too large steps: the start is the best; Ctrl-C changes nothing about it, and no level follows."""
    x, calls = torch.full((2,), 3.1, requires_grad=True), count()

    def loss() -> torch.Tensor:
        if interrupted and next(calls) == 4:
            raise KeyboardInterrupt
        return parabola(x)

    with Descent(Budget(8), "test") as descent:
        lowest = descent.minimise(loss, [x], 50.0)
        torch.testing.assert_close(x.detach(), torch.full((2,), 3.1))
        assert lowest == pytest.approx(0.02, rel=1e-3)
        assert descent.interrupted == interrupted
        assert descent.spent >= 1
