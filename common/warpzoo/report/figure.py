"""One picture of a registration: the images, their overlays before and after, the deformed grid on the Jacobian map;
and one of an image that was denoised.

They are what training shows after an epoch, and the overview (`report.png`) beside the page of a registration. They are
put together from arrays: a figure of matplotlib would take half a second.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from warpzoo.files import whole_file
from warpzoo.images.content import window
from warpzoo.report import panels
from warpzoo.report.colours import BLUE_TO_RED, font
from warpzoo.report.planes import Plane, planes_of

PANEL = 260
"""Pixels of a panel's longer side; more where a single plane has room."""
GAP = 30
MARGIN = 46
"""On the right, for the labels of the colour bar."""
TITLE = 40
SHARPER = 4
"""Lines are drawn this much larger and shrunk, so that they are smooth."""


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
    scale = PANEL * (1.2 if columns == 3 else 1) / max(max(plane.size) for plane in planes)
    sizes = [panels.fitted(plane, round(max(plane.size) * scale)) for plane in planes]
    wide, rows = max(size[1] for size in sizes), 6 // columns
    height = (TITLE if title else 0) + sum(rows * (tall + GAP) for tall, _ in sizes) + GAP // 5
    canvas = Image.new("RGB", (columns * (wide + GAP) + GAP + MARGIN, height), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((canvas.width / 2, TITLE / 2), title, "black", font(17), anchor="mm")

    limits = [window(image) for image in (moving, fixed, warped)]
    parts = [panels.volumes(displacement, plane) for plane in planes]
    limit = panels.jacobian_limit(parts)
    top = TITLE if title else 0
    for plane, part, (tall, broad) in zip(planes, parts, sizes, strict=True):
        longest = max(tall, broad)
        before, reference, after = (
            panels.grey(image, plane, black_and_white, longest)
            for image, black_and_white in zip((moving, fixed, warped), limits, strict=True)
        )
        shown = {
            "fixed": reference,
            "moving": before,
            "warped": after,
            "before (grey: agreement)": panels.overlay(before, reference),
            "after": panels.overlay(after, reference),
            "grid, Jacobian determinant": panels.jacobian_picture(part, plane, limit, longest),
        }
        for number, (name, picture) in enumerate(shown.items()):
            row, column = divmod(number, columns)
            left = GAP + column * (wide + GAP) + (wide - broad) // 2
            upper = top + row * (tall + GAP) + GAP
            canvas.paste(Image.fromarray(picture), (left, upper))
            if plane is planes[0]:
                draw.text((left + broad / 2, upper - 6), name, "black", font(14), anchor="ms")
            if number == 0:
                draw_sides(draw, plane, (left, upper, left + broad, upper + tall))
                draw_name(canvas, plane.name, (left - 5, upper + tall // 2))
            if number == 5:
                draw_grid(canvas, displacement, plane, (left, upper), (tall, broad))
                draw_colour_bar(canvas, limit, (left + broad + 8, upper), tall)
        top += rows * (tall + GAP)

    with whole_file(path) as unfinished:
        canvas.save(unfinished, compress_level=1)


def save_denoising_figure(path: str | Path, noisy: Tensor, denoised: Tensor) -> None:
    """An image (rows, columns), the same denoised, in the same grey, and what was taken away → a picture file."""
    noisy, denoised = noisy.detach().float().cpu(), denoised.detach().float().cpu()
    (plane,) = planes_of(noisy, orientation="matrix")
    longest, limits = round(1.5 * PANEL), window(noisy)
    tall, broad = panels.fitted(plane, longest)
    canvas = Image.new("RGB", (3 * (broad + GAP) + GAP, tall + GAP + GAP // 5), "white")
    draw, removed = ImageDraw.Draw(canvas), noisy - denoised
    shown = {"noisy": (noisy, limits), "denoised": (denoised, limits), "taken away": (removed, window(removed))}
    for number, (name, (image, black_and_white)) in enumerate(shown.items()):
        left = GAP + number * (broad + GAP)
        canvas.paste(Image.fromarray(panels.grey(image, plane, black_and_white, longest)), (left, GAP))
        draw.text((left + broad / 2, GAP - 6), name, "black", font(14), anchor="ms")
    with whole_file(path) as unfinished:
        canvas.save(unfinished, compress_level=1)


def draw_grid(
    canvas: Image.Image, displacement: Tensor, plane: Plane, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """Where the transform takes the lines of a regular grid of the fixed image (its components in the plane)."""
    ink = Image.new("L", (SHARPER * size[1], SHARPER * size[0]))
    draw, zoom = ImageDraw.Draw(ink), SHARPER * np.array([size[1] / plane.shape[1], size[0] / plane.shape[0]])
    for line in panels.grid_lines(displacement, plane, points=60):
        points = ((line + 0.5) * zoom).clip(-ink.width, 2 * max(ink.size))
        draw.line(points.ravel().tolist(), fill=210, width=3)
    canvas.paste("black", corner, ink.reduce(SHARPER))


def draw_sides(draw: ImageDraw.ImageDraw, plane: Plane, box: tuple[int, int, int, int]) -> None:
    """The body's sides, in small letters inside the picture."""
    left, upper, right, lower = box
    middle = ((left + right) / 2, (upper + lower) / 2)
    places = ((middle[0], upper + 4), (right - 4, middle[1]), (middle[0], lower - 4), (left + 4, middle[1]))
    for letter, place, anchor in zip(plane.letters, places, ("ma", "rm", "md", "lm"), strict=False):
        draw.text(place, letter, "#ffd54a", font(11), anchor, stroke_width=1, stroke_fill="black")


def draw_name(canvas: Image.Image, name: str, place: tuple[int, int]) -> None:
    """Upwards, with the middle of its right edge at the place."""
    if name:
        *_, right, lower = font(12).getbbox(name)
        ink = Image.new("L", (round(right), round(lower) + 2))
        ImageDraw.Draw(ink).text((0, 0), name, 255, font(12))
        ink = ink.transpose(Image.Transpose.ROTATE_90)
        canvas.paste("black", (place[0] - ink.width, place[1] - ink.height // 2), ink)


def draw_colour_bar(canvas: Image.Image, limit: float, corner: tuple[int, int], tall: int) -> None:
    low, high = panels.JACOBIAN_PART
    colours = BLUE_TO_RED(np.linspace(high, low, tall))[:, None]
    canvas.paste(Image.fromarray(colours.repeat(10, axis=1)), corner)
    draw, (left, upper) = ImageDraw.Draw(canvas), corner
    for value, height in ((limit, 0), (0, tall // 2), (-limit, tall - 1)):
        draw.line((left + 10, upper + height, left + 13, upper + height), "black")
        draw.text((left + 17, upper + height), f"{2**value:.2g}", "black", font(11), "lm")
