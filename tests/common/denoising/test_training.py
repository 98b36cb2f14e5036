from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine, Events
from torch import nn

from warpzoo.denoising.denoise import denoise_stack
from warpzoo.denoising.hot_pixels import HotPixels
from warpzoo.denoising.patches import Patches, open_stacks
from warpzoo.denoising.training import Calibrate, FitIntensities
from warpzoo.denoising.wiener import WienerFilter
from warpzoo.training.averaging import AverageWeights
from warpzoo.training.limit import TrainingLimit, parse_budget


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("60s", (60, "seconds")),
        ("1.5 min", (90, "seconds")),
        ("2h", (7200, "seconds")),
        (45, (45, "seconds")),
        ("2000steps", (2000, "steps")),
    ],
)
def test_budgets(text, parsed):
    assert parse_budget(text) == parsed


@pytest.mark.parametrize("text", ["", "fast", "0s", "-3s", "1.2.3s", "10 lightyears"])
def test_impossible_budgets(text):
    with pytest.raises(ValueError, match="budget must be"):
        parse_budget(text)


class Trainer:
    """Steps that set a weight to the step's number, with whatever handlers."""

    def __init__(self, *, rate: float = 1.0) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=rate)
        self.rates: list[float] = []
        self.engine = Engine(self.step)

    def step(self, engine: Engine, _: int) -> dict[str, object]:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.network.weight.data.fill_(engine.state.iteration)
        return {"loss": torch.tensor(0.0), "pred": {"loss": torch.tensor(1.0)}}

    def run(self, *handlers) -> int:
        for handler in handlers:
            handler.attach(self.engine)
        return self.engine.run(range(10_000), max_epochs=1).iteration


def test_a_budget_of_steps_ends_then_and_the_rate_falls_to_nearly_0():
    trainer = Trainer(rate=2.0)
    assert trainer.run(TrainingLimit("200steps", trainer.optimizer, warm_up=10)) == 200
    assert max(trainer.rates) == pytest.approx(2, abs=0.02)
    assert trainer.rates[0] == pytest.approx(0.2)
    assert trainer.rates[100] == pytest.approx(1, abs=0.02)
    assert trainer.rates[-1] < 0.001
    constant = Trainer(rate=2.0)
    constant.run(TrainingLimit("20steps", constant.optimizer, constant=True))
    assert set(constant.rates) == {2.0}


def test_a_budget_of_time_ends_by_its_clock():
    trainer, now = Trainer(), iter(np.arange(0, 1e6, 0.5))
    assert trainer.run(TrainingLimit("30s", trainer.optimizer, clock=lambda: next(now))) == 60
    assert trainer.rates[-1] < 0.01


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        trainer = Trainer()
        trainer.engine.add_event_handler(
            Events.ITERATION_COMPLETED(once=7), lambda _: signal.raise_signal(signal.SIGINT)
        )
        assert trainer.run(TrainingLimit("20steps", trainer.optimizer)) == 20
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def interruptible():
    """SIGINT as a shell's foreground has it: in the background it may be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_training_well_and_a_second_one_breaks_off():
    trainer = Trainer()
    before = signal.getsignal(signal.SIGINT)
    trainer.engine.add_event_handler(Events.ITERATION_COMPLETED(once=7), lambda _: os.kill(os.getpid(), signal.SIGINT))
    average = AverageWeights(trainer.network)
    assert trainer.run(TrainingLimit("1h", trainer.optimizer), average) in (7, 8)
    assert 1 < average.averaged.weight.item() < 7  # what was learnt till then can be used
    assert signal.getsignal(signal.SIGINT) is before

    impatient = Trainer()
    impatient.engine.add_event_handler(
        Events.ITERATION_STARTED(once=7), lambda _: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]
    )
    with pytest.raises(KeyboardInterrupt):
        impatient.run(TrainingLimit("1h", impatient.optimizer))
    assert signal.getsignal(signal.SIGINT) is before


def test_weights_are_averaged_over_the_last_steps():
    trainer = Trainer()
    average = AverageWeights(trainer.network, decay=0.9)
    trainer.run(TrainingLimit("400steps", trainer.optimizer), average)
    assert float(average.averaged.weight) == pytest.approx(400 - 9, abs=0.1)  # mean age of decay^n: 0.9 / 0.1


@pytest.fixture
def patches(tmp_path):
    values = np.random.default_rng(0).normal(1000, 50, (128, 128)).astype(np.float32)
    values[60:68, 60:68] = 400
    tifffile.imwrite(tmp_path / "in.tif", values)
    return Patches(open_stacks(tmp_path / "in.tif"), 32)


class Network(nn.Module):
    """A denoiser that is 30 too bright, in the image's units, and takes the rows' mean for the image."""

    halo, alignment = 0, 1

    def __init__(self, wiener=None) -> None:
        super().__init__()
        self.wiener = wiener
        self.hot = HotPixels()
        self.psf = nn.Identity()
        for name in ("mean", "deviation", "background", "shift"):
            self.register_buffer(name, torch.zeros(()))
        self.deviation.fill_(10)

    def normalise(self, image):
        return image / self.deviation

    def phantom(self, image):
        return image.mean(-1, keepdim=True).expand_as(image) + 3


def test_intensities_are_the_images(patches):
    network = Network()
    FitIntensities(network, patches)(None)
    values = tifffile.imread(patches.data[0].path)
    assert float(network.mean) == pytest.approx(values.mean(), abs=5)
    assert float(network.deviation) == pytest.approx(values.std(), rel=0.15)
    assert 390 < float(network.background) < 900


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (7, "constant")])
def test_images_that_cannot_be_learnt_from(tmp_path, value, message):
    tifffile.imwrite(tmp_path / "bad.tif", np.full((64, 64), value, np.float32))
    with pytest.raises(ValueError, match=rf"bad\.tif.*{message}"):
        FitIntensities(Network(), Patches(open_stacks(tmp_path / "bad.tif"), 32))(None)


def test_the_mean_is_kept(patches):
    network = Network()
    Calibrate(network, patches)(None)
    assert float(network.shift) == pytest.approx(-30, abs=1e-3)


def test_the_mean_of_the_filtered_image_is_kept_and_its_noise_measured(patches):
    network = Network(WienerFilter())
    Calibrate(network, patches)(None)
    noisy = torch.from_numpy(tifffile.imread(patches.data[0].path))[None, None] / 10
    expected = WienerFilter()
    expected.fit(noisy, network.phantom(noisy))
    assert torch.equal(network.wiener.offset, expected.offset)
    assert 0 < float(network.wiener.share) <= 1
    result = network.wiener(noisy, network.phantom(noisy))
    assert float(network.shift) == pytest.approx(10 * float((noisy - result).mean()), abs=0.01)


def test_one_process_of_several_tells_when_to_end(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("ignite.distributed.broadcast", lambda used: 1e9 if trainer.engine.state.iteration == 5 else 0)
    assert trainer.run(TrainingLimit("1h", trainer.optimizer)) == 5


def test_strict_must_be_true_or_false(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", np.random.default_rng(0).normal(1000, 50, (32, 32)).astype(np.float32))
    with pytest.raises(ValueError, match="strict must be true or false, got 'maybe'"):
        denoise_stack(open_stacks(tmp_path / "in.tif")[0], tmp_path / "out.tif", "median", strict="maybe")
