"""Checks of arguments: each raises a ValueError that names the argument, what it got and what it wants.

They look at shapes always and at values only when Python runs the numbers at hand, so that layers which call them
can still be scripted, traced and exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SPATIAL_RANKS = {4: 2, 5: 3}


def runs_eagerly() -> bool:
    """False while a graph is recorded (tracing, exporting, compiling): values cannot be looked at there."""
    return not (torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export())


def check_finite(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and runs_eagerly() and not tensor.is_meta:
        total = tensor.detach().sum(dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)
        if not bool(total.isfinite()):
            bad = int((~tensor.detach().isfinite()).sum())
            if bad:
                raise ValueError(f"{name} has {bad} values that are NaN or infinite; it wants finite numbers only.")


def check_image(name: str, tensor: Tensor, channels: int | None = None, finite: bool = True) -> int:
    """Wants (batch, channels, *spatial) with two or three spatial axes; returns how many there are."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}; it wants a torch.Tensor.")
    if tensor.dim() not in SPATIAL_RANKS:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; it wants (batch, channels, *spatial) with 2 or 3 spatial axes."
        )
    if runs_eagerly() and 0 in tensor.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it wants no empty axis.")
    if channels is not None and tensor.shape[1] != channels:
        raise ValueError(f"{name} has {tensor.shape[1]} channels; it wants {channels}.")
    if finite:
        check_finite(name, tensor)
    return SPATIAL_RANKS[tensor.dim()]


def check_displacement(name: str, tensor: Tensor, finite: bool = True) -> int:
    """Wants (batch, dims, *spatial) with one component per spatial axis; returns how many axes there are."""
    dims = check_image(name, tensor, finite=finite)
    if tensor.shape[1] != dims:
        raise ValueError(
            f"{name} has {tensor.shape[1]} components on {dims} spatial axes (shape {tuple(tensor.shape)}); "
            f"it wants one component per axis."
        )
    return dims


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor, spatial_only: bool = False) -> None:
    """Wants equal shapes (or equal batch and spatial shapes) on one device; dynamic sizes are not compared."""
    if not runs_eagerly():
        return
    start = 2 if spatial_only else 1
    if tensor.shape[start:] != other.shape[start:] or tensor.shape[0] != other.shape[0]:
        what = "batch and spatial shape" if spatial_only else "shape"
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} and {other_name} has {tuple(other.shape)}; "
            f"they want the same {what}."
        )
    check_same_device(name, tensor, other_name, other)


def check_same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device} and {other_name} on {other.device}; they want the same device.")


def check_mask(name: str, mask: Tensor, image_name: str, image: Tensor) -> None:
    """Wants a mask of the image's spatial shape, one channel, batch 1 or the image's, with something in it."""
    check_image(name, mask, channels=1)
    if mask.shape[2:] != image.shape[2:] or mask.shape[0] not in (1, image.shape[0]):
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}; for {image_name} of shape {tuple(image.shape)} it wants "
            f"{(image.shape[0], 1, *image.shape[2:])}."
        )
    check_same_device(name, mask, image_name, image)
    if runs_eagerly() and not bool((mask > 0).flatten(1).any(dim=1).all()):
        raise ValueError(f"{name} is empty (no voxel above 0) for at least one item of the batch; it wants a voxel.")


def check_spacing(name: str, spacing: float | Sequence[float], dims: int) -> tuple[float, ...]:
    """Wants one positive length for all axes or one per axis (a number, sequence, array or tensor); one per axis."""
    sides = torch.as_tensor(spacing, dtype=torch.float64).flatten().tolist()
    if len(sides) not in (1, dims) or not all(0 < side < float("inf") for side in sides):
        raise ValueError(f"{name} is {spacing}; it wants one positive length, or one for each of the {dims} axes.")
    return tuple(sides * dims if len(sides) == 1 else sides)


def check_points(name: str, points: Tensor, dims: int) -> None:
    """Wants (..., count, dims), finite."""
    if not isinstance(points, Tensor) or points.dim() < 2 or points.shape[-1] != dims:
        got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"{name} is {got}; it wants a tensor of points (..., count, {dims}), axis by axis.")
    check_finite(name, points)


def check_truth(name: str, value: bool | str) -> bool:
    """Wants true or false, also as text: that is what `python -m monai.bundle` makes of `--resume false`."""
    said = {"true": True, "false": False}.get(str(value).lower())
    if said is None:
        raise ValueError(f"{name} is {value!r}; it wants true or false.")
    return said
