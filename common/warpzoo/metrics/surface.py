"""Distances between the surfaces of labelled structures.

Convention: label maps (batch, 1, *spatial) as in `overlap`; spacing is the size of a voxel along each spatial axis, and
distances come in its unit. A surface is the set of voxels that one step of erosion removes (outside the image is
background); distances are between voxel centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from warpzoo.checks import check_spacing
from warpzoo.metrics.overlap import check_label_maps


class SurfaceDistances(NamedTuple):
    """Three distances, each (batch, labels), of the two sets of nearest distances, from P to R and from R to P."""

    hausdorff: Tensor
    """The largest of all."""
    hausdorff95: Tensor
    """The larger one of the two sets' 95th percentiles."""
    mean: Tensor
    """The mean over both sets together: the average symmetric surface distance."""


def surface_distances(
    prediction: Tensor,
    reference: Tensor,
    labels: Sequence[int] | None = None,
    spacing: float | Sequence[float] = 1.0,
) -> SurfaceDistances:
    """Hausdorff, 95th-percentile Hausdorff and mean surface distance of every label, from one distance computation.

    The numbers are those of MONAI's `compute_hausdorff_distance` and symmetric `compute_average_surface_distance`. A
    label absent from either map has no surface and gives NaN (`dice` distinguishes the cases).

    `labels` are by default all but 0 that either map has; `spacing` is one number or one per axis.
    """
    labels = check_label_maps(prediction, reference, labels)
    sides = check_spacing("spacing", spacing, prediction.dim() - 2)
    rows = []
    for item, target in zip(prediction[:, 0], reference[:, 0], strict=True):
        rows.append(torch.stack([_distances(item == label, target == label, sides) for label in labels]))
    return SurfaceDistances(*torch.stack(rows).unbind(-1))


def _distances(structure: Tensor, target: Tensor, spacing: tuple[float, ...]) -> Tensor:
    if not (structure.any() and target.any()):
        return torch.full((3,), torch.nan, device=structure.device)
    from monai.metrics.utils import get_edge_surface_distance

    _, sets, _ = get_edge_surface_distance(structure, target, spacing=spacing, symmetric=True)
    both = torch.cat(sets)
    return torch.stack([both.max(), torch.stack([one.quantile(0.95) for one in sets]).max(), both.mean()])
