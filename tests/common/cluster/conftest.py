"""One cluster of two worker processes for all tests that need no other, and images for them to register."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from warpzoo.cluster import connected

from ..registration.conftest import make_bundle, save, smooth, warpzoo  # noqa: F401 (fixtures)


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    with connected("local:2") as client:
        yield client


@pytest.fixture
def by_value() -> Iterator[Callable[[str], None]]:
    """Functions of a test's module travel as code: workers cannot import it."""
    modules = []

    def register(name: str) -> None:
        modules.append(sys.modules[name])
        cloudpickle.register_pickle_by_value(sys.modules[name])

    yield register
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / f"{n}.nii.gz", smooth((24, 20), n).astype(np.float32)) for n in range(3)]


def rows_of(images: list[Path], count: int) -> list[dict[str, Path]]:
    return [{"fixed": images[n % 3], "moving": images[(n + 1) % 3]} for n in range(count)]
