"""The house: which rooms may import which, and that nothing in the package names a bundle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "common" / "warpzoo"
STOREYS = [
    {"checks", "errors", "files", "record"},
    {"geometry"},
    {"losses", "metrics", "networks", "data"},
    {"images"},
    {"transforms"},
    {"bundles", "report"},
    {"training"},
    {"denoising", "registration"},
    {"commands"},
]
"""From the ground up: a room imports its own and those below it, not those beside it (but the ground floor's)."""
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports, also inside functions and for types alone."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "warpzoo":
            parts = node.module.split(".")[1:2]
            rooms |= set(parts) if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("warpzoo.")}
    return rooms


def test_every_room_has_its_storey() -> None:
    rooms = {room_of(path) for path in FILES}
    assert rooms == set().union(*STOREYS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_imports_upwards(path: Path) -> None:
    room = room_of(path)
    storey = next(number for number, rooms in enumerate(STOREYS) if room in rooms)
    allowed = {room}.union(*STOREYS[:storey], STOREYS[0] if storey == 0 else set())
    if room in ("metrics", "losses", "networks", "data"):
        allowed -= {"data"}
    assert imported(path) <= allowed, f"{path.relative_to(PACKAGE)} imports {sorted(imported(path) - allowed)}"


def test_no_file_names_a_bundle() -> None:
    names = [path.name for path in (ROOT / "bundles").iterdir() if path.is_dir()]
    assert len(names) > 3
    for path in FILES:
        strings = [
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) == 1
        ]
        assert not set(names) & set(strings), path
