"""What every test shares: one thread and one seed per test, hypothesis' settings, bundles on the path, example data."""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["WARPZOO_FETCHED"] = str(Path(__file__).parent / "none are fetched")

import torch

ROOT = Path(__file__).parents[1]

# The same examples in every run: a red test stays red until it is mended. Timings are no test on a busy machine.
hypothesis.settings.register_profile("warpzoo", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("warpzoo")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (MONAI's transforms draw from it)


@pytest.fixture(autouse=True)
def _same_locale() -> Iterator[None]:
    """GDCM leaves the whole process in the locale "C" when it writes a DICOM file."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def bundle() -> Iterator[Callable[[str], Path]]:
    """`bundle("dirnet")` puts that bundle's root on sys.path until the test ends, and returns it."""
    path, modules = list(sys.path), set(sys.modules)

    def enter(name: str) -> Path:
        root = ROOT / "bundles" / name
        sys.path.insert(0, str(root))
        return root

    yield enter
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        if str(ROOT / "bundles") in (getattr(sys.modules[module], "__file__", None) or ""):
            del sys.modules[module]


@pytest.fixture(scope="session")
def example_data() -> Path:
    """A folder of real images, `../shared/data` beside the checkout or WARPZOO_DATA; skips where there is none."""
    folder = Path(os.environ.get("WARPZOO_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is not there (WARPZOO_DATA names another folder)")
    return folder
