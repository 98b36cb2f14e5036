"""An OME-Zarr denoised by two worker processes: the files of one process, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from scipy import ndimage

from warpzoo.cohorts import stacks
from warpzoo.cohorts.stacks import Workers
from warpzoo.denoising.denoise import LEARNT as LEARNT_FILE
from warpzoo.denoising.denoise import denoise_stack
from warpzoo.denoising.filters import busiest_window
from warpzoo.images.stacks import open_stack

from ..images.test_parts import ome_zarr

LEARNT = {"budget": "3steps", "tile": 32}


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """Five frames; in one corner of two there is nothing, for which zarr writes no chunk."""
    random = np.random.default_rng(0)
    clean = ndimage.gaussian_filter(random.random((5, 70, 90)), (0, 3, 3))
    values = random.poisson(400 * clean).astype(np.uint16)
    values[:2, 32:64, :60] = 0
    return ome_zarr(tmp_path / "noisy.zarr", values, (2, 32, 30), levels=3)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_those_of_one_process(client: Any, noisy: Path, tmp_path: Path) -> None:
    for name, there in (("here", None), ("there", Workers(client, 1))):
        done = denoise_stack(open_stack(noisy), tmp_path / f"{name}.zarr", workers=there, **LEARNT)
        assert done.steps == 3
        assert abs(done.mean_ratio - 1) < 0.05
    assert files_of(tmp_path / "here.zarr") == files_of(tmp_path / "there.zarr")
    finest, *_, coarsest = zarr.open_group(tmp_path / "there.zarr", mode="r").arrays()
    assert coarsest[1][...].mean() == pytest.approx(finest[1][...].mean(), rel=0.02)
    with pytest.raises(ValueError, match="there.zarr is there already"):
        denoise_stack(open_stack(noisy), tmp_path / "there.zarr", workers=Workers(client, 1), **LEARNT)
    assert not (tmp_path / "there.zarr.unfinished").exists()


@pytest.mark.parametrize(
    ("method", "size", "tile"), [("gaussian", 1.3, 24), ("wavelet", None, None)], ids=["in tiles", "whole planes"]
)
def test_filters_channels_and_shards(
    client: Any, tmp_path: Path, method: str, size: float | None, tile: int | None
) -> None:
    values = np.random.default_rng(0).poisson(50, (2, 2, 5, 40, 50)).astype(np.uint8)
    path = ome_zarr(tmp_path / "in.zarr", values, (1, 1, 2, 16, 16), 3, shards=(1, 2, 4, 32, 32))
    stack = open_stack(path, 3, channel=1)
    for name, there in (("here", None), ("there", Workers(client, 1))):
        denoise_stack(stack, tmp_path / f"{name}.zarr", method, size=size, tile=tile, workers=there)
    assert files_of(tmp_path / "here.zarr") == files_of(tmp_path / "there.zarr")
    written = zarr.open_group(tmp_path / "there.zarr", mode="r")["0"][...]
    np.testing.assert_array_equal(written[:, 0], values[:, 0])
    if method == "gaussian":
        expected = [ndimage.gaussian_filter(volume.astype(float), size) for volume in values[:, 1]]
        np.testing.assert_allclose(written[:, 1], expected, atol=0.51)


def test_a_killed_worker_loses_nothing(client: Any, noisy: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "nlm", "size": 1.0, "tile": 32}
    denoise_stack(open_stack(noisy), tmp_path / "here.zarr", **settings)
    log, over = tmp_path / "there.zarr.unfinished" / stacks.DONE, threading.Event()
    victim = next(iter(client.run(os.getpid).values()))

    def kill() -> None:
        while not (log.exists() and log.read_text().count("\n") > 1) and not over.wait(0.01):
            pass
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    denoise_stack(open_stack(noisy), tmp_path / "there.zarr", workers=Workers(client, 1), **settings)
    over.set()
    killer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(victim, 0)
    assert files_of(tmp_path / "here.zarr") == files_of(tmp_path / "there.zarr")


def test_what_failed_is_said_and_the_rest_is_done(
    client: Any, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A chunk that cannot be read fails the parts that see it; what is looked at before is not of it."""
    settings: dict[str, Any] = {"method": "gaussian", "size": 1.3, "tile": 32}
    stack, out, other = open_stack(noisy), tmp_path / "out.zarr", tmp_path / "other.zarr"
    denoise_stack(stack, other, **settings)
    window = busiest_window(stack)
    monkeypatch.setattr("warpzoo.denoising.denoise.preflight", lambda _: [])
    monkeypatch.setattr("warpzoo.denoising.filters.busiest_window", lambda _: window)
    chunk = noisy / "0/2/0/0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=r"4 of 18 parts failed, the first at \[4:5, 0:32, 0:60\]: .*noisy.zarr"):
        denoise_stack(stack, out, workers=Workers(client, 1), **settings)
    assert not out.exists()
    chunk.write_bytes(content)
    kept = files_of(tmp_path / "out.zarr.unfinished" / stacks.IMAGE)
    capsys.readouterr()
    denoise_stack(stack, out, workers=Workers(client, 1), **settings)
    assert "14 of 18 parts are done already." in capsys.readouterr().out
    assert files_of(out) == files_of(other)
    assert kept.items() < files_of(out).items()
    assert not (tmp_path / "out.zarr.unfinished").exists()


def test_a_stopped_command_goes_on(
    client: Any, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if its log ends in the middle of a line; it does not learn again but with other settings."""
    stack, out, folder = open_stack(noisy), tmp_path / "out.zarr", tmp_path / "out.zarr.unfinished"

    def stopping(ended: Any, **_: Any) -> Any:
        yield from islice(ended, 4)
        raise KeyboardInterrupt

    for budget in ("2steps", LEARNT["budget"]):
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(stacks, "tqdm", stopping)
            denoise_stack(stack, out, workers=Workers(client, 1), **{**LEARNT, "budget": budget})
        said = capsys.readouterr()
        assert "stopped after 4 of 18 parts; the same command goes on." in said.err
        assert "done already" not in said.out
    with open(folder / stacks.DONE, "a") as log:
        log.write("17 12.5 12")
    learnt = torch.load(folder / LEARNT_FILE)
    learnt["shift"] += 1  # to be told from what would be learnt again
    torch.save(learnt, folder / LEARNT_FILE)
    denoise_stack(stack, out, workers=Workers(client, 1), **LEARNT)
    assert "4 of 18 parts are done already." in capsys.readouterr().out
    denoise_stack(stack, tmp_path / "here.zarr", **LEARNT)
    brighter = [zarr.open_group(path, mode="r")["0"][...].astype(int) for path in (out, tmp_path / "here.zarr")]
    changed = (brighter[0] != brighter[1]).mean()
    assert 0.5 < changed < 0.9, "14 of 18 parts"


def test_the_command(client: Any, noisy: Path, tmp_path: Path, warpzoo: Callable[..., Any]) -> None:
    address, out = client.scheduler.address, tmp_path / "out.zarr"
    ended = warpzoo("denoise", noisy, "--output", out, "--method", "gaussian", "--size=1.0", "--cluster", address)
    assert ended.code == 0, ended.err
    assert "Dashboard: " in ended.out
    assert "3/3" in ended.err
    values = zarr.open_group(noisy, mode="r")["0"][...].astype(float)
    expected = [ndimage.gaussian_filter(frame, 1.0) for frame in values]
    np.testing.assert_allclose(zarr.open_group(out, mode="r")["0"][...], expected, atol=0.51)


def test_chunks_that_do_not_fit_are_said(
    client: Any, noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    denoise_stack(open_stack(noisy), tmp_path / "out.zarr", "gaussian", size=1.0, tile=20, workers=Workers(client, 1))
    said = capsys.readouterr().out
    assert "warning: tiles of 20 pixels do not fit chunks of 32 × 30: each is denoised 1.8 times. --tile 480" in said


def test_what_cannot_be_written_by_several(
    tmp_path: Path, warpzoo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("noisy.tif", np.random.default_rng(0).integers(0, 99, (40, 40)).astype(np.uint8))
    ended = warpzoo("denoise", "noisy.tif", "--output", "out.tif", "--cluster", "local:2")
    assert ended.code == 1
    assert ended.err.startswith("warpzoo denoise: noisy.tif must be an OME-Zarr (.zarr) to be denoised by a cluster")
    assert len(ended.err.strip().splitlines()) == 1
    assert [*tmp_path.iterdir()] == [tmp_path / "noisy.tif"]


def test_two_commands_do_not_mix(client: Any, noisy: Path, tmp_path: Path) -> None:
    """The lock is the system's: `flock` of util-linux keeps us out."""
    folder = tmp_path / "out.zarr.unfinished"
    folder.mkdir()
    holding = ["flock", folder / ".in_use", "sh", "-c", "echo held; cat"]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is in use by another command"):
            denoise_stack(open_stack(noisy), tmp_path / "out.zarr", "gaussian", size=1.0, workers=Workers(client, 1))
        other.stdin.close()
