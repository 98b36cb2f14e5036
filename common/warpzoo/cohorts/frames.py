"""Frames of a sequence on the workers of a cluster, as far as none depends on the one before it.

Two things are found ahead, each frame by itself: what a network makes of it that denoises, and the deformation, which
begins where all frames together were placed. The registration then finds them in its folder of what was found and goes
on as without workers; that frames are placed one from the other, and are written, remains with the command's process.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from warpzoo.bundles import absolute_name
from warpzoo.errors import FAILURES, plain_reason
from warpzoo.images.image import Image
from warpzoo.registration.computing import computing
from warpzoo.registration.found import Found, name_of, resting
from warpzoo.registration.frames import FrameMethod
from warpzoo.registration.listing import absolute, paths_of
from warpzoo.registration.network import NetworkMethod
from warpzoo.registration.pair import Method
from warpzoo.registration.preflight import broken_values
from warpzoo.registration.sequence import prepared, sequence_methods
from warpzoo.registration.series import register_series
from warpzoo.registration.series_files import UNFINISHED, InFolder, read_series

if TYPE_CHECKING:
    from warpzoo.cluster import Place

CLEAN = "clean"
"""The folder of denoised frames, among what was found."""


@dataclass(frozen=True)
class Task:
    """What travels: paths and plain values. `command` tells one from another of the same values.

    weights, learnt: files of the network's, as given, and as they were trained on these frames.
    """

    command: str
    files: Mapping[str, Any]
    folder: Path
    settings: Mapping[str, Any]
    strict: bool
    device: str | None
    weights: str | None
    learnt: Path | None = None


class Ahead:
    """What a client's workers find before the command asks for it; made of the options of `warpzoo sequence`."""

    def __init__(
        self,
        client: Any,
        files: Mapping[str, Any],
        folder: Path,
        settings: Mapping[str, Any],
        strict: bool = False,
        threads: int | None = None,
        device: str | None = None,
        weights: str | None = None,
    ) -> None:
        self.client, self.threads = client, threads
        self.store = InFolder(folder / UNFINISHED)
        own = None if weights is None else str(Path(weights).expanduser().absolute())
        chain = ",".join(map(absolute_name, settings["method"].split(",")))
        self.task = Task("", absolute(files), self.store.folder, {**settings, "method": chain}, strict, device, own)

    def check(self) -> None:
        """Ends with one sentence if a worker could not do its part."""
        self._fit(_nothing)

    def clean(self, methods: Sequence[Method], count: int) -> None:
        """Has all frames denoised, if a method does that, and lets it know where they are kept."""
        networks = [method for method in methods if isinstance(method, NetworkMethod)]
        if learnt := [one.weights for one in networks if one.weights.is_relative_to(self.store.folder)]:
            self.task = replace(self.task, learnt=learnt[0])
        if any(network.denoises for network in networks):
            _keep_clean(methods, self.store.folder)
            self._each(_clean_frame, range(count), "Denoising frames")

    def __call__(self, method: FrameMethod, reference: Image, number: int, own: int | None) -> None:
        """Has the frames of a round found which begin where the round before has placed each of them."""
        first = method.series[0]

        def read(of: int, frame: int) -> Found | None:
            return self.store.read(name_of(of, frame), reference, first)

        others = [frame for frame in range(len(method.series)) if frame != own and read(number, frame) is None]
        left = [frame for frame in others if (earlier := read(number - 1, frame)) is not None and not earlier.failed]
        for frame, why in self._each(_find_frame, left, "Deforming frames").items():
            self.store.write(name_of(number, frame), resting(reference, why), reference, first)

    def _each(
        self, function: Callable[[Task, int, Place], str | None], frames: Sequence[int], title: str
    ) -> dict[int, str]:
        """Why the workers of some frames have died; what failed otherwise is left to the command, which says so."""
        from warpzoo.cluster import Died, outcomes

        task, died = replace(self.task, command=secrets.token_hex(4)), dict[int, str]()
        if frames:
            needs = self._fit(partial(_opened, task))
            ended = outcomes(self.client, partial(function, task), frames, needs, self.threads)
            for frame, outcome in tqdm(ended, desc=title, unit="frame", total=len(frames), disable=None):
                if isinstance(outcome, Died):
                    died[frame] = outcome.reason
        return died

    def _fit(self, prepare: Callable[[Place], object]) -> Any:
        from warpzoo.cluster import check_workers

        inputs = {path.parent for role in self.task.files for path in paths_of(self.task.files, role)}
        return check_workers(self.client, self.store.folder, inputs, prepare)


def _nothing(place: Place) -> None:
    """What a worker needs is not known before the network has learnt."""


def _keep_clean(methods: Sequence[Method], folder: Path) -> None:
    for method in methods:
        if isinstance(method, NetworkMethod) and method.denoises:
            method.kept = folder / CLEAN


class _ReachedError(Exception):
    """A round whose frames can be found each by itself."""


@dataclass
class _Opened:
    """On a worker: a sequence and its methods, made once."""

    task: Task
    given: dict[str, Any]
    methods: list[Method]

    @cached_property
    def round(self) -> tuple[FrameMethod, Image, int]:
        """The round that is done ahead, with all before it read from the folder: how a frame is found, what it is
        registered to, the round's number."""
        settings = self.task.settings

        def reached(method: FrameMethod, reference: Image, number: int, _: int | None) -> NoReturn:
            raise _ReachedError(method, reference, number)

        try:
            register_series(
                **self.given,
                methods=self.methods,
                to=settings["to"],
                strict=self.task.strict,
                safe=settings["safe"],
                store=InFolder(self.task.folder),
                consistent=settings["consistent"],
                ahead=reached,
            )
        except _ReachedError as found:
            method, reference, number = found.args
            return method, reference, number
        raise AssertionError("the command has reached it")


_kept: list[_Opened] = []


def _opened(task: Task, place: Place) -> _Opened:
    if not _kept or _kept[0].task != task:
        settings = task.settings
        methods = sequence_methods(
            settings["method"],
            settings["refine"],
            task.weights,
            settings["variant"],
            place.device(task.device),
            resolution=settings["resolution"],
        )
        if task.learnt is not None:
            next(one for one in methods if isinstance(one, NetworkMethod)).weights = task.learnt
        _keep_clean(methods, task.folder)
        given = read_series(task.files, settings["to"], False, settings["time_axis"], settings["channel"])
        prepared(given, methods, settings["roi"], None, None, settings["seed"], task.folder)
        _kept[:] = [_Opened(task, given, methods)]
    return _kept[0]


def _clean_frame(task: Task, frame: int, place: Place) -> str | None:
    """On a worker: denoises a frame, which is kept."""
    try:
        opened = _opened(task, place)
        image = opened.given["series"][frame]
        for method in opened.methods:
            if isinstance(method, NetworkMethod) and method.denoises and not any(broken_values(image)):
                method.denoised(image)
    except FAILURES as error:
        return plain_reason(error)
    return None


def _find_frame(task: Task, frame: int, place: Place) -> str | None:
    """On a worker: finds a frame from where the round before has placed it, and keeps it."""
    try:
        with computing(task.settings["seed"]):
            method, reference, number = _opened(task, place).round
            store, first = InFolder(task.folder), method.series[0]
            earlier = store.read(name_of(number - 1, frame), reference, first)
            assert earlier is not None
            found = method(method.cleaning(reference), frame, [earlier.matrix], None)
            store.write(name_of(number, frame), replace(found, moved=earlier.moved), reference, first)
    except FAILURES as error:
        return plain_reason(error)
    return None
