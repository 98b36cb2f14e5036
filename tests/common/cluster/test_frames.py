"""Frames of a sequence on two worker processes: the results of one process, of which they find what depends on no other
frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warpzoo.cohorts.frames import Ahead

from ..images.test_parts import ome_zarr
from ..registration.test_sequence import denoiser, drifting  # noqa: F401 (a fixture)

SETTINGS = ("--noreport", "--threads=1", "--refine=3", "--save=warped,transform")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """What workers are asked to do."""
    seen: dict[str, list[int]] = {}
    each = Ahead._each

    def recorded(self: Ahead, function: Any, frames: Any, title: str) -> Any:
        seen[title] = [*frames]
        died = each(self, function, frames, title)
        assert not died
        return died

    monkeypatch.setattr(Ahead, "_each", recorded)
    return seen


def results(folder: Path) -> dict[str, bytes]:
    """All files, but the one with times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "metrics.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_results_are_those_of_one_process(
    client: Any,
    tmp_path: Path,
    warpzoo: Callable[..., Any],
    denoiser: str,  # noqa: F811
    asked: dict[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a network that denoises and a deformation; one frame shows nothing and is flagged."""
    frames = drifting(count=5, noise=100.0)
    frames[3] = 7
    path = ome_zarr(tmp_path / "cells.zarr", frames, (1, 64, 72))
    method = f"--method={tmp_path / 'bundles of mine' / denoiser},demons"
    lines = []
    for name, cluster in (("here", ()), ("there", ("--cluster", client.scheduler.address))):
        ended = warpzoo("sequence", path, "--output", tmp_path / name, method, *SETTINGS, *cluster)
        assert ended.code == 0, ended.err
        lines.append(ended.out.strip().splitlines()[-1].partition(":")[2])
    assert lines[0] == lines[1]
    assert asked == {"Denoising frames": [0, 1, 2, 3, 4], "Deforming frames": [1, 2, 4]}
    here, there = (results(tmp_path / name) for name in ("here", "there"))
    assert "registered.ome.zarr/0/4/0/0" in here
    assert [*here] == [*there]
    assert [name for name in here if here[name] != there[name]] == []
    assert not (tmp_path / "there/unfinished").exists()


def test_matrices_alone_are_found_by_the_command(
    client: Any, tmp_path: Path, warpzoo: Callable[..., Any], asked: dict[str, list[int]]
) -> None:
    path = ome_zarr(tmp_path / "cells.zarr", drifting(count=3), (1, 64, 72))
    arguments = ("sequence", path, "--method=affine", "--cluster", client.scheduler.address, *SETTINGS)
    ended = warpzoo(*arguments, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert asked == {}
