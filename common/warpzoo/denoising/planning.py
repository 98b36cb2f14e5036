"""What a denoiser's training on one's own images is started with, and the images looked through before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from warpzoo.bundles import Bundle
from warpzoo.bundles.overrides import check_overrides
from warpzoo.denoising.patches import held_out
from warpzoo.denoising.preflight import preflight
from warpzoo.errors import FAILURES, plain_reason
from warpzoo.images.stacks import ZARR, open_stack
from warpzoo.training.inspection import NAMED, Seen, duplicates, refuse_broken
from warpzoo.training.lists import images_in_folder
from warpzoo.training.planning import Plan

HELD_OUT = 0.2
"""Share of several images that is held out to validate on."""
SEVERAL = 5


def plan_denoising(
    bundle: Bundle,
    data: str | Path,
    output: str | Path,
    variants: Sequence[str] = (),
    skip: bool = False,
    given: Mapping[str, Any] | None = None,
    seen: Sequence[Seen] | None = None,
) -> Plan:
    """What a denoiser is trained with on a noisy image, or on all images below a folder; with `skip`, without those
    that cannot be used. `given` are settings that are the user's choice, `seen` is what was seen of the images."""
    given = dict(given or {})
    dims = int(given.get("spatial_dims", bundle.spatial_dims))
    variants = list(dict.fromkeys([*bundle.variants_for(dims), *variants]))
    check_overrides(bundle.settings("train", variants), given)
    seen = seen or inspect_stacks(data, dims, given.get("channel"), given.get("time_axis"))
    settings: dict[str, Any] = {"images": str(Path(data).absolute()), "output_dir": str(Path(output).absolute())}
    notes = []
    broken = [one.name for one in seen if one.problem]
    if broken and skip:
        settings["without"] = broken
        notes.append(f"left out: {len(broken)} of {len(seen)} images: {', '.join(broken)}")
    else:
        refuse_broken(seen, "Repair what cannot be used, or leave it out (--skip).")
    good = [one for one in seen if not one.problem]
    if not good:
        raise ValueError(f"{data} must have images that can be trained on, got none.")
    notes += doubts_in_short(seen)
    if len(good) >= SEVERAL:
        settings["hold_out"] = HELD_OUT
    count = held_out(len(good), (settings | given).get("hold_out", 0))
    where = f"{count} of {len(good)} images are held out" if count else "on other places of the same images"
    notes.append(f"validation: {where}")
    return Plan(bundle, variants, settings | given, notes)


def doubts_in_short(seen: Sequence[Seen]) -> list[str]:
    """What may be wrong with the images, of so many that it can still be read; those that are there twice."""
    same = [f"warning: {one}" for one in duplicates(seen)]
    doubtful = [one for one in seen if one.doubt]
    more = len(doubtful) - NAMED
    return [*same, *(f"warning: {one.doubt}" for one in doubtful[:NAMED])] + (
        [f"warning: {more} more of {len(seen)} images give rise to doubts, such as {doubtful[NAMED].name}"]
        if more > 0
        else []
    )


def inspect_stacks(
    data: str | Path, dims: int = 2, channel: int | None = None, time_axis: int | None = None
) -> list[Seen]:
    """What is seen of each noisy image of a file or a folder."""
    path = Path(data)
    folder = path.is_dir() and not path.name.lower().endswith(ZARR)
    paths = [record["image"] for record in images_in_folder(path)] if folder else [path]
    return [_look(one, str(one.relative_to(path)) if folder else one.name, dims, channel, time_axis) for one in paths]


def _look(path: Path, name: str, dims: int, channel: int | None, time_axis: int | None) -> Seen:
    try:
        stack = open_stack(path, dims, channel, time_axis)
        middle = tuple(slice(max(0, size // 2 - 256), min(size, size // 2 + 256)) for size in stack.shape[1:])
        values = stack.read(stack.shape[0] // 2, middle)
        findings = preflight(stack)
    except FAILURES as error:
        return Seen(name, problem=plain_reason(error))
    fatal = [str(one) for one in findings if one.severity == "error"]
    return Seen(
        name,
        stack.shape,
        dtype=str(stack.dtype),
        low=float(values.min()),
        high=float(values.max()),
        digest=sha256(repr(stack.shape).encode() + np.ascontiguousarray(values).tobytes()).hexdigest(),
        problem=" ".join(fatal),
        doubt="" if fatal else " ".join(map(str, findings)),
    )
