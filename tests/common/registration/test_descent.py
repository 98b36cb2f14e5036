"""Minimisation within a budget, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch

from warpzoo.geometry.transforms import Affine, BSpline, Composition, Velocity
from warpzoo.images.image import Image, read_image
from warpzoo.registration import deformation, network, optimisation, pair
from warpzoo.registration.budget import Budget
from warpzoo.registration.descent import PATIENCE, Adam, Curvature, Descent, Interrupted
from warpzoo.registration.engine import FilePairs, RegistrationEvaluator, RegistrationInferer
from warpzoo.registration.listing import list_pairs
from warpzoo.registration.methods import find_methods
from warpzoo.registration.optimisation import Optimisation, Refinement
from warpzoo.registration.pair import register_pair
from warpzoo.registration.pyramid import ImagePyramid, Level

from .conftest import save, smooth


def parabola(x: torch.Tensor) -> torch.Tensor:
    return (x - 3).square().sum()


@pytest.mark.parametrize(
    ("value", "amount", "seconds"),
    [(50, 50, False), ("7", 7, False), ("2.5s", 2.5, True), ("20 minutes", 1200, True), ("1.5h", 5400, True)],
)
def test_budgets(value: str | int, amount: float, seconds: bool) -> None:
    assert Budget.read("refine", value) == Budget(amount, seconds)
    assert not Budget.read("refine", 0)


@pytest.mark.parametrize("value", ["10 parsecs", "-3", "", "s", "1.5", "True", "nan"])
def test_no_budgets(value: str) -> None:
    with pytest.raises(ValueError, match=f"refine must be .* 50, or a time such as 10s or 3min, got '{value}'"):
        Budget.read("refine", value)


def valley(x: torch.Tensor) -> torch.Tensor:
    """Rosenbrock's function, in four dimensions; its minimum is 0 at 1, 1, 1, 1."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_settling_reaches_what_scipy_reaches_in_about_as_many_looks() -> None:
    start = np.array([-0.5, 0.3, 0.1, 0.8])
    theirs = scipy.optimize.minimize(
        lambda x: float(valley(torch.from_numpy(x))),
        start,
        jac=lambda x: torch.autograd.functional.jacobian(valley, torch.from_numpy(x)).numpy(),
        method="BFGS",
    )
    x = torch.from_numpy(start).requires_grad_(True)
    with Descent(Budget(1000), "test") as descent:
        lowest = descent.settle(lambda: valley(x), [x], Curvature(0.1), tolerance=1e-8)
    np.testing.assert_allclose(x.detach().numpy(), theirs.x, atol=1e-3)
    assert lowest == pytest.approx(0, abs=1e-8)
    assert descent.iterations < 3 * theirs.nfev


def test_settling_keeps_its_best_within_the_budget_and_knows_the_valley_afterwards() -> None:
    curvature = Curvature(0.1)
    x, y = (torch.tensor([-0.5, 0.3, 0.1, 0.8], dtype=torch.float64, requires_grad=True) for _ in range(2))
    looks: list[float] = []

    def loss() -> torch.Tensor:
        value = valley(x)
        looks.append(float(value))
        return value

    with Descent(Budget(20), "test") as descent:
        lowest = descent.settle(loss, [x], curvature, tolerance=1e-8)
    assert lowest == min(looks) == float(valley(x))
    assert 20 <= len(looks) <= 26
    # a new level that is nearly the same: what was learnt of the first saves steps
    bowl = torch.tensor([1.0, 30, 300, 1000], dtype=torch.float64)
    counts = []
    learnt = Curvature(0.1)
    for _ in range(2):
        with torch.no_grad():
            y.copy_(torch.tensor([-0.5, 0.3, 0.1, 0.8]))
        with Descent(Budget(1000), "test") as descent:
            descent.settle(lambda: (bowl * y.square()).sum(), [y], learnt, tolerance=1e-6)
        counts.append(descent.iterations)
        assert float(y.detach().abs().max()) < 1e-5
    assert counts[1] < counts[0]


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


@pytest.fixture
def python_handler() -> Any:
    """SIGINT as a program in a terminal has it, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c(then: Callable[..., Any], at: int = 1, times: int = 1) -> Callable[..., Any]:
    """The function, whose call of that number is preceded by Ctrl-C."""
    calls = count(1)

    def called(*arguments: Any, **options: Any) -> Any:
        if next(calls) == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return then(*arguments, **options)

    return called


@pytest.fixture
def images(tmp_path: Any) -> tuple[Image, Image]:
    content = np.pad(smooth((44, 36)), 12).astype(np.float32)
    save(tmp_path / "fixed.nii.gz", content)
    save(tmp_path / "moving.nii.gz", np.roll(content, 3, 0))
    return read_image(tmp_path / "fixed.nii.gz"), read_image(tmp_path / "moving.nii.gz")


@pytest.mark.usefixtures("python_handler")
def test_one_interruption_ends_it_wherever_it_is_and_a_second_one_breaks_off() -> None:
    for level in (0, 1, 2):  # before the first level, between both, after them
        x = torch.zeros(2, requires_grad=True)
        with Descent(Budget(20), "test") as descent:
            for number in range(2):
                if number == level:
                    signal.raise_signal(signal.SIGINT)
                descent.minimise(lambda x=x: parabola(x), [x], 0.1, 0.5 * (number + 1))
            if level == 2:
                signal.raise_signal(signal.SIGINT)
        assert descent.interrupted
        assert descent.iterations == 10 * level
        assert (float(x.detach()[0]) > 0.5) == (level > 0)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    with pytest.raises(KeyboardInterrupt), Descent(Budget(20), "test") as descent:
        descent.minimise(ctrl_c(lambda: parabola(x), at=3, times=2), [x], 0.1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handlers_of_others_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.SIG_IGN, lambda *_: None):
            signal.signal(signal.SIGINT, handler)
            with Descent(Budget(5), "test") as descent:
                assert signal.getsignal(signal.SIGINT) is handler
                signal.raise_signal(signal.SIGINT)
            assert not descent.interrupted
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_optimise_too() -> None:
    x = torch.zeros(2, requires_grad=True)

    def work() -> None:
        with Descent(Budget(5), "test") as descent:
            descent.minimise(lambda: parabola(x), [x], 0.1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert float(x.detach()[0]) > 0


PLACES = {
    "pyramid": (optimisation, "ImagePyramid", 1),
    "first level": (ImagePyramid, "level", 1),
    "second level": (ImagePyramid, "level", 2),
    "mask": (Level, "covered", 1),
    "model": (deformation.VelocityModel, "__init__", 2),
    "final similarity": (deformation.VelocityModel, "transform", 1),
}


@pytest.mark.usefixtures("python_handler")
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_lost_between_levels(
    images: tuple[Image, Image], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best so far is kept: what was optimised before the interruption, or the start."""
    start = Affine.from_world(torch.eye(2, 3, dtype=torch.float64)[None] + 0.01, images[0].grid)
    owner, name, at = PLACES[place]
    interrupted = ctrl_c(getattr(owner, name), at)
    monkeypatch.setattr(owner, name, staticmethod(interrupted) if name == "transform" else interrupted)
    method = Optimisation("svf", budget=Budget(20))
    registration = register_pair(*images, [method, Optimisation("ffd")], start=start)
    assert registration.interrupted
    assert "ffd did not run" in registration.notes[0]
    if place in ("pyramid", "first level", "mask"):
        assert registration.transform is start
    else:
        assert isinstance(registration.transform, Composition)
        assert any(isinstance(part, Velocity) for part in registration.transform.parts)


@pytest.mark.usefixtures("python_handler")
@pytest.mark.parametrize(("at", "kept"), [(1, None), (2, "affine"), (3, "affine")])
def test_nothing_is_lost_while_images_are_compared(
    images: tuple[Image, Image], at: int, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, after the first method and after the second, whose transform is then not known to gain."""
    monkeypatch.setattr(pair, "likeness", ctrl_c(pair.likeness, at))
    chain = [Optimisation("affine", budget=Budget(10)), Optimisation("ffd", budget=Budget(5)), Optimisation("svf")]
    if kept is None:
        with pytest.raises(KeyboardInterrupt):
            register_pair(*images, chain, gaining=True)
        return
    registration = register_pair(*images, chain, gaining=True)
    assert registration.interrupted
    assert isinstance(registration.transform, Affine)
    assert registration.notes[0].endswith(f"and {'svf' if at == 3 else 'ffd, svf'} did not run.")


@pytest.mark.usefixtures("python_handler")
def test_an_interruption_before_anything_was_found(
    images: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimisation, "ImagePyramid", ctrl_c(ImagePyramid))
    transform = register_pair(*images, [Optimisation("svf")]).transform
    assert float(transform.field(images[0].grid).abs().max()) == 0


@pytest.mark.usefixtures("python_handler")
def test_an_interrupted_refinement_keeps_the_spline(
    images: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    spline = find_methods("ffd")[0](*images, None)
    assert isinstance(spline, BSpline)
    monkeypatch.setattr(optimisation, "ImagePyramid", ctrl_c(ImagePyramid))
    with pytest.raises(Interrupted) as stop:
        Refinement(Budget(20))(*images, spline)
    assert stop.value.transform is spline


@pytest.mark.usefixtures("python_handler")
@pytest.mark.parametrize("adapt", [0, 20])
def test_an_interruption_while_weights_load(
    images: tuple[Image, Image], make_bundle: Callable[..., Any], adapt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found already is kept; a single pass, which has nothing to keep, ends at once."""
    chain = find_methods(str(make_bundle("still", [0, 0])), adapt=adapt)
    monkeypatch.setattr(network, "load_weights", ctrl_c(network.load_weights))
    if adapt:
        assert register_pair(*images, chain).interrupted
        return
    with pytest.raises(KeyboardInterrupt):
        register_pair(*images, chain)
    monkeypatch.setattr(network, "load_weights", ctrl_c(network.load_weights))
    start = Affine.from_world(torch.eye(2, 3, dtype=torch.float64)[None] + 0.01, images[0].grid)
    assert register_pair(*images, chain, start=start).interrupted


@pytest.mark.usefixtures("python_handler")
def test_a_second_interruption_ends_the_engine(
    images: tuple[Image, Image], make_bundle: Callable[..., Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pairs.csv").write_text("fixed,moving\n" + 3 * "fixed.nii.gz,moving.nii.gz\n")
    method = find_methods(str(make_bundle("still", [0, 0])), adapt=5)[0]
    assert isinstance(method, network.NetworkMethod)
    done: list[bool] = []

    def note(data: dict[str, Any]) -> dict[str, Any]:
        done.append(data["pred"].interrupted)
        return {}

    pairs = FilePairs(list_pairs(pairs=tmp_path / "pairs.csv"))
    evaluator = RegistrationEvaluator(pairs, RegistrationInferer(method), note)
    predict = network.predict
    monkeypatch.setattr(network, "predict", lambda *given: (signal.raise_signal(signal.SIGINT), predict(*given))[1])
    with pytest.raises(KeyboardInterrupt):
        evaluator.run()
    assert done == [True]


def test_strict_must_be_true_or_false(images: tuple[Image, Image]) -> None:
    with pytest.raises(ValueError, match="strict must be true or false, got 'maybe'"):
        register_pair(*images, [], strict="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_adam_steps_as_torch_does(steps: int) -> None:
    """With a learning rate that changes, as in a descent, and a parameter that the loss does not depend on."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (2,), (1,))]
    ours, theirs = ([one.clone().requires_grad_() for one in start] for _ in range(2))
    adam, oracle = Adam(ours), torch.optim.Adam(theirs, lr=1.0)

    def loss(parameters: list[torch.Tensor]) -> torch.Tensor:
        return (parameters[0].square() * parameters[1].prod()).sum() + parameters[1].exp().sum()

    for step in range(steps):
        rate = 0.1 / (1 + step)
        adam.step(loss(ours), rate)
        oracle.param_groups[0]["lr"] = rate
        oracle.zero_grad()
        loss(theirs).backward()
        oracle.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert torch.equal(ours[2], start[2])
