"""Registration inside MONAI's engines: what the bundles' `inference.json` is made of.

The dataset reads pairs of files, the inferer calls `register_pair`, the postprocessing writes its result. A batch is
one pair of images.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.transforms import Transform
from torch.utils.data import Dataset

from warpzoo.checks import check_truth
from warpzoo.images.resampling import Resampling
from warpzoo.registration.budget import Budget
from warpzoo.registration.listing import read_pair
from warpzoo.registration.methods import find_methods
from warpzoo.registration.network import NetworkMethod
from warpzoo.registration.optimisation import Refinement
from warpzoo.registration.pair import Method, Registration, register_pair
from warpzoo.registration.results import chosen_outputs, summary, write_results


class FilePairs(Dataset):
    """Pairs of files as {"files": …} and what `read_pair` reads from them; `data` is what `list_pairs` gives."""

    def __init__(
        self, data: Sequence[Mapping[str, Any]], landmarks_weight: float = 0.0, channels: bool = False
    ) -> None:
        self.data = list(data)
        self.channels = check_truth("channels", channels)
        self.landmarks_weight = landmarks_weight

    def __len__(self) -> int:
        if not self.data:
            raise ValueError("fixed and moving, or pairs, must be given; there is nothing to register.")
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        files = self.data[index]
        return {"files": files, **read_pair(files, self.landmarks_weight, self.channels)}


class RegistrationInferer(Inferer):
    """A pair of `FilePairs` → a `Registration`, by a bundle's network and refinement.

    The first Ctrl-C ends the optimisation at hand and keeps its best; one in a later pair ends everything.

    Args:
        method: the bundle's.
        first: a chain that runs before it, such as affine.
        refine: iterations, or seconds such as "10s", of optimisation on the pair at hand from the network's answer.
        similarity: what refinement maximises; see `warpzoo.registration.similarities`.
        strict: whether the preflight's warnings are errors.
        interpolation: of the images that are written: linear, cubic or nearest.
        outside: value beyond the moving image's edge; default: its least value.
        safe: whether a result that makes the images less alike is replaced by the start or what affine finds.
    """

    def __init__(
        self,
        method: NetworkMethod,
        first: str | None = None,
        refine: str | float = 0,
        similarity: str | None = None,
        strict: bool = False,
        interpolation: str = "linear",
        outside: float | None = None,
        safe: bool = False,
    ) -> None:
        super().__init__()
        self.method = method
        before = [] if first is None else find_methods(first, device=str(method.device))
        self.methods: list[Method] = [*before, method]
        if budget := Budget.read("refine", refine):
            self.methods.append(Refinement(budget, similarity, str(method.device)))
        self.strict = check_truth("strict", strict)
        self.safe = check_truth("safe", safe)
        self.resampling = Resampling(interpolation, outside)
        self.interrupted = False

    def __call__(self, inputs: Any, network: Any, *args: object, **kwargs: object) -> Registration:
        pair = {name: value for name, value in inputs.items() if name != "files"}
        registration = register_pair(
            **pair,
            methods=self.methods,
            resampling=self.resampling,
            strict=self.strict,
            interruptible=not self.interrupted,
            safe=self.safe,
        )
        self.interrupted |= registration.interrupted
        return registration


class WriteRegistration(Transform):
    """Postprocessing: writes a registration into `output_dir`, or with a list of pairs into a folder below it by the
    pair's id, and says so in one line.

    `save` and `inverse` say what is written, see `chosen_outputs`; `settings` are kept in metrics.json beside the
    numbers.
    """

    def __init__(
        self,
        output_dir: str | Path,
        report: bool = True,
        settings: Mapping[str, Any] | None = None,
        save: str | Sequence[str] | None = None,
        inverse: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.outputs = chosen_outputs(save, report, inverse)
        self.settings = dict(settings or {})

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        registration, files = data["pred"], data["image"]["files"]
        folder = write_results(self.output_dir / files["id"], registration, files, self.settings, self.outputs)
        for finding in registration.findings:
            print(f"warning: {finding}")
        print(f"{folder}: {summary({**registration.metrics, 'interrupted': registration.interrupted})}")
        return {}


class RegistrationEvaluator(SupervisedEvaluator):
    """MONAI's evaluator over pairs of files, one at a time; `num_workers` processes read pairs ahead."""

    def __init__(
        self, dataset: FilePairs, inferer: RegistrationInferer, postprocessing: Transform, num_workers: int = 0
    ) -> None:
        super().__init__(
            device=inferer.method.device,
            val_data_loader=DataLoader(
                dataset, batch_size=1, collate_fn=_only, num_workers=num_workers, worker_init_fn=_go_on
            ),
            network=inferer.method.network,
            inferer=inferer,
            prepare_batch=_as_it_is,
            postprocessing=postprocessing,
            decollate=False,
        )


def _only(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return batch[0]


def _go_on(_: int) -> None:
    """A terminal sends Ctrl-C to the processes that read, too: whether it ends them is for the main one to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(batch: dict[str, Any], *_: object, **__: object) -> tuple[dict[str, Any], None]:
    return batch, None
