"""Numbers of every registered pair inside MONAI's evaluator: with labels where there are labels, without where not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from ignite.metrics.metric import EpochWise, MetricUsage
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from warpzoo.checks import check_truth
from warpzoo.geometry.affine import affine_field
from warpzoo.geometry.sampling import warp_labels, warp_points
from warpzoo.losses import normalised_cross_correlation
from warpzoo.metrics import dice, folding, surface_distances
from warpzoo.training.pairs import PairDataset
from warpzoo.training.processes import of_all_processes

OF_LABELS = ("dice", "hd95", "msd")


class PairMetricsd(MapTransform):
    """Postprocessing that adds "metrics", a dictionary of numbers, to each evaluated pair.

    Always `ncc_before` and `ncc` (global, −1 to 1), `folding` (share of voxels with a determinant ≤ 0, central
    differences) and `folding_corners` (share of cells, one-sided differences). With label maps also `dice_before` and
    `dice`, means over `labels` (by default all that are there), and `dice_<name>_before` and `dice_<name>` for each of
    `structures`, which are labels taken together, such as {"whole": [1, 2]}. With `surfaces` also the 95th-percentile
    and the mean symmetric surface distance, `hd95` and `msd`, in the unit of `spacing`, before and after. Where there
    is a "truth", the matrix that belongs to the pair, `placement` is minus the mean distance, in voxels, from where it
    takes what the fixed image shows. Where there are "fixed_points" and "moving_points", (count, dims) in voxels,
    `points` is minus the mean distance of the fixed ones, displaced, from the moving ones.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        labels: Sequence[int] | None = None,
        structures: Mapping[str, Sequence[int]] | None = None,
        surfaces: bool = False,
        spacing: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__(keys)
        self.structures = dict(structures or {})
        self.labels = labels
        self.surfaces = check_truth("surfaces", surfaces)
        self.spacing = spacing

    @property
    def names(self) -> list[str]:
        """Of the numbers that a pair may have."""
        of_labels = ["dice", *(f"dice_{name}" for name in self.structures), *(("hd95", "msd") if self.surfaces else ())]
        both = [f"{name}{suffix}" for name in ("ncc", *of_labels) for suffix in ("", "_before")]
        return [*both, "folding", "folding_corners", "placement", "points"]

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        (prediction,) = (torch.as_tensor(data[str(key)])[None] for key in self.keys)
        image = torch.as_tensor(data["image"])[None]
        labels = [torch.as_tensor(data[key])[None] for key in ("moving_labels", "fixed_labels") if key in data]
        metrics = self.measure(image, prediction, *labels)
        if "truth" in data:
            metrics["placement"] = -_misplaced(image[0, 1], prediction[:, 1:], torch.as_tensor(data["truth"])[None])
        if "fixed_points" in data:
            fixed, moving = (torch.as_tensor(data[f"{which}_points"]) for which in ("fixed", "moving"))
            reached = warp_points(fixed[None].float().cpu(), prediction[:, 1:].float().cpu())[0]
            metrics["points"] = -float((reached - moving.cpu()).square().sum(1).sqrt().mean())
        return {**data, "metrics": metrics}

    def measure(
        self, image: Tensor, prediction: Tensor, moving_labels: Tensor | None = None, fixed_labels: Tensor | None = None
    ) -> dict[str, float]:
        """The numbers of one pair; arguments are batches of one, label maps (1, 1, *spatial)."""
        moving, fixed = image[:, :1].float(), image[:, 1:].float()
        warped, displacement = prediction[:, :1].float(), prediction[:, 1:].float()
        folds = folding(displacement)
        numbers = {
            "ncc_before": float(normalised_cross_correlation(fixed, moving)),
            "ncc": float(normalised_cross_correlation(fixed, warped)),
            "folding": float(folds.central),
            "folding_corners": float(folds.forward),
        }
        if moving_labels is not None and fixed_labels is not None:
            warped_labels = warp_labels(moving_labels.to(displacement.device), displacement)
            for suffix, labels in (("_before", moving_labels), ("", warped_labels)):
                numbers |= self._compare(labels.long().cpu(), fixed_labels.long().cpu(), suffix)
        return numbers

    def _compare(self, labels: Tensor, reference: Tensor, suffix: str) -> dict[str, float]:
        numbers = {f"dice{suffix}": float(dice(labels, reference, self.labels).nanmean())}
        for name, members in self.structures.items():
            here, there = (torch.isin(image, torch.tensor(members)).long() for image in (labels, reference))
            numbers[f"dice_{name}{suffix}"] = float(dice(here, there, [1]))
        if self.surfaces:
            distances = surface_distances(labels, reference, self.labels, self.spacing)
            numbers[f"hd95{suffix}"] = float(distances.hausdorff95.nanmean())
            numbers[f"msd{suffix}"] = float(distances.mean.nanmean())
        return numbers


def _misplaced(fixed: Tensor, displacement: Tensor, truth: Tensor) -> float:
    """The mean distance, in voxels, of a displacement (1, dims, *spatial) from a matrix's, where the fixed image
    (*spatial) is brighter than a tenth of its range."""
    shown = fixed > fixed.min() + 0.1 * (fixed.max() - fixed.min())
    apart = (displacement - affine_field(truth.to(displacement), list(fixed.shape)))[0].square().sum(0).sqrt()
    return float(apart[shown].mean())


class PairMetric(Metric):
    """The mean of one of `PairMetricsd`'s numbers over all pairs that have it, of all processes, as a metric of the
    evaluator."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__()

    def reset(self) -> None:
        self.values: list[float | None] = []
        self.others: set[str] = set()

    def iteration_completed(self, engine: Engine) -> None:
        self.engine = engine
        super().iteration_completed(engine)

    def update(self, output: Sequence[dict[str, Any]]) -> None:
        for pair in output:
            self.values.append(pair["metrics"].get(self.name))
            self.others |= set(pair["metrics"])

    def compute(self) -> float:
        values = [one for one in of_all_processes(self.values, self.engine) if one is not None]
        if not values:
            raise ValueError(f"the metric {self.name!r} is not there; {sorted(self.others)} are. Are there labels?")
        return float(np.mean(values))

    def attach(self, engine: Engine, name: str, usage: str | MetricUsage = EpochWise()) -> None:  # noqa: B008
        """Refuses a metric of labels where MONAI's engine is to validate on images without: before, not after hours."""
        dataset = getattr(getattr(engine, "data_loader", None), "dataset", None)
        if isinstance(dataset, PairDataset) and self.name.startswith(OF_LABELS):
            for record in dataset.data:
                if "label" not in record:
                    raise ValueError(
                        f"the metric {self.name!r} is not there; {record['id']} has no label map. Are there labels? "
                        f"If not, a `key_metric` such as ncc does without."
                    )
        super().attach(engine, name, usage)
