"""The contract of readers, and one case of it: a damaged file is read, or refused in one sentence that names it.

No other end: no other exception, no crash, no waiting, no file left behind, no memory beyond what the file can hold.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fuzzing.catalogue import HOSTILE
from fuzzing.mutations import REPLACED, damage, replace
from warpzoo.denoising.psf import make_psf
from warpzoo.images.image import Image, read_image
from warpzoo.images.stacks import open_stack
from warpzoo.networks.weights import load_weights
from warpzoo.registration.listing import list_pairs
from warpzoo.training.lists import list_images
from warpzoo.transforms import read_points, read_transform

HELD = 64
"""Megabytes; none of the real files needs that many."""
LONGEST = 1000
"""Characters that a sentence may have."""


class Case(NamedTuple):
    """`name` is what stands in the file's place or a hostile file's name; without one the file is damaged by chance."""

    format: str
    number: int
    name: str = ""


class End(NamedTuple):
    """`kind` is "read", "refused" or what breaks the contract; `what` is what was done to the file."""

    kind: str
    what: str
    message: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def kept(self) -> bool:
        return self.kind in ("read", "refused")


def named_cases(name: str) -> list[Case]:
    names = [*REPLACED, *HOSTILE.get(name, {})]
    return [Case(name, number, case) for number, case in enumerate(names)]


def _image(path: Path, labels: bool) -> None:
    for image in (read_image(path, labels=labels), read_image(path, flat=False)):
        _check_place(image)
    stack = open_stack(path)
    stack.read(0, tuple(slice(0, min(5, side)) for side in stack.shape[1:]))


def _check_place(image: Image) -> None:
    assert np.isfinite(image.grid.affine).all(), "the place of the image is not finite"
    assert min(image.grid.spacing) > 0, "the spacing is not positive"
    assert np.isfinite(np.linalg.inv(image.grid.affine)).all(), "the place of the image cannot be inverted"


def _transform(path: Path, _: bool) -> None:
    read = read_transform(path)
    points = torch.zeros(2, read.grid.dims, dtype=torch.float64)
    assert read.world(points).isfinite().all(), "the transform is not finite"


def _landmarks(path: Path, _: bool) -> None:
    assert read_points(path).points.isfinite().all(), "landmarks are not finite"


def _weights(path: Path, _: bool) -> None:
    network = torch.nn.Linear(4, 3)
    load_weights(path, network)
    assert all(one.isfinite().all() for one in network.parameters()), "weights are not finite"


def _list(path: Path, _: bool) -> None:
    list_pairs(path) if path.name == "pairs.csv" else list_images(path)


IMAGES = ("nifti", "metaimage", "nrrd", "picture", "tiff", "ome_xml", "zarr", "dicom")
READERS: dict[str, Callable[[Path, bool], Any]] = {
    **dict.fromkeys(IMAGES, _image),
    **dict.fromkeys(("displacement", "tfm", "h5", "mat"), _transform),
    **dict.fromkeys(("csv", "fcsv", "mrk_json"), _landmarks),
    "weights": _weights,
    "lists": _list,
    "psf": lambda path, _: make_psf(2, measured=str(path)),
}


def run(case: Case, seeds: list[Path], folder: Path, seed: int) -> End:
    """One case in a folder that is made for it and removed afterwards."""
    chance = random.Random(f"{seed}/{case.format}/{case.number}/{case.name}")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "temporary").mkdir(parents=True)
    tempfile.tempdir = str(folder / "temporary")
    os.chdir(folder)
    path, what = _prepared(case, seeds, folder, chance)
    before = _files(folder)
    Path("/proc/self/clear_refs").write_text("5")
    held, begun = _peak(), time.perf_counter()
    try:
        kind, message = _read(READERS[case.format], path, chance.random() < 0.3)
    finally:
        seconds, megabytes = time.perf_counter() - begun, _peak() - held
    if kind == "memory" and ("packed to" in what or (not case.name and megabytes < HELD)):
        kind = "refused"  # the file does hold that much, or a library asked in vain and nothing was held
    left = sorted(_files(folder) ^ before)
    if left:
        kind, message = "left behind", ", ".join(left)
    return End(kind, what, message, seconds, megabytes)


def _prepared(case: Case, seeds: list[Path], folder: Path, chance: random.Random) -> tuple[Path, str]:
    if case.name in HOSTILE.get(case.format, {}):
        (folder / "case").mkdir()
        return HOSTILE[case.format][case.name](folder / "case"), case.name
    original = chance.choice(seeds)
    shutil.copytree(original.parent, folder / "case")
    path = folder / "case" / original.name
    if case.name:
        replace(path, case.name)
        return path, f"{path.name} is {case.name}"
    return path, damage(chance, path)


def _read(reader: Callable[[Path, bool], Any], path: Path, labels: bool) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(path, labels)
    except AssertionError as error:
        return "unusable", str(error)
    except ValueError as error:
        return _verdict(str(error), path), str(error)
    except Exception as error:
        return f"{type(error).__name__}", str(error)
    return "read", ""


def _verdict(message: str, path: Path) -> str:
    if path.name not in message:
        return "does not name the file"
    if not message.isprintable() or len(message) > LONGEST or not message.endswith("."):
        return "no sentence"
    return "memory" if re.search("more memory than there is|than fit into memory", message) else "refused"


def _files(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*")}


def _peak() -> float:
    """Megabytes of memory held at most since it was last cleared."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
