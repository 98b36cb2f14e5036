"""Overlap of label maps.

Convention: a label map is (batch, 1, *spatial) and holds whole numbers, 0 for background, in any data type; results
are (batch, labels), in the order of `labels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from warpzoo.checks import check_image, check_same_shape


def dice(prediction: Tensor, reference: Tensor, labels: Sequence[int] | None = None) -> Tensor:
    """Dice's coefficient 2|P ∩ R| / (|P| + |R|) of every label, (batch, labels).

    A label absent from one of the two maps scores 0, one absent from both has no score: NaN. (MONAI's `compute_dice`
    gives NaN, or 1, wherever the reference alone lacks the label, and so ignores false positives.)

    `labels` are by default those of `present_labels`.

    Example:
        >>> a, b = torch.tensor([[[[1, 1], [0, 2]]]]), torch.tensor([[[[1, 0], [0, 3]]]])
        >>> dice(a, b, labels=[1, 2, 4])
        tensor([[0.6667, 0.0000,    nan]])
    """
    labels = check_label_maps(prediction, reference, labels)
    scores = []
    for label in labels:
        found, true = (prediction == label).flatten(1), (reference == label).flatten(1)
        scores.append(2 * (found & true).sum(1) / (found.sum(1) + true.sum(1)))
    return torch.stack(scores, dim=1)


def present_labels(prediction: Tensor, reference: Tensor) -> list[int]:
    """The labels, 0 left out, that either map has anywhere in the batch, in ascending order."""
    values = torch.cat([prediction.unique(), reference.unique()]).unique()
    return [int(value) for value in values.tolist() if value != 0]


def check_label_maps(prediction: Tensor, reference: Tensor, labels: Sequence[int] | None) -> list[int]:
    """Requires two maps of whole numbers of one shape and a label to score; returns the labels."""
    for name, label_map in (("prediction", prediction), ("reference", reference)):
        check_image(name, label_map, channels=1)
        if label_map.is_floating_point() and bool((label_map != label_map.round()).any()):
            raise ValueError(
                f"{name} must be a label map of whole numbers, got others; resample it with nearest interpolation."
            )
    check_same_shape("prediction", prediction, "reference", reference)
    labels = present_labels(prediction, reference) if labels is None else list(labels)
    if not labels:
        raise ValueError("labels must have at least one label, got none, or both maps are background everywhere.")
    return labels
