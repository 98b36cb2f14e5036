"""Checks of a pair before it is registered: each finding names what was seen, its consequence and the way out.

It looks at two images as they were read, before a network runs. Errors are pairs that cannot be registered as they are;
warnings are pairs whose result may be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import torch

from warpzoo.errors import Finding, fatal, warning
from warpzoo.geometry.grid import Grid, voxels_between
from warpzoo.geometry.transforms import Affine, Transform, resample
from warpzoo.images.content import FEW_VALUES, SATURATED, centre_of, outlying, thinned, whole_numbers, window
from warpzoo.images.image import Image
from warpzoo.registration.label_maps import are_labels
from warpzoo.registration.pyramid import coarser, pyramid

LITTLE_OVERLAP = 0.5
FAR_APART = 0.2
"""Distance between the centres of what two images show, over the longest side, above which few networks follow."""
SMALLEST_SIDE = 16
NEARLY_EMPTY = 0.005
CONTENT_RATIO = 10
SPACING_RATIO = 1.5
SIZE_RATIO = 2
RIGHT_ANGLES = 1e-3
"""Cosine between two axes that are at right angles but for rounding."""
LEAST_SIDE = 3
"""Voxels below which a side has no gradient."""
VOXELS_LOOKED_AT = 2**15
"""Of the fixed image, to see whether a start brings the images together."""


def preflight(
    fixed: Image,
    moving: Image,
    expectations: Mapping[str, Any] | None = None,
    placed: bool = False,
    name: str = "this method",
) -> list[Finding]:
    """What is doubtful about a pair; empty if nothing is.

    Args:
        expectations: what the method was made for, each optional: `spatial_dims`; the ranges of its training data,
            `spacing` [finest, coarsest] in millimetres and `size` [shortest, longest side] in voxels; `displacement`,
            how far it can follow, in the world's unit (infinity for methods that find any placement). Other keys,
            which metadata may have for people to read, are left alone.
        placed: whether an earlier transform brings the images together, so that the headers need not.
        name: of the method, to be told from others of a chain.
    """
    known = expectations or {}
    if fixed.grid.dims != moving.grid.dims:
        message = (
            f"{fixed.header.path} is {fixed.grid.dims}-D and {moving.header.path} {moving.grid.dims}-D: "
            f"both images of a pair must have the same number of axes."
        )
        way_out = "Give two images or two volumes; one slice of a volume can be saved as an image of its own."
        if moving.grid.dims > fixed.grid.dims:
            way_out += " If an axis of the moving one is time, say which (--time_axis)."
        return [fatal(message, way_out)]
    dims = known.get("spatial_dims")
    if dims is not None and fixed.grid.dims != dims:
        message = f"{fixed.header.path} is {fixed.grid.dims}-D; {name} takes {dims}-D images only."
        return [fatal(message, f"Choose a method for {fixed.grid.dims}-D images: `warpzoo methods` lists them.")]
    if len(fixed.array) != len(moving.array):
        message = f"{fixed.header.path} has {len(fixed.array)} channels and {moving.header.path} {len(moving.array)}."
        return [fatal(message, "Give images with the same channels, in the same order.")]
    if broken := [finding for image in (fixed, moving) for finding in broken_values(image)]:
        return broken
    if thin := [finding for image in (fixed, moving) for finding in too_thin(image)]:
        return thin
    findings = [finding for image in (fixed, moving) for finding in of_header(image)] + [*world_units(fixed, moving)]
    findings += sheared(fixed)
    if not are_labels(fixed, moving):
        findings += [finding for image in (fixed, moving) for finding in of_values(image, known)]
        findings += content(fixed, moving)
        if (mixed := looks_like_labels(fixed)) and looks_like_labels(moving):
            way_out = "warpzoo register takes label maps as fixed_labels and moving_labels, without fixed and moving."
            findings.append(warning(mixed[0].message, way_out))
    return findings if placed else [*findings, *placement(fixed, moving, known.get("displacement"))]


def check_start(start: Transform, fixed: Image, moving: Image) -> None:
    """That what is known already is of the images' dimensions, loses none of them, and brings the images together."""
    if start.grid.dims != fixed.grid.dims:
        raise ValueError(f"start must be {fixed.grid.dims}-D as the images are, got a {start.grid.dims}-D transform.")
    if isinstance(start, Affine):
        try:
            start.inverse()
        except ValueError as error:
            raise ValueError("start must be invertible: the initial transform takes all points to a plane.") from error
    grid = coarser(fixed.grid, pyramid(fixed.grid, VOXELS_LOOKED_AT)[-1])
    everywhere = torch.ones(1, 1, *moving.grid.shape, dtype=torch.uint8)
    if not bool(resample(everywhere, moving.grid, start, grid, mode="nearest").any()):
        raise ValueError(
            f"start must bring the images together: under the initial transform {fixed.header.path} lies nowhere in "
            f"{moving.header.path}."
        )


def broken_values(image: Image) -> Iterator[Finding]:
    """Values that no registration can do anything with."""
    path, array = image.header.path, image.array
    if bad := int((~array.isfinite()).sum()):
        yield fatal(
            f"{path} has {bad} voxels that are NaN or infinite: every number computed from it would be one too.",
            "Replace them by the background's value in the program that made the file, or leave them out by a mask of "
            "the pair.",
        )
    elif bool(array.amin() == array.amax()):
        yield fatal(
            f"{path} has the same value, {float(array.amax()) + 0.0:g}, everywhere: there is nothing to align.",
            "Look at the file in a viewer; it may be an empty export or the wrong channel.",
        )


def too_thin(image: Image) -> Iterator[Finding]:
    """A side along which nothing can be told."""
    if min(image.grid.shape) < LEAST_SIDE:
        yield fatal(
            f"{image.header.path} has {' × '.join(map(str, image.grid.shape))} voxels: each side must have "
            f"{LEAST_SIDE} or more.",
            "A slice of a volume can be saved as an image of its own, and registered in 2-D.",
        )


def of_header(image: Image) -> Iterator[Finding]:
    """What the reader found doubtful: no orientation, or two that differ."""
    for doubt in image.header.warnings:
        yield warning(
            f"{doubt} If that is wrong, left and right or the axes may be swapped.",
            "Check in the report that both images lie the same way, and repair the header if they do not.",
        )


def sheared(image: Image) -> Iterator[Finding]:
    """Axes that other programs refuse in what is written on the image's grid."""
    axes = image.grid.affine[:-1, :-1] / np.array(image.grid.spacing)
    if not np.allclose(axes.T @ axes, np.eye(image.grid.dims), atol=RIGHT_ANGLES):
        yield warning(
            f"{image.header.path} has axes that are not at right angles: ITK, and programs that are built on it, "
            "refuse images on such a grid, so also the warped one; transform.h5 is right for them.",
            "Resample the fixed image to a grid with axes at right angles first.",
        )


def of_values(image: Image, known: Mapping[str, Any]) -> Iterator[Finding]:
    path, grid, dtype = image.header.path, image.grid, np.dtype(image.header.dtype)
    size = " × ".join(map(str, grid.shape))
    if dtype.kind in "iu":
        highest = int(np.iinfo(dtype).max)
        share = float((thinned(image.array, 500_000) >= highest).float().mean())
        if share > SATURATED:
            yield warning(
                f"{path} has {100 * share:.1f} % of its voxels at {highest}, the most its {8 * dtype.itemsize}-bit "
                f"values can be: bright parts are cut off, and what lies in them is not aligned.",
                "Export the original again with more bits or a wider window, if there is one.",
            )
    if far := outlying(image.array):
        yield warning(
            f"{path} has values of up to {far[0]:g}, nearly all below {far[1]:g}: beside the few largest all others "
            "look the same.",
            "Clip the image to what belongs in it, or leave the few out by a mask of the pair.",
        )
    if min(grid.shape) < SMALLEST_SIDE:
        yield warning(
            f"{path} is tiny, {size} voxels: along its shortest side there is too little to tell a displacement.",
            "Resample it to more voxels, or register its slices one by one as 2-D images.",
        )
    if "size" in known:
        low, high = known["size"]
        if min(grid.shape) * SIZE_RATIO < low or max(grid.shape) > high * SIZE_RATIO:
            yield warning(
                f"{path} has {size} voxels; the method was trained on sides of {low} to {high}: structures look "
                f"larger or smaller to it than any it has seen, and it may miss them.",
                "Resample both images to about that many voxels, or refine on the pair (--refine 100).",
            )
    if "spacing" in known and not image.header.pixels:
        low, high = known["spacing"]
        if min(grid.spacing) * SPACING_RATIO < low or max(grid.spacing) > high * SPACING_RATIO:
            spacing = " × ".join(f"{side:.3g}" for side in grid.spacing)
            yield warning(
                f"{path} has a spacing of {spacing} mm; the method was trained on {low:g} to {high:g} mm: its "
                f"result may be much worse than what is reported for it.",
                "Resample both images to that spacing, refine on the pair (--refine 100), or train the method on such "
                "data.",
            )


def world_units(fixed: Image, moving: Image) -> Iterator[Finding]:
    if fixed.header.pixels != moving.header.pixels:
        with_pixels, other = (fixed, moving) if fixed.header.pixels else (moving, fixed)
        yield warning(
            f"{with_pixels.header.path} has no physical spacing, {other.header.path} has: 1 pixel of the one is "
            f"treated as 1 mm of the other.",
            "Convert both to one kind of file with the right spacing, such as NIfTI.",
        )


def content(fixed: Image, moving: Image) -> Iterator[Finding]:
    """Whether both images show something, and about as much."""
    extents = []
    for image in (fixed, moving):
        share = shown_share(image)
        if share < NEARLY_EMPTY:
            yield warning(
                f"{image.header.path} is nearly empty: {100 * share:.2g} % of its voxels stand out from the "
                f"background, so few points say where anything is.",
                "Look at the file in a viewer; crop it to what it shows, or take away outliers that hide the rest.",
            )
            return
        extents.append(share * prod(image.grid.shape) * prod(image.grid.spacing))
    if max(extents) > CONTENT_RATIO * min(extents):
        more, less = (fixed, moving) if extents[0] > extents[1] else (moving, fixed)
        yield warning(
            f"{more.header.path} shows {max(extents) / min(extents):.0f} times as much as {less.header.path} (by "
            f"what stands out from the background): they may not show the same thing, or one spacing is wrong.",
            "Check both files and their spacing; crop the larger one to what both show.",
        )


def shown_share(image: Image) -> float:
    """Share of voxels brighter than the background: a tenth of the way from the darkest to all but the brightest."""
    low, high = window(image.array[0], highest=99.95)
    return float((thinned(image.array, 500_000) > low + 0.1 * (high - low)).float().mean())


def placement(fixed: Image, moving: Image, reach: float | None) -> Iterator[Finding]:
    """Whether the headers put the images where they meet, near enough for the method to find."""
    covered = max(coverage(fixed.grid, moving.grid), coverage(moving.grid, fixed.grid))
    distance = float(np.linalg.norm(centre_in_world(fixed) - centre_in_world(moving)))
    longest = max(size * side for size, side in zip(fixed.grid.shape, fixed.grid.spacing, strict=True))
    limit = FAR_APART * longest if reach is None else reach
    unit = "pixels" if fixed.header.pixels else "mm"
    names = f"{fixed.header.path} and {moving.header.path}"
    if distance <= limit and (covered >= LITTLE_OVERLAP or limit == float("inf")):
        return
    if covered == 0:
        yield fatal(
            f"{names} do not overlap: their headers put them in different places of the world, {distance:.0f} "
            f"{unit} apart, and the moving image seen from the fixed one is empty.",
            "Align them roughly first, as the method `affine` before it does, or repair the origin in a header.",
        )
    elif covered < LITTLE_OVERLAP:
        yield warning(
            f"{names} overlap little: {100 * coverage(fixed.grid, moving.grid):.0f} % of the fixed image's field "
            f"of view is covered by the moving one, and only there can anything be aligned.",
            "Align them roughly first, repair the origin in a header, or crop both to what they share.",
        )
    else:
        yield warning(
            f"{names} show things whose centres lie {distance:.0f} {unit} apart; the method follows displacements of "
            f"about {limit:.0f} {unit} and may align the wrong structures.",
            "Align them roughly first: the method `affine` before it finds large displacements.",
        )


def coverage(grid: Grid, other: Grid) -> float:
    """Share of a grid's field of view that lies inside another's, by a lattice of 32 (2-D: 128) points a side."""
    count = 128 if grid.dims == 2 else 32
    steps = [np.linspace(-0.5, size - 0.5, 2 * count + 1)[1::2] for size in grid.shape]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, grid.dims)
    matrix = voxels_between(grid, other)
    there = points @ matrix[:-1, :-1].T + matrix[:-1, -1]
    return float(((there >= -0.5) & (there <= np.array(other.shape) - 0.5)).all(axis=1).mean())


def centre_in_world(image: Image) -> np.ndarray:
    """The centre of mass of what the image shows, in the world."""
    centre = torch.tensor([centre_of(image.array[0])], dtype=torch.float64)
    return image.grid.to_world(centre)[0].numpy()


def looks_like_labels(image: Image) -> list[Finding]:
    """That an image to be interpolated has as few values as a label map."""
    count = whole_numbers(image.array, image.header.dtype)
    if are_labels(image) or not 0 < count <= FEW_VALUES:
        return []
    message = f"{image.header.path} has whole numbers, {count} of them; interpolated as an image, labels mix."
    return [warning(message, "Give label maps as also_labels (--also_labels).")]
