"""Batches in parts, in low precision, by several processes, from a cache with a bound."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import default_prepare_batch
from monai.inferers import SimpleInferer
from torch import nn

from warpzoo.training.cache import Cache, free_memory
from warpzoo.training.processes import of_all_processes, share_of
from warpzoo.training.stepping import Step


class Objective(nn.Module):
    """The mean over a batch of something that is not linear in the weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))
        self.seen: list[torch.dtype] = []

    def forward(self, image):
        found = self.layers(image)
        self.seen.append(found.dtype)
        return {"loss": (found.float() ** 2).mean(), "size": torch.tensor(float(len(image)))}


def stepped(step, steps=3):
    """The objective after some steps, and the last step's output."""
    engine = Engine(step)
    engine.network, engine.inferer, engine.optim_set_to_none = Objective(), SimpleInferer(), False
    engine.optimizer = torch.optim.SGD(engine.network.parameters(), lr=0.1)
    engine.state.device, engine.non_blocking, engine.prepare_batch = torch.device("cpu"), False, default_prepare_batch
    batches = [{"image": torch.randn(6, 2, 9, 8, generator=torch.Generator().manual_seed(n))} for n in range(steps)]
    engine.run(batches)
    return engine.network, engine.state.output


@pytest.mark.parametrize("parts", [2, 3, 4, 6])
def test_a_batch_in_parts_is_the_step_of_the_whole_batch(parts):
    (whole, output), (in_parts, summed) = stepped(Step()), stepped(Step(accumulate=parts))
    for one, other in zip(whole.parameters(), in_parts.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(summed["loss"], output["loss"], rtol=1e-5, atol=1e-6)


def test_low_precision_keeps_weights_and_comes_near():
    (whole, _), (low, _) = stepped(Step()), stepped(Step("bf16"))
    assert set(low.seen) == {torch.bfloat16}
    assert set(whole.seen) == {torch.float32}
    for one, other in zip(whole.parameters(), low.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        torch.testing.assert_close(other, one, rtol=0, atol=5e-3)


def test_a_precision_that_is_not_there():
    with pytest.raises(ValueError, match="precision must be one of float32, bf16, got 'fp8'"):
        Step("fp8")


def test_a_step_is_shared_out_among_processes(monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 3)
    assert share_of(12) == 4
    with pytest.raises(ValueError, match="batch_size must be a multiple of the number of processes, 3, got 8: it coun"):
        share_of(8)


@pytest.mark.parametrize(("count", "processes"), [(2, 3), (5, 3), (6, 3), (1, 4)])
def test_what_processes_find_comes_in_the_order_of_the_data(monkeypatch, count, processes):
    class Loader:
        dataset = list(range(count))

    shares = []
    for rank in range(processes):
        sampler = torch.utils.data.DistributedSampler(Loader.dataset, processes, rank, shuffle=False)
        shares.append([10 * index for index in sampler])
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: processes)
    monkeypatch.setattr("ignite.distributed.all_gather", lambda _: shares)
    engine = Engine(lambda *_: None)
    engine.data_loader = Loader
    assert of_all_processes(shares[0], engine) == [10 * index for index in range(count)]


def test_the_cache_has_a_bound():
    cache = Cache(4e-6)  # gigabytes: a thousand float32
    for index in range(5):
        cache.add(index, {"image": torch.zeros(400), "id": "a"})
    assert sorted(cache.kept) == [0, 1]
    assert Cache(0).bound == 0
    assert 0.3 * free_memory() < Cache(None).bound < 0.7 * free_memory()
    for wrong in (-1, "much", True, float("nan")):
        with pytest.raises(ValueError, match="cache must be a number of gigabytes, 0 or more, or null .*, got"):
            Cache(wrong)
