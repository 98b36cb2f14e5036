"""What registering a frame of a series gave, and where that is kept.

Convention: matrices are those of the world, from the reference to the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from warpzoo.geometry.composition import identity
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Transform
from warpzoo.images.image import Image


@dataclass(frozen=True)
class Found:
    """What registering a frame gave.

    load: gives the transform, which a store may have on disk.
    matrix: the affine part of the transform, at its end, in the world.
    likeness: of the reference and the frame by it, see `warpzoo.registration.likeness`.
    failed: why the frame could not be registered; empty if it was.
    findings: what is doubtful about it.
    moved: that its neighbours placed it, far from where it was found itself; empty if they did not.
    resolution: as of a `Registration`.
    """

    load: Callable[[], Transform]
    matrix: np.ndarray
    likeness: float = 0.0
    failed: str = ""
    findings: tuple[str, ...] = ()
    moved: str = ""
    seconds: float = 0.0
    resolution: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def transform(self) -> Transform:
        return self.load()


class Store(Protocol):
    """Where what was found is kept, by name; `fixed` and `moving` are the images that the transform lies between."""

    def read(self, name: str, fixed: Image, moving: Image) -> Found | None: ...

    def write(self, name: str, found: Found, fixed: Image, moving: Image) -> None: ...


class InMemory(dict[str, Found]):
    """A store for as long as the program runs."""

    def read(self, name: str, fixed: Image, moving: Image) -> Found | None:
        return self.get(name)

    def write(self, name: str, found: Found, fixed: Image, moving: Image) -> None:
        self[name] = found


def resting(reference: Image, failed: str = "") -> Found:
    """The identity: of the frame that is the reference itself, and of one that failed, for that reason."""
    return Found(lambda: identity(reference.grid), np.eye(reference.grid.dims + 1), failed=failed)


def name_of(number: int, frame: int) -> str:
    """What is found of a frame is kept as, in the given round."""
    return f"{number}/frame_{frame:04d}"


def placed(matrix: np.ndarray, grid: Grid) -> Affine:
    """A matrix of the world as a transform, with the reference's grid."""
    return Affine.from_world(torch.from_numpy(matrix[None, :-1]), grid)


def matrix_alone(matrix: np.ndarray, grid: Grid) -> Found:
    """A matrix of the world as what was found."""
    return Found(lambda: placed(matrix, grid), matrix)
