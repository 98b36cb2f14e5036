"""The command itself: quick, quiet, and its arguments taken as they are typed."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from fire import docstrings
from PIL import Image

from warpzoo.__main__ import COMMANDS, annotated, in_full, main, reading

QUICK = [["--help"], ["--version"], ["methods"], *([name, "--help"] for name in ("register", "apply", "compare"))]
HEAVY = ("torch", "monai", "nibabel", "itk", "matplotlib")


@pytest.mark.parametrize("arguments", QUICK)
def test_what_needs_no_images_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv[1:] = {arguments}\nfrom warpzoo.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("heavy: []\n")
    assert ended.stderr == ""


def test_a_method_without_a_network_needs_neither_monai_nor_a_compiler(tmp_path: Path) -> None:
    """Each of these takes as long to import as a small pair takes to register."""
    image = np.kron(np.random.default_rng(0).integers(0, 255, (8, 8)), np.ones((8, 8))).astype(np.uint8)
    for name in ("fixed", "moving"):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    arguments = ["register", "fixed.png", "moving.png", "--method", "rigid,svf", "--output", "out"]
    code = (
        f"import sys; sys.argv[1:] = {arguments}\nfrom warpzoo.__main__ import main\nmain()\n"
        "slow = ('monai', 'ignite', 'itk', 'matplotlib', 'scipy.ndimage', 'skimage', 'sympy', 'torch._dynamo')\n"
        "print('slow:', [name for name in slow if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("slow: []\n")
    assert (tmp_path / "out" / "report.html").exists()


def test_help_is_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COMMANDS:
        monkeypatch.setattr(sys, "argv", ["warpzoo", name, "--help"])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == 0
        assert said.err == ""
        assert said.out.startswith(f"NAME\n    warpzoo {name}")
        assert "FIRE" not in said.out
        assert "'str" not in said.out


@pytest.mark.parametrize("name", [*COMMANDS])
def test_help_says_all_of_every_option(name: str) -> None:
    """Fire takes what comes before a colon for another option, or drops what comes after."""
    function = getattr(import_module(COMMANDS[name][0]), name)
    written = inspect.getdoc(function) or ""
    shown = docstrings.parse(inspect.getdoc(annotated(function))).args or []
    described = {one.name: one.description for one in shown}
    assert set(described) <= set(inspect.signature(function).parameters)
    blocks = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", written.partition("Args:")[2], re.MULTILINE)
    assert {name: " ".join(text.split()) for name, text in blocks} == {
        name: " ".join((text or "").split()) for name, text in described.items()
    }


def test_letters_that_the_help_shows_are_taken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every command; fire itself would not know -i of warpzoo sequence, which also has an INPUT, from that."""
    for name, (module, _) in COMMANDS.items():
        monkeypatch.setattr(sys, "argv", ["warpzoo", name, "--help"])
        with pytest.raises(SystemExit):
            main()
        shown = re.findall(r"^ +(-\w), (--\w+)=", capsys.readouterr().out, re.MULTILINE)
        letters = [letter for letter, _ in shown]
        command = annotated(getattr(import_module(module), name))
        for letter, option in shown:
            whole = option if letters.count(letter) == 1 else letter
            assert in_full(command, [letter, "1", f"{letter}=1", "in.tif"]) == [whole, "1", f"{whole}=1", "in.tif"]
    monkeypatch.setattr(sys, "argv", ["warpzoo", "sequence", "none.tif", "-i", "cubic"])
    with pytest.raises(SystemExit, match="none.tif does not exist"):
        main()


def test_an_unknown_command_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["warpzoo", "warp"])
    with pytest.raises(SystemExit, match="has no command 'warp'"):
        main()


def test_arguments_are_read_by_their_types() -> None:
    import fire

    taken = []

    def command(name: str, also: str | None = None, *, count: int = 0, least: float = 0.0, quick: bool = False) -> None:
        taken.append((name, also, count, least, quick))

    asked = reading(annotated(command))
    fire.Fire(asked, ["007", "--also", "a,b", "--count", "3", "--least", "2", "--quick"])
    assert taken == [("007", "a,b", 3, 2.0, True)]
    assert isinstance(taken[0][3], float)
    for wrong in (["x", "--count", "2.5"], ["x", "--least", "low"], ["x", "--quick", "maybe"]):
        with pytest.raises(ValueError, match=wrong[1].strip("-")):
            fire.Fire(asked, wrong)


def test_the_console_script_is_this_function() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"warpzoo": f"{main.__module__}:{main.__name__}"}
