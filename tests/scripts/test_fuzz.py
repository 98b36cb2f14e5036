"""Damaged and hostile files of every format: few cases here, thousands by `python scripts/fuzz.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
CASES = 6


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "fuzz.py"), *options]
    search = os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent / "common")])
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": search})


def test_every_reader_ends_with_a_result_or_one_sentence_that_names_the_file() -> None:
    pytest.importorskip("zarr")
    done = fuzz("--cases", str(CASES), "--seconds", "60")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = re.findall(r"\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| 0 \|", done.stdout)
    assert len(rows) == 18
    assert all(int(files) == int(read) + int(refused) > CASES for _, files, read, refused in rows)
    assert sum(int(read) for _, _, read, _ in rows) > len(rows)


def test_what_breaks_the_contract_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from fuzzing import contract

    def reader(path: Path, _: bool) -> None:
        (path.parent / "left").touch()

    monkeypatch.setitem(contract.READERS, "csv", reader)
    original = tmp_path / "seed" / "a.csv"
    original.parent.mkdir()
    original.write_text("x,y\n1,2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", None)  # a case sets it
    end = contract.run(contract.Case("csv", 0), [original], tmp_path / "case", 0)
    assert (end.kind, end.message, end.kept) == ("left behind", "case/left", False)
    path = tmp_path / "a.csv"
    for error, kind in (
        (ValueError("a.csv must hold finite positions, got NaN."), "refused"),
        (ValueError("it must hold finite positions."), "does not name the file"),
        (ValueError("a.csv:\nline 3."), "no sentence"),
        (ValueError("a.csv takes more memory than there is."), "memory"),
        (KeyError("x"), "KeyError"),
        (AssertionError("not finite"), "unusable"),
    ):

        def failing(*_: object, error: Exception = error) -> None:
            raise error

        assert contract._read(failing, path, False)[0] == kind
