"""One step of the optimiser where it is not MONAI's own: in low precision, or on a batch that is taken in parts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


class Step:
    """`iteration_update` of MONAI's SupervisedTrainer for an objective.

    Args:
        precision: "bf16" runs layers that keep their digits in bfloat16, by autocast; weights, positions and the
            optimiser stay in float32.
        accumulate: parts that a batch is taken in, one after the other; their gradients are averaged as those of the
            whole batch are. It takes less memory; batch norms see the parts.
    """

    def __init__(self, precision: str = "float32", accumulate: int = 1) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
        self.dtype = PRECISIONS[precision]
        self.accumulate = accumulate

    def __call__(self, engine: SupervisedTrainer, batch: dict[str, Any]) -> dict[str, Any]:
        image, _, args, options = _whole(engine.prepare_batch(batch, engine.state.device, engine.non_blocking))
        network: Any = engine.network
        network.train()
        engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        parts = list(zip(image.chunk(self.accumulate), *(one.chunk(self.accumulate) for one in args), strict=True))
        terms: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            alone = isinstance(network, DistributedDataParallel) and not last
            with network.no_sync() if alone else nullcontext():
                with torch.autocast(image.device.type, self.dtype, enabled=self.dtype is not None):
                    found = engine.inferer(part[0], network, *part[1:], **options)
                share = len(part[0]) / len(image)
                (share * found["loss"]).backward()
            for name, value in found.items():
                terms[name] = terms.get(name, 0) + share * value.detach()
        engine.optimizer.step()
        return {"image": image, "label": None, "pred": terms, "loss": terms["loss"]}


def _whole(prepared: tuple[Any, ...]) -> tuple[Any, ...]:
    """What MONAI's `prepare_batch` gives, (inputs, targets) or with further arguments."""
    return prepared if len(prepared) == 4 else (*prepared, (), {})
