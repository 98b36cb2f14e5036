"""Images looked through before a training: what each file holds, what is done to it, and what cannot be trained on.

Every image is read once, as the training reads it; what was seen of a file is remembered until the file changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from tqdm import tqdm

from warpzoo.checks import check_spacing
from warpzoo.errors import FAILURES, plain_reason
from warpzoo.geometry.grid import Grid
from warpzoo.images.content import FEW_VALUES, outlying, whole_numbers
from warpzoo.images.image import Image, by
from warpzoo.images.orientation import SAME_SPACING, canonical_grid
from warpzoo.training.lists import Record
from warpzoo.training.reading import images_of

TILTED = 1.0
"""Degrees from the axes of the world above which an image is called oblique."""
LEAST = 4
"""Voxels along an axis that an image must keep when it is resampled."""
NAMED = 3
"""How many images a sentence names."""
MOST_VALUES = 12
"""Of label maps, that a sentence names."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one image.

    size: voxels, along RAS axes if it has a place in the world.
    spacing: millimetres between them; None in pixels.
    orientation: of the axes as they are stored, such as LPS; empty in pixels.
    tilt: the largest angle of an axis from that of the world, in degrees.
    dtype, low, high: of its values.
    middle: of the voxels in the world, in millimetres; empty in pixels.
    labels: the values of its label map but 0; None without one.
    digest: SHA-256 of the values in this order of axes, of the label map too, and of the spacing.
    problem: why it cannot be trained on, a sentence; empty if it can.
    doubt: what may be wrong with it.
    """

    name: str
    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None
    orientation: str = ""
    tilt: float = 0.0
    dtype: str = ""
    low: float = 0.0
    high: float = 0.0
    middle: tuple[float, ...] = ()
    labels: tuple[int, ...] | None = None
    digest: str = ""
    problem: str = ""
    doubt: str = ""

    def at_spacing(self, spacing: float | Sequence[float] | None) -> tuple[int, ...]:
        """Its size once it is resampled."""
        if spacing is None or self.spacing is None or np.allclose(self.spacing, spacing, rtol=SAME_SPACING, atol=0):
            return self.size
        return Grid(self.size, np.diag([*self.spacing, 1.0])).with_spacing(spacing).shape


def inspect_images(records: Sequence[Record], dims: int | None = None) -> list[Seen]:
    """What is seen of each image; of another number of axes than `dims`, or than most have, is a problem."""
    seen = [
        _inspected(record) for record in tqdm(records, desc="Looking through", unit="image", disable=None, leave=False)
    ]
    counts = Counter(len(one.size) for one in seen if not one.problem)
    usual = dims or (counts.most_common(1)[0][0] if counts else 0)
    others = "all images of a training must be" if dims else "most of the others are"
    return [
        one
        if one.problem or len(one.size) == usual
        else _with_problem(one, f"{one.name} is {len(one.size)}-D; {others} {usual}-D.")
        for one in seen
    ]


def _with_problem(seen: Seen, problem: str) -> Seen:
    return Seen(**{**vars(seen), "problem": problem})


def _inspected(record: Record) -> Seen:
    paths = [record.get("image"), record.get("label")]
    if any(isinstance(one, np.ndarray) for one in paths):
        return _look(record)
    try:
        changed = tuple(Path(one).stat().st_mtime_ns for one in paths if one is not None)
    except OSError:
        changed = ()
    return _look_at_files(record["id"], *paths, changed)


@lru_cache(maxsize=100_000)
def _look_at_files(name: str, image: Path, label: Path | None, changed: tuple[int, ...]) -> Seen:
    return _look({"id": name, "image": image, "label": label})


def _look(record: Record) -> Seen:
    try:
        images = images_of(record)
        image = images["image"]
        seen = _described(record["id"], image, images)
    except FAILURES as error:
        return Seen(record["id"], problem=plain_reason(error))
    name = record["id"]
    if not bool(image.array.isfinite().all()):
        return _with_problem(seen, f"{name} must hold finite numbers, got NaN or infinite values.")
    if seen.low == seen.high:
        return _with_problem(seen, f"{name} is constant ({seen.low:g}); nothing can be registered to it.")
    return seen


def _described(name: str, image: Image, images: dict[str, Image]) -> Seen:
    pixels = image.header.pixels
    grid = image.grid if pixels else canonical_grid(image.grid)
    digest = sha256(repr((grid.shape, None if pixels else np.round(grid.spacing, 6).tolist())).encode())
    for one in images.values():
        array = one.array[0].numpy()
        if not pixels:
            array = nibabel.apply_orientation(array, nibabel.io_orientation(one.grid.affine))
        digest.update(np.ascontiguousarray(array).tobytes())
    kind = image.header.dtype
    count = whole_numbers(image.array, kind)
    doubt = f"{name} has {count} different whole numbers: is it a label map?" if 1 < count <= FEW_VALUES else ""
    if far := outlying(image.array):
        doubt = f"{name} has values up to {far[0]:.4g}, where nearly all are below {far[1]:.4g}: are they errors?"
    return Seen(
        name,
        grid.shape,
        None if pixels else tuple(grid.spacing),
        "" if pixels else "".join(nibabel.aff2axcodes(image.grid.affine)),
        0.0 if pixels else tilt_of(grid),
        str(kind),
        float(image.array.min()),
        float(image.array.max()),
        () if pixels else tuple(grid.centre.tolist()),
        values_of(images["label"]) if "label" in images else None,
        digest.hexdigest(),
        doubt=doubt,
    )


def values_of(labels: Image) -> tuple[int, ...]:
    """The values of a label map but 0."""
    return tuple(value for value in labels.array.unique().tolist() if value)


def tilt_of(grid: Grid) -> float:
    """The largest angle, in degrees, of an axis of a grid in RAS order from that of the world."""
    axes = grid.affine[:-1, :-1]
    return float(np.degrees(np.arccos(np.clip(np.diag(axes / np.linalg.norm(axes, axis=0)), -1, 1)).max()))


def refuse_broken(seen: Sequence[Seen], way_out: str = "Repair what cannot be used, or leave it out.") -> None:
    """One sentence about all that cannot be trained on, if there is any."""
    broken = [one for one in seen if one.problem]
    if len(broken) == 1:
        raise ValueError(f"{broken[0].problem} {way_out}")
    if broken:
        names = ", ".join(one.name for one in broken[:NAMED]) + (", …" if len(broken) > NAMED else "")
        raise ValueError(
            f"{len(broken)} of {len(seen)} images cannot be trained on: {names} ({broken[0].problem.rstrip('.')}). "
            f"{way_out}"
        )


def refuse_sizes(seen: Sequence[Seen], spacing: Any, way_out: str) -> None:
    """That images which nothing brings to one size have one."""
    sizes = Counter(one.at_spacing(spacing) for one in seen)
    if len(sizes) > 1:
        (usual, _), *_ = sizes.most_common(1)
        other = next(one for one in seen if one.at_spacing(spacing) != usual)
        raise ValueError(
            f"images must have one size, got {by(other.at_spacing(spacing))} for {other.name} and {by(usual)} for most "
            f"of the others; {way_out}"
        )


def check_grid(seen: Sequence[Seen], size: Sequence[int] | None, spacing: float | Sequence[float] | None) -> None:
    """That a size and a spacing are for images of that many axes, and leave something of each."""
    for one in seen:
        if one.problem:
            continue
        dims = len(one.size)
        if size is not None and len(size) != dims:
            raise ValueError(f"size must be {dims} numbers, one for each axis of the images, got {by(size)}.")
        if spacing is None:
            continue
        check_spacing("spacing", spacing, dims)
        left = one.at_spacing(spacing)
        if any(now < min(LEAST, before) for now, before in zip(left, one.size, strict=True)):
            raise ValueError(
                f"spacing must leave {LEAST} voxels or more along each axis, got {by(left)} of {one.name} "
                f"({by(one.size)}) at {by_numbers(np.ravel(spacing))} mm."
            )


def what_is_done(
    seen: Sequence[Seen], size: Sequence[int] | None, spacing: float | Sequence[float] | None
) -> Iterator[str]:
    """Sentences about the grid that images are trained on, and what they are put through to come onto it."""
    good = [one for one in seen if not one.problem]
    placed = [one for one in good if one.spacing is not None]
    if not good:
        return
    sides = tuple(size) if size is not None else good[0].at_spacing(spacing)
    shape = by(sides)
    if size is None and len(found := {one.at_spacing(spacing) for one in good}) > 1:
        shape = f"{by(min(found))} to {by(max(found))}"
    if placed:
        usual = np.broadcast_to(np.asarray(spacing or placed[0].spacing, dtype=float), len(placed[0].size))
        axes = "RAS"[: len(placed[0].size)]
        yield f"working grid: {shape} voxels of {by_numbers(usual)} mm, axes {axes}"
        turned = Counter(one.orientation for one in placed if one.orientation != axes)
        if turned:
            stored = ", ".join(f"{count} {name}" for name, count in turned.most_common())
            yield (
                f"turned: {turned.total()} of {len(good)} images, stored as {stored}, come in the order of {axes} axes"
            )
        oblique = [one for one in placed if one.tilt > TILTED]
        if oblique:
            most = max(oblique, key=lambda one: one.tilt)
            yield (
                f"oblique: {len(oblique)} of {len(good)} images, by up to {most.tilt:.0f}° ({most.name}), keep their "
                f"own axes, which are taken for the nearest of {axes}: images of other angles are turned to each other"
            )
        resampled = [one for one in placed if not np.allclose(one.spacing or usual, usual, rtol=SAME_SPACING, atol=0)]
        if resampled:
            spacings = Counter(by_numbers(one.spacing or ()) for one in resampled)
            from_ = ", ".join(f"{count} of {name} mm" for name, count in spacings.most_common(NAMED))
            yield f"resampled: {len(resampled)} of {len(good)} images ({from_}), linearly"
        middles = np.array([one.middle for one in placed])
        away = np.linalg.norm(middles - middles.mean(0), axis=1)
        if away.max() > max(usual):
            yield (
                f"placed: middle onto middle, whatever their headers say; by these the middles lie up to "
                f"{away.max():.0f} mm from their mean ({placed[int(away.argmax())].name})"
            )
    else:
        yield f"working grid: {shape} pixels"
    if size is not None:
        yield from _fitted(good, sides, spacing)
    if labelled := [one for one in good if one.labels is not None]:
        values = sorted({value for one in labelled for value in one.labels or ()})
        shown = ", ".join(map(str, values[:MOST_VALUES])) + (", …" if len(values) > MOST_VALUES else "")
        yield f"labels: of {len(labelled)} of {len(good)} images, with the values {shown or '0 alone'}"


def _fitted(seen: Sequence[Seen], sides: tuple[int, ...], spacing: float | Sequence[float] | None) -> Iterator[str]:
    sizes = {one.name: one.at_spacing(spacing) for one in seen}
    kept = {name: prod(map(min, size, sides)) for name, size in sizes.items()}
    lost = {name: 1 - kept[name] / prod(size) for name, size in sizes.items() if kept[name] < prod(size)}
    added = {name: 1 - kept[name] / prod(sides) for name in sizes if kept[name] < prod(sides)}
    for what, shares, of in (
        ("cropped", lost, "their voxels are cut off"),
        ("padded", added, "the grid repeats their edge"),
    ):
        if shares:
            worst = max(shares, key=shares.__getitem__)
            mean = sum(shares.values()) / len(shares)
            yield (
                f"{what}: {len(shares)} of {len(seen)} images; {100 * mean:.1f} % of {of} in the mean, "
                f"{100 * shares[worst]:.1f} % in {worst} ({by(sizes[worst])})"
            )


def duplicates(seen: Sequence[Seen], validation: Sequence[str] = ()) -> Iterator[str]:
    """Sentences about images that are there more than once; `validation` names those that are held out."""
    same: dict[str, list[str]] = {}
    for one in seen:
        if not one.problem:
            same.setdefault(one.digest, []).append(one.name)
    held = set(validation)
    for names in same.values():
        if len(names) > 1:
            across = held.intersection(names) and set(names) - held
            where = "; it is in training and validation, which then tells less than it seems" if across else ""
            yield f"the same image {len(names)} times: {', '.join(names[:NAMED])}{where}"


def doubts(seen: Sequence[Seen], validation: Sequence[str] = ()) -> Iterator[str]:
    """Sentences about what may be wrong; `validation` names the images that are held out."""
    yield from duplicates(seen, validation)
    good = [one for one in seen if not one.problem]
    if empty := [one.name for one in good if one.labels == ()]:
        yield f"{len(empty)} of {len(good)} label maps are 0 everywhere, such as that of {empty[0]}"
    in_pixels = [one.name for one in good if one.spacing is None]
    if 0 < len(in_pixels) < len(good):
        yield (
            f"{len(in_pixels)} of {len(good)} images have no spacing, such as {in_pixels[0]}: their pixels are taken "
            f"to be as wide as those of the working grid"
        )
    yield from (one.doubt for one in seen if one.doubt)


def table(seen: Sequence[Seen]) -> str:
    """One line for each image, and its problem below it."""
    rows = [("image", "size", "spacing/mm", "axes", "type", "values")]
    for one in seen:
        values = f"{one.low:.4g} … {one.high:.4g}" if one.size else ""
        spacing = by_numbers(one.spacing) if one.spacing else ""
        rows.append((one.name, by(one.size), spacing, one.orientation, one.dtype, values))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for number in reversed(range(len(seen))):
        if seen[number].problem:
            lines.insert(number + 2, f"    cannot be used: {seen[number].problem}")
    return "\n".join(lines)


def by_numbers(sides: Sequence[float] | np.ndarray) -> str:
    """Lengths in words: 1 × 1 × 2.5."""
    return " × ".join(f"{side:.4g}" for side in sides)
