"""A large image denoised by the workers of a cluster: each reads, denoises and writes parts that are whole chunks.

What is done is kept beside the output, in a folder whose name ends in .unfinished: the result so far, what was learnt,
and which parts are done, a line each, so that the same command goes on where one was stopped.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from warpzoo.denoising.denoise import LEARNT
from warpzoo.denoising.filters import Filtering
from warpzoo.denoising.inference import Inference, Opened
from warpzoo.errors import FAILURES, plain_reason
from warpzoo.files import FileError, alone_in
from warpzoo.images.image import open_image
from warpzoo.images.parts import Parts, begin, check_free, check_shared, end, units_of, written_at_once
from warpzoo.images.stacks import Layout, Stack, copy_channels, result_dtype
from warpzoo.record import versions, write_json

if TYPE_CHECKING:
    from warpzoo.cluster import Place

UNFINISHED = ".unfinished"
SETTINGS, IMAGE, DONE = "settings.json", "image.zarr", "done.txt"
WASTEFUL = 1.5
"""How often tiles may be denoised, in the mean, without a warning."""
Sums = tuple[float, float]
"""Of the image's and of the result's values, as far as they are known."""


@dataclass(frozen=True)
class Task:
    """What travels: paths and plain values. `command` tells one from another of the same values."""

    command: str
    path: Path
    layout: Layout
    image: Path
    parts: Parts
    how: Filtering | Inference
    device: str | None

    def stack(self) -> Stack:
        return Stack(open_image(self.path), self.layout)


@dataclass(frozen=True)
class Workers:
    """Those of a `distributed.Client`, each with so many of PyTorch's threads, or as many as it uses."""

    client: Any
    threads: int | None = None

    @contextmanager
    def unfinished(self, stack: Stack, output: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
        """The folder of what is done of an output, which no other command uses meanwhile; empty if it was begun with
        other settings or for another image. Without anything in it that took time it goes with the block.

        Before anything is learnt, it ends with one sentence if a worker could not do its part.
        """
        from warpzoo.cluster import check_workers

        check_shared(stack)
        check_free(output)
        folder = output.with_name(output.name + UNFINISHED)
        about = {
            "warpzoo": versions()["warpzoo"],
            "image": [stack.path.absolute(), stack.path.stat().st_mtime_ns, stack.source.shape, stack.source.details],
            "settings": dict(settings),
        }
        about = json.loads(json.dumps(about, default=str))
        with alone_in(folder):
            if not (folder / SETTINGS).exists() and len([*folder.iterdir()]) > 1:  # beside the lock
                raise FileError(f"{folder} holds other files; choose another output.")
            try:
                same = json.loads((folder / SETTINGS).read_text(encoding="utf-8")) == about
            except (OSError, ValueError):
                same = False
            if not same:
                for name in (LEARNT, DONE):
                    (folder / name).unlink(missing_ok=True)
                write_json(folder / SETTINGS, about)
            try:
                check_workers(self.client, folder, {stack.path.absolute().parent}, _nothing)
                yield folder
            finally:
                learnt, done, image = ((folder / name).exists() for name in (LEARNT, DONE, IMAGE))
                if (done and not image) or not (learnt or done):
                    shutil.rmtree(folder)

    def denoise(
        self,
        stack: Stack,
        folder: Path,
        output: Path,
        how: Filtering | Inference,
        dtype: str | None = None,
        device: str | None = None,
    ) -> float | None:
        """Writes the parts that are left of a result which is `unfinished` in a folder, and gives it its name; returns
        the mean of the result over that of the image, for a network."""
        from warpzoo.cluster import Died, check_workers, outcomes

        tile, alignment = (how.tile, 1) if isinstance(how, Filtering) else how.tile_of(stack)
        parts = Parts(stack.layout, units_of(stack), tile)
        _say_misfit(parts, alignment)
        image, done, failed = folder / IMAGE, _done_of(folder / DONE), dict[int, str]()
        task = Task(secrets.token_hex(4), stack.path.absolute(), stack.layout, image, parts, how, device)
        needs = check_workers(self.client, folder, {task.path.parent}, partial(_opened, task))
        if done:
            print(f"{len(done)} of {len(parts)} parts are done already.")
        else:
            shutil.rmtree(image, ignore_errors=True)
            begin(stack, image, result_dtype(stack, dtype))
        todo = [number for number in range(len(parts)) if number not in done]
        ended = tqdm(
            outcomes(self.client, partial(_denoise_part, task), todo, needs, self.threads),
            desc="Denoising",
            unit="part",
            total=len(parts),
            initial=len(done),
        )
        try:
            with open(folder / DONE, "a", encoding="utf-8") as log:
                for number, outcome in ended:
                    if isinstance(outcome, (str, Died)):
                        failed[number] = outcome if isinstance(outcome, str) else outcome.reason
                        continue
                    done[number] = outcome
                    print(number, *outcome, file=log, flush=True)
        except KeyboardInterrupt:
            print(f"stopped after {len(done)} of {len(parts)} parts; the same command goes on.", file=sys.stderr)
            raise
        if failed:
            number, why = min(failed.items())
            raise ValueError(
                f"{len(failed)} of {len(parts)} parts failed, the first at {parts[number]}: {why} The others are done, "
                f"and the same command goes on from there."
            )
        end(stack, image, output)
        before, after = np.sum(list(done.values()), axis=0)
        return float(after / before) if isinstance(how, Inference) else None


def _nothing(place: Place) -> None:
    """What a worker needs is not known before the network has learnt."""


def _done_of(log: Path) -> dict[int, Sums]:
    """The parts that are done, by number; a line that was not written to its end does not count."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    whole = [line.split() for line in lines if line.endswith("\n")]
    if lines and len(whole) < len(lines):
        log.write_text("".join(lines[: len(whole)]), encoding="utf-8")
    return {int(number): (float(before), float(after)) for number, before, after in whole}


def _say_misfit(parts: Parts, alignment: int) -> None:
    if (times := parts.times()) < WASTEFUL:
        return
    chunk = " × ".join(str(parts.units[axis]) for axis in reversed(parts.layout.spatial))
    better = parts.better_tile(alignment)
    print(
        f"warning: tiles of {parts.tile} pixels do not fit chunks of {chunk}: each is denoised {times:.1f} times."
        + (f" --tile {better} spares that." if better else "")
    )


_kept: list[tuple[Task, Filtering | Opened]] = []
"""Of a worker: the task at hand, with its network loaded."""


def _opened(task: Task, place: Place) -> Filtering | Opened:
    if not _kept or _kept[0][0] != task:
        how = task.how
        made = how if isinstance(how, Filtering) else Opened(how, task.stack(), place.device(task.device))
        _kept[:] = [(task, made)]
    return _kept[0][1]


def _denoise_part(task: Task, number: int, place: Place) -> Sums | str:
    """On a worker: the sums of a part, or why it cannot be denoised."""
    part, stack = task.parts[number], task.stack()
    sums = (0.0, 0.0)
    try:
        with written_at_once(stack, task.image, part) as written:
            copy_channels(stack, written, part.frames, part.window, part.channels)
            if task.layout.channel in part.channels:
                sums = _opened(task, place)(stack, written, part.frames, part.window) or sums
    except FAILURES as error:
        _kept.clear()
        return plain_reason(error)
    return sums
