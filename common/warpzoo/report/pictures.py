"""The pictures of a page: each an image in the page itself, with its caption and what is drawn over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from warpzoo.files import whole_file
from warpzoo.images.content import window
from warpzoo.report import panels
from warpzoo.report.colours import BLUE_TO_RED, VIRIDIS
from warpzoo.report.planes import Plane

WIDE, NARROW = 720, 448
"""Pixels along the longer side of a picture, at most: one that fills the page, and one beside others."""
THUMBNAIL = "thumbnail.jpg"
SMALL = 100
"""Pixels along the longer side of each of its two halves."""


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
    most = WIDE if len(planes) == 1 else NARROW
    of_fixed, of_moving = window(fixed), window(before, warped)
    figures: dict[str, list[Figure]] = {}
    for number, plane in enumerate(planes):
        longest = longest_side(plane, most)
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
            words = ", ".join([caption, *place_of(plane)])
            figure = figure_of(picture, words, name=f"{name}{number}", letters=plane.letters)
            figures.setdefault(name, []).append(figure)
    return figures


def write_thumbnail(path: Path, fixed: Tensor, before: Tensor, warped: Tensor, plane: Plane) -> None:
    """The overlays before and after, side by side, of one plane of images (*spatial) on the fixed grid."""
    of_fixed, of_moving = window(fixed), window(before, warped)
    reference = panels.grey(fixed, plane, of_fixed, SMALL)
    halves = [panels.overlay(panels.grey(image, plane, of_moving, SMALL), reference) for image in (before, warped)]
    gap = np.full((len(reference), 4, 3), 127, np.uint8)
    with whole_file(path) as unfinished:
        Image.fromarray(np.concatenate([halves[0], gap, halves[1]], axis=1)).save(unfinished, "JPEG", quality=85)


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
        caption = ", ".join(place_of(plane))
        longest = longest_side(plane, NARROW)
        ground = panels.grey(before, plane, dark, longest)
        determinant = panels.jacobian_picture(part, plane, limit, longest)
        figures["grid"].append(figure_of(ground, caption, lines=_grid(displacement, plane)))
        figures["jacobian"].append(figure_of(determinant, caption))
        figures["magnitude"].append(figure_of(panels.magnitude_picture(length, plane, highest, longest), caption))
    bars = {
        "jacobian": ColourBar(BLUE_TO_RED.names(*panels.JACOBIAN_PART), f"{2**-limit:.2g}", f"{2**limit:.2g}", "folds"),
        "magnitude": ColourBar(VIRIDIS.names(), "0", f"{highest:.3g} {unit}"),
    }
    determinants = torch.cat([part.determinant.flatten() for part in parts])
    return figures, bars, (float(determinants.min()), float(determinants.max()))


def disagreement_figures(disagreement: Tensor, planes: list[Plane], unit: str) -> tuple[list[Figure], ColourBar]:
    """A map (*spatial) in the unit, black where nothing is known, and its colour bar, which ends at the 99th
    percentile."""
    parts = [plane.of(disagreement).float().cpu().numpy() for plane in planes]
    highest = max(
        [float(np.quantile(known, 0.99)) for part in parts if len(known := part[np.isfinite(part)])], default=1
    )
    figures = []
    for plane, part in zip(planes, parts, strict=True):
        coloured = panels.magnitude_picture(np.nan_to_num(part), plane, highest, longest_side(plane, NARROW))
        unknown = panels.resized(np.isnan(part).astype(np.uint8), coloured.shape[:2]) > 0
        coloured = np.where(unknown[..., None], 0, coloured).astype(np.uint8)
        figures.append(figure_of(coloured, ", ".join(place_of(plane))))
    marked = "unknown" if any(np.isnan(part).any() for part in parts) else ""
    return figures, ColourBar(VIRIDIS.names(), "0", f"{highest:.3g} {unit}", marked)


def longest_side(plane: Plane, most: int) -> int:
    """Pixels of the longer side: the plane's own, which browsers enlarge smoothly; few of them are enlarged here, so
    that each can be seen."""
    own = round(max(plane.size) / min(plane.spacing))
    return own if most / 4 < own < most else most


def column_widths(planes: list[Plane]) -> str:
    """Of a row of planes, as CSS: all at one scale; a single plane does not fill the page."""
    if len(planes) == 1:
        return "minmax(0, 640px)"
    return " ".join(f"{plane.size[1]:.4g}fr" for plane in planes)


def figure_of(
    picture: np.ndarray, caption: str, name: str = "", letters: str = "", lines: Lines | None = None
) -> Figure:
    """A picture (rows, columns[, 3]) uint8 in the page itself."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=92, subsampling=0)
    source = f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return Figure(source, f"{picture.shape[1]}/{picture.shape[0]}", caption, name, letters, lines)


def place_of(plane: Plane) -> list[str]:
    """The plane and its slice in words; nothing in 2-D."""
    return [plane.name, f"slice {plane.index + 1}"] if plane.name else []


def _grid(displacement: Tensor, plane: Plane) -> Lines:
    """The deformed grid; coordinates are tenths of a voxel."""
    tenths = [(10 * line + 5).round().astype(int).tolist() for line in panels.grid_lines(displacement, plane)]
    path = "".join("M" + "L".join(f"{x} {y}" for x, y in line) for line in tenths)
    return Lines(path, f"0 0 {10 * plane.shape[1]} {10 * plane.shape[0]}")
