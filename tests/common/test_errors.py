"""How `python -m monai.bundle` ends when something fails."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from ignite.engine import Engine

from warpzoo import errors

SETTING = {"_target_": "warpzoo.losses.LNCCLoss", "window": 1}
FAILING = {
    "file": {"_target_": "numpy.load", "file": "nowhere.npz"},
    "setting": SETTING,
    "mistake": "$1 / 0",
    "interrupted": "$__import__('signal').default_int_handler(2, None)",
}
SEVERAL = """
import json, os, runpy, sys
import monai.bundle
for path in sys.argv[1:]:
    if not os.fork():
        os.dup2(os.open(path + ".said", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = ["monai.bundle", "run", "--config_file", path]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    open(path + ".status", "w").write(str(status))
"""
"""Each command in a process of its own, which ends as Python ends it; MONAI is imported once."""


def written(folder: Path, name: str, wanted: object) -> Path:
    config = folder / f"{name}.json"
    first = {"_target_": "warpzoo.errors.end_with_the_reason"}
    config.write_text(json.dumps({"initialize": [first], "wanted": wanted, "run": ["$@wanted"]}))
    return config


def test_a_failure_is_one_sentence_and_a_mistake_in_the_program_is_shown_whole(tmp_path: Path) -> None:
    configs = [str(written(tmp_path, *one)) for one in FAILING.items()]
    subprocess.run([sys.executable, "-c", SEVERAL, *configs], cwd=tmp_path, check=True)
    said = {name: (tmp_path / f"{name}.json.said").read_text() for name in FAILING}
    status = {name: int((tmp_path / f"{name}.json.status").read_text()) for name in FAILING}
    assert "error: nowhere.npz: No such file or directory." in said["file"].splitlines()[-2]
    assert "error: window must be a whole number of voxels" in said["setting"].splitlines()[-2]
    for name in ("file", "setting"):
        assert "Traceback" not in said[name]
        assert status[name] == 1
    assert "Traceback" in said["mistake"]
    assert "ZeroDivisionError" in said["mistake"]
    assert status["mistake"] == 1
    assert said["interrupted"].splitlines()[-1] == "interrupted; existing output files are complete."
    assert status["interrupted"] != 0


def test_where_it_happened_is_there_for_those_who_ask(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "dev", "-m", "monai.bundle", "run", "--config_file"]
    done = subprocess.run(
        [*command, written(tmp_path, "setting", SETTING)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "window must be a whole number" in done.stderr


def test_other_programs_keep_their_own_end() -> None:
    program = "import sys; from warpzoo.errors import end_with_the_reason as end; end(); print(sys.excepthook.__name__)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "excepthook"


def test_what_ends_an_engine_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    last = logging.Handler(logging.WARNING)  # where logs are not configured, they come to this one
    monkeypatch.setattr(logging, "lastResort", last)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(errors, "is_monai_command", lambda: True)
    errors.end_with_the_reason()

    def fail(*_: object) -> None:
        raise ValueError("only once")

    with pytest.raises(ValueError, match="only once"):
        Engine(fail).run([0], max_epochs=1)
    logged = [record for record in caplog.records if "only once" in record.getMessage()]
    assert logged
    assert not [record for record in logged if last.filter(record)]
    logging.getLogger("ignite").warning("news")
    assert last.filter(caplog.records[-1])
