"""How `python -m monai.bundle` ends when something fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAILING = {
    "file": ({"_target_": "numpy.load", "file": "nowhere.npz"}, "error: nowhere.npz: No such file or directory."),
    "setting": (
        {"_target_": "warpzoo.losses.LNCCLoss", "window": 1},
        "error: window must be a whole number of voxels",
    ),
}


def run(folder: Path, wanted: object, *options: str) -> tuple[int, str]:
    """Exit status and what is written to stderr."""
    config = folder / "config.json"
    first = {"_target_": "warpzoo.errors.end_with_the_reason"}
    config.write_text(json.dumps({"initialize": [first], "wanted": wanted, "run": ["$@wanted"]}))
    command = [sys.executable, *options, "-m", "monai.bundle", "run", "--config_file", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", list(FAILING))
def test_a_failure_is_one_sentence(name: str, tmp_path: Path) -> None:
    wanted, sentence = FAILING[name]
    status, said = run(tmp_path, wanted)
    assert status == 1
    assert sentence in said.splitlines()[-2]
    assert "Traceback" not in said


def test_where_it_happened_is_there_for_those_who_ask(tmp_path: Path) -> None:
    status, said = run(tmp_path, FAILING["setting"][0], "-X", "dev")
    assert status == 1
    assert "Traceback" in said
    assert "window must be a whole number" in said


def test_a_mistake_in_the_program_is_shown_whole(tmp_path: Path) -> None:
    status, said = run(tmp_path, "$1 / 0")
    assert status == 1
    assert "Traceback" in said
    assert "ZeroDivisionError" in said


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    status, said = run(tmp_path, "$__import__('signal').default_int_handler(2, None)")
    assert status != 0
    assert said.splitlines()[-1] == "interrupted; existing output files are complete."


def test_other_programs_keep_their_own_end() -> None:
    program = "import sys; from warpzoo.errors import end_with_the_reason as end; end(); print(sys.excepthook.__name__)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "excepthook"
