"""Pictures of one registration: images, overlays before and after, the deformed grid and the Jacobian determinant.

Volumes are shown in their middle planes. Overlays show the moving image in orange and the fixed one in blue: where they
agree the picture is grey.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from warpzoo.geometry.jacobian import jacobian_determinant


def save_registration_figure(
    path: str | Path, moving: Tensor, fixed: Tensor, warped: Tensor, displacement: Tensor, title: str = ""
) -> None:
    """Images (*spatial), displacement (dims, *spatial) in voxels → a picture file; one row per plane of a volume."""
    displacement = displacement.detach().cpu().float()
    determinant = jacobian_determinant(displacement[None])[0, 0]
    images = [rescale(torch.as_tensor(image).detach().cpu().float()) for image in (moving, fixed, warped)]
    planes = [None] if fixed.dim() == 2 else [0, 1, 2]
    figure = Figure(figsize=(18, 3.3 * len(planes) + (0.4 if title else 0)), layout="constrained")
    rows = figure.subplots(len(planes), 6, squeeze=False)
    for axes, plane in zip(rows, planes, strict=True):
        shown = [middle(image, plane) for image in images]
        for ax, image, name in zip(axes[:3], shown, ("moving", "fixed", "warped"), strict=True):
            show(ax, image, name)
        show(axes[3], overlay(shown[0], shown[1]), "before (grey: agreement)")
        show(axes[4], overlay(shown[2], shown[1]), "after")
        jacobian = axes[5].imshow(
            middle(determinant, plane).T, cmap="RdBu", norm=matplotlib.colors.TwoSlopeNorm(1, 0, 2), origin="lower"
        )
        draw_grid(axes[5], displacement, plane)
        finish(axes[5], "grid, Jacobian determinant")
        figure.colorbar(jacobian, ax=axes[5], shrink=0.8)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=80)


def rescale(image: Tensor) -> Tensor:
    """Intensities from the 0.5th to the 99.5th percentile as 0 to 1."""
    values = image.flatten()
    values = values[:: max(1, values.numel() // 1_000_000)]
    low, high = np.percentile(values.numpy(), (0.5, 99.5))
    return ((image - low) / max(high - low, 1e-12)).clamp(0, 1)


def middle(image: Tensor, plane: int | None) -> np.ndarray:
    """The image itself (2-D) or its middle plane across an axis."""
    return (image if plane is None else image.select(plane, image.shape[plane] // 2)).numpy()


def overlay(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Moving in orange, fixed in blue, their agreement in grey: (*plane, 3)."""
    return np.stack([moving, 0.5 * (moving + fixed), fixed], axis=-1)


def show(ax: Axes, image: np.ndarray, name: str) -> None:
    ax.imshow(image.swapaxes(0, 1), cmap="gray", vmin=0, vmax=1, origin="lower")
    finish(ax, name)


def finish(ax: Axes, name: str) -> None:
    ax.set_title(name, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])


def draw_grid(ax: Axes, displacement: Tensor, plane: int | None, lines: int = 24) -> None:
    """Where the transform takes the lines of a regular grid of the fixed image (its components in the plane)."""
    shape = displacement.shape[1:]
    axes = [axis for axis in range(len(shape)) if axis != plane]
    u = displacement if plane is None else displacement.select(plane + 1, shape[plane] // 2)
    x, y = np.meshgrid(*(np.arange(shape[axis]) for axis in axes), indexing="ij")
    x, y = x + u[axes[0]].numpy(), y + u[axes[1]].numpy()
    step = max(1, min(x.shape) // lines)
    for index in range(0, x.shape[0], step):
        ax.plot(x[index], y[index], color="black", linewidth=0.4)
    for index in range(0, x.shape[1], step):
        ax.plot(x[:, index], y[:, index], color="black", linewidth=0.4)
    ax.set_xlim(-0.5, x.shape[0] - 0.5)
    ax.set_ylim(-0.5, x.shape[1] - 0.5)
