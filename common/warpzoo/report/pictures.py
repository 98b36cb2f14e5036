"""The pictures of a page: each an image in the page itself, with its caption and what is drawn over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from warpzoo.images.content import window
from warpzoo.report import panels
from warpzoo.report.planes import Plane

WIDE, NARROW = 720, 448
"""Pixels along the longer side of a picture: one that fills the page, and one beside others."""


class Lines(NamedTuple):
    """An SVG path, which stays sharp at any size, and its view box."""

    path: str
    box: str


@dataclass(frozen=True)
class Figure:
    """`name` lets the page's script find it; `letters` are the body's sides at its top, right, bottom and left."""

    source: str
    ratio: str
    caption: str
    name: str = ""
    letters: str = ""
    lines: Lines | None = None


class ColourBar(NamedTuple):
    """`marked`: what is black in the picture."""

    colours: Sequence[str]
    low: str
    high: str
    marked: str = ""


def image_figures(fixed: Tensor, before: Tensor, warped: Tensor, planes: list[Plane]) -> dict[str, list[Figure]]:
    """Overlays, checkerboards and the images (*spatial) on the fixed grid: a figure for each plane."""
    longest = WIDE if len(planes) == 1 else NARROW
    of_fixed, of_moving = window(fixed), window(before, warped)
    figures: dict[str, list[Figure]] = {}
    for number, plane in enumerate(planes):
        reference = panels.grey(fixed, plane, of_fixed, longest)
        moving, result = (panels.grey(image, plane, of_moving, longest) for image in (before, warped))
        for name, caption, picture in (
            ("overlay_before", "before", panels.overlay(moving, reference)),
            ("overlay", "after", panels.overlay(result, reference)),
            ("checkerboard_before", "before", panels.checkerboard(moving, reference)),
            ("checkerboard", "after", panels.checkerboard(result, reference)),
            ("fixed", "fixed", reference),
            ("before", "moving", moving),
            ("warped", "warped", result),
        ):
            words = ", ".join([caption, *_place(plane)])
            figure = _figure(picture, words, name=f"{name}{number}", letters=plane.letters)
            figures.setdefault(name, []).append(figure)
    return figures


def transform_figures(
    displacement: Tensor, before: Tensor, planes: list[Plane], spacing: list[float], unit: str
) -> tuple[dict[str, list[Figure]], dict[str, ColourBar], tuple[float, float]]:
    """Deformed grid, Jacobian determinant and magnitude; colour bars; the least and greatest determinant shown."""
    parts = [panels.volumes(displacement, plane) for plane in planes]
    limit = panels.jacobian_limit(parts)
    lengths = [panels.magnitude(displacement, plane, spacing) for plane in planes]
    highest = max(float(length.max()) for length in lengths) or 1.0
    low, high = window(before)
    dark = (low, low + 1.6 * (high - low))
    figures: dict[str, list[Figure]] = {"grid": [], "jacobian": [], "magnitude": []}
    for plane, part, length in zip(planes, parts, lengths, strict=True):
        caption = ", ".join(_place(plane))
        ground = panels.grey(before, plane, dark, NARROW)
        determinant = panels.jacobian_picture(part, plane, limit, NARROW)
        figures["grid"].append(_figure(ground, caption, lines=_grid(displacement, plane)))
        figures["jacobian"].append(_figure(determinant, caption))
        figures["magnitude"].append(_figure(panels.magnitude_picture(length, plane, highest, NARROW), caption))
    colours = panels.JACOBIAN_COLOURS(np.linspace(0.08, 0.92, 17)), panels.MAGNITUDE_COLOURS(np.linspace(0, 1, 17))
    of_jacobian, of_magnitude = ([matplotlib.colors.to_hex(colour) for colour in some] for some in colours)
    bars = {
        "jacobian": ColourBar(of_jacobian, f"{2**-limit:.2g}", f"{2**limit:.2g}", "folds"),
        "magnitude": ColourBar(of_magnitude, "0", f"{highest:.3g} {unit}"),
    }
    determinants = torch.cat([part.determinant.flatten() for part in parts])
    return figures, bars, (float(determinants.min()), float(determinants.max()))


def column_widths(planes: list[Plane]) -> str:
    """Of a row of planes, as CSS: all at one scale; a single plane does not fill the page."""
    if len(planes) == 1:
        return "minmax(0, 640px)"
    return " ".join(f"{plane.size[1]:.4g}fr" for plane in planes)


def _figure(picture: np.ndarray, caption: str, name: str = "", letters: str = "", lines: Lines | None = None) -> Figure:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=90, subsampling=0)
    source = f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return Figure(source, f"{picture.shape[1]}/{picture.shape[0]}", caption, name, letters, lines)


def _place(plane: Plane) -> list[str]:
    return [plane.name, f"slice {plane.index + 1}"] if plane.name else []


def _grid(displacement: Tensor, plane: Plane) -> Lines:
    """The deformed grid; coordinates are tenths of a voxel."""
    path = "".join(
        "M" + "L".join(f"{round(10 * x + 5)} {round(10 * y + 5)}" for x, y in line)
        for line in panels.grid_lines(displacement, plane)
    )
    return Lines(path, f"0 0 {10 * plane.shape[1]} {10 * plane.shape[0]}")
