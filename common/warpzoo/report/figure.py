"""One picture of a registration: the images, their overlays before and after, the deformed grid on the Jacobian map.

It is what training shows after an epoch, and the overview (`report.png`) beside the page of a registration.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from warpzoo.files import whole_file
from warpzoo.images.content import window
from warpzoo.report import panels
from warpzoo.report.planes import Plane, planes_of

PANEL = 2.6  # inches
GAP = 0.3
RESOLUTION = 100


def save_registration_figure(
    path: str | Path,
    moving: Tensor,
    fixed: Tensor,
    warped: Tensor,
    displacement: Tensor,
    title: str = "",
    orientation: str | None = None,
    affine: Tensor | np.ndarray | None = None,
) -> None:
    """Images (*spatial) and displacement (dims, *spatial) in voxels, all on the fixed grid → a picture file.

    `orientation` is "matrix" (an array's first axis downwards; the default in 2-D) or "world" (x to the right, y and z
    upwards; the default for volumes and where there is an `affine`): see `planes_of`.
    """
    moving, fixed, warped = (torch.as_tensor(image).detach() for image in (moving, fixed, warped))
    displacement = torch.as_tensor(displacement).detach()
    planes = planes_of(fixed, affine, orientation)
    draw_registration(path, moving, fixed, warped, displacement, planes, title)


def draw_registration(
    path: str | Path,
    moving: Tensor,
    fixed: Tensor,
    warped: Tensor,
    displacement: Tensor,
    planes: list[Plane],
    title: str,
) -> None:
    """The picture of these planes: one row of six panels for each, or two rows of three if there is only one."""
    columns = 3 if len(planes) == 1 else 6
    scale = PANEL * (1.6 if columns == 3 else 1) / max(max(plane.size) for plane in planes)
    wide = max(plane.size[1] for plane in planes) * scale
    heights = [plane.size[0] * scale for plane in planes for _ in range(6 // columns)]
    width = columns * (wide + GAP) + GAP + 0.5
    height = sum(heights) + GAP * (len(heights) + 0.2) + (0.4 if title else 0)
    figure = Figure(figsize=(width, height), facecolor="white")
    limits = [window(image) for image in (moving, fixed, warped)]
    parts = [panels.volumes(displacement, plane) for plane in planes]
    limit = panels.jacobian_limit(parts)
    if title:
        figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=12, parse_math=False)

    top = height - (0.4 if title else 0)
    for plane, part in zip(planes, parts, strict=True):
        longest = round(max(plane.size) * scale * RESOLUTION)
        images = [
            panels.grey(image, plane, black_and_white, longest)
            for image, black_and_white in zip((moving, fixed, warped), limits, strict=True)
        ]
        shown = {
            "fixed": images[1],
            "moving": images[0],
            "warped": images[2],
            "before (grey: agreement)": panels.overlay(images[0], images[1]),
            "after": panels.overlay(images[2], images[1]),
            "grid, Jacobian determinant": panels.jacobian_picture(part, plane, limit, longest),
        }
        tall = plane.size[0] * scale
        for number, (name, picture) in enumerate(shown.items()):
            row, column = divmod(number, columns)
            left = GAP + column * (wide + GAP) + (wide - plane.size[1] * scale) / 2
            bottom = top - (row + 1) * (tall + GAP)
            box = (left / width, bottom / height, plane.size[1] * scale / width, tall / height)
            ax = figure.add_axes(box)
            ax.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect="auto")
            ax.set_axis_off()
            first = plane is planes[0]
            ax.set_title(name if first else "", fontsize=10, pad=4)
            if number == 0 and plane.name:
                label_sides(ax, plane)
                ax.text(
                    -0.05, 0.5, plane.name, rotation=90, transform=ax.transAxes, ha="right", va="center", fontsize=9
                )
            if number == 5:
                draw_grid(ax, displacement, plane, picture.shape)
                add_colour_bar(
                    figure, ax, limit, ((left + plane.size[1] * scale + 0.08) / width, box[1], 0.1 / width, box[3])
                )
        top -= 6 // columns * (tall + GAP)

    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=RESOLUTION)


def draw_grid(ax: Axes, displacement: Tensor, plane: Plane, picture: tuple[int, ...]) -> None:
    """Where the transform takes the lines of a regular grid of the fixed image (its components in the plane)."""
    zoom = np.array([picture[1] / plane.shape[1], picture[0] / plane.shape[0]])
    for line in panels.grid_lines(displacement, plane, points=60):
        ax.plot(*((line + 0.5) * zoom - 0.5).T, color="black", linewidth=0.5, alpha=0.8)
    ax.set_xlim(-0.5, picture[1] - 0.5)
    ax.set_ylim(picture[0] - 0.5, -0.5)


def label_sides(ax: Axes, plane: Plane) -> None:
    """The body's sides, in small letters inside the picture."""
    for letter, x, y in zip(plane.letters, (0.5, 0.98, 0.5, 0.02), (0.98, 0.5, 0.02, 0.5), strict=False):
        horizontal = {0.02: "left", 0.98: "right"}.get(x, "center")
        vertical = {0.02: "bottom", 0.98: "top"}.get(y, "center")
        ax.text(x, y, letter, transform=ax.transAxes, ha=horizontal, va=vertical, fontsize=8, color="#ffd54a")


def add_colour_bar(figure: Figure, ax: Axes, limit: float, box: tuple[float, float, float, float]) -> None:
    colours = ListedColormap(panels.JACOBIAN_COLOURS(np.linspace(0.08, 0.92, 256)))
    bar = figure.colorbar(ScalarMappable(Normalize(-limit, limit), colours), cax=figure.add_axes(box))
    bar.set_ticks([-limit, 0, limit], labels=[f"{2**value:.2g}" for value in (-limit, 0, limit)], fontsize=8)
    bar.outline.set_visible(False)
