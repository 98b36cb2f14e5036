"""The script that starts a real Slurm: what it says where it cannot, and the whole of it where that is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def slurm_here(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import slurm_here

    return slurm_here


def test_without_root_one_sentence_says_so(
    slurm_here: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["slurm_here.py"])
    with pytest.raises(SystemExit) as end:
        slurm_here.main()
    assert end.value.code == slurm_here.LEFT_OUT
    assert capsys.readouterr().out.splitlines()[-1] == (
        "left out: Slurm's daemons must be started by root, who this is not."
    )


@pytest.mark.skipif("WARPZOO_SLURM" not in os.environ, reason="takes minutes and installs packages: WARPZOO_SLURM=1")
def test_jobs_of_slurm_write_the_files_of_one_process(slurm_here: ModuleType) -> None:
    done = subprocess.run([sys.executable, slurm_here.__file__], capture_output=True, text=True, check=False)
    if done.returncode == slurm_here.LEFT_OUT:
        pytest.skip(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same files byte for byte") == 2
