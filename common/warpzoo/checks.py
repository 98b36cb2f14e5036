"""Checks of arguments: each raises a ValueError that names the argument, what it must be and what it got.

Shapes are always checked, values only in eager execution, so that layers which call these checks can be scripted,
traced and exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SPATIAL_RANKS = {4: 2, 5: 3}


def runs_eagerly() -> bool:
    """False while a graph is recorded (tracing, exporting, compiling): values are not available there."""
    return not (torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export())


def has_values(tensor: Tensor) -> bool:
    """False where only shapes are known: while a graph is recorded, and on the meta device."""
    return runs_eagerly() and not tensor.is_meta


def check_finite(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and has_values(tensor):
        total = tensor.detach().sum(dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)
        if not bool(total.isfinite()):
            bad = int((~tensor.detach().isfinite()).sum())
            if bad:
                raise ValueError(f"{name} must be finite, got {bad} values that are NaN or infinite.")


def check_image(name: str, tensor: Tensor, channels: int | None = None, finite: bool = True) -> int:
    """Requires (batch, channels, *spatial) with two or three spatial axes; returns their number."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got a {type(tensor).__name__}.")
    if tensor.dim() not in SPATIAL_RANKS:
        raise ValueError(
            f"{name} must be (batch, channels, *spatial) with 2 or 3 spatial axes, got shape {tuple(tensor.shape)}."
        )
    if runs_eagerly() and 0 in tensor.shape:
        raise ValueError(f"{name} must have no empty axis, got shape {tuple(tensor.shape)}.")
    if channels is not None and tensor.shape[1] != channels:
        raise ValueError(f"{name} must have {channels} channel{'s' * (channels != 1)}, got {tensor.shape[1]}.")
    if finite:
        check_finite(name, tensor)
    return SPATIAL_RANKS[tensor.dim()]


def check_displacement(name: str, tensor: Tensor, finite: bool = True) -> int:
    """Requires (batch, dims, *spatial) with one component per spatial axis; returns the number of axes."""
    dims = check_image(name, tensor, finite=finite)
    if tensor.shape[1] != dims:
        raise ValueError(
            f"{name} must have one component per spatial axis, got {tensor.shape[1]} components on {dims} axes "
            f"(shape {tuple(tensor.shape)})."
        )
    return dims


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor, spatial_only: bool = False) -> None:
    """Requires equal shapes (or equal batch and spatial shapes) on one device; dynamic sizes are not compared."""
    if not runs_eagerly():
        return
    start = 2 if spatial_only else 1
    if tensor.shape[start:] != other.shape[start:] or tensor.shape[0] != other.shape[0]:
        what = "batch and spatial shape" if spatial_only else "shape"
        raise ValueError(
            f"{name} and {other_name} must have the same {what}, got {tuple(tensor.shape)} and {tuple(other.shape)}."
        )
    check_same_device(name, tensor, other_name, other)


def check_same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} and {other_name} must be on the same device, got {tensor.device} and {other.device}.")


def check_mask(name: str, mask: Tensor, image_name: str, image: Tensor) -> None:
    """Requires a mask of the image's spatial shape, one channel, batch 1 or the image's, that is not empty."""
    check_image(name, mask, channels=1)
    if mask.shape[2:] != image.shape[2:] or mask.shape[0] not in (1, image.shape[0]):
        raise ValueError(
            f"{name} must have shape {(image.shape[0], 1, *image.shape[2:])} for {image_name} of shape "
            f"{tuple(image.shape)}, got {tuple(mask.shape)}."
        )
    check_same_device(name, mask, image_name, image)
    if has_values(mask) and not bool((mask > 0).flatten(1).any(dim=1).all()):
        raise ValueError(f"{name} must have a voxel above 0 in each item of the batch, got an empty one.")


def check_spacing(name: str, spacing: float | Sequence[float], dims: int) -> tuple[float, ...]:
    """Requires one positive length, or one per axis (number, sequence, array or tensor); returns one per axis."""
    try:
        sides = torch.as_tensor(spacing, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        sides = []
    if len(sides) not in (1, dims) or not all(0 < side < float("inf") for side in sides):
        raise ValueError(f"{name} must be one positive length, or one for each of the {dims} axes, got {spacing}.")
    return tuple(sides * dims if len(sides) == 1 else sides)


def check_points(name: str, points: Tensor, dims: int) -> None:
    """Requires finite points (..., count, dims)."""
    if not isinstance(points, Tensor) or points.dim() < 2 or points.shape[-1] != dims:
        got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"{name} must be a tensor of points (..., count, {dims}), got {got}.")
    check_finite(name, points)


def check_count(name: str, value: int, least: int = 1) -> None:
    """Requires a whole number of at least that."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of {least} or more, got {value!r}.")


def check_truth(name: str, value: bool | str) -> bool:
    """Requires true or false, also as text: `python -m monai.bundle` turns `--resume false` into text."""
    truth = {"true": True, "false": False}.get(str(value).lower())
    if truth is None:
        raise ValueError(f"{name} must be true or false, got {value!r}.")
    return truth


def chosen_device(device: str | None) -> str:
    """That device, if it is there; the GPU if there is one, else the CPU, if none is named."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device must be such as cpu, cuda or cuda:1, got {device!r}.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be cpu where PyTorch finds no GPU, got {device!r}.")
    return device
