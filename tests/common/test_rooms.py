"""The house: which rooms may import which, and that nothing in the package names a bundle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "common" / "warpzoo"
STOREYS = [
    {"checks", "durations", "errors", "files", "record"},
    {"geometry"},
    {"losses", "metrics", "networks", "data"},
    {"images"},
    {"transforms"},
    {"bundles", "report"},
    {"training", "classical", "cluster"},
    {"denoising", "registration", "sharing"},
    {"cohorts", "deployment"},
    {"commands"},
]
"""From the ground up: a room imports its own and those below it, not those beside it (but the ground floor's)."""
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
)
"""The package itself and the command may name every room: that is what they are for."""
BUNDLES = [path.name for path in (ROOT / "bundles").iterdir() if path.is_dir()]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source: str, package: list[str]) -> set[str]:
    """The rooms that a module of that package imports: anywhere in it, for types alone, and by name at run time.

    Every string that is a dotted name below warpzoo counts, and every relative one given to a call.
    """
    names: list[list[str]] = []

    def add(name: str) -> None:
        level = len(name) - len(name.lstrip("."))
        here = package[: len(package) + 1 - level] if level else []
        names.append([*here, *name[level:].split(".")])

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                add(f"{base}.{alias.name}" if node.module else base + alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "warpzoo":
            add(f"warpzoo.{node.attr}")
        elif isinstance(node, ast.Constant) and re.fullmatch(r"warpzoo\.[\w.:]*", str(node.value)):
            add(node.value.replace(":", "."))
        elif isinstance(node, ast.Call):
            for one in [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "name")]:
                if isinstance(one, ast.Constant) and re.fullmatch(r"\.+[A-Za-z_][\w.]*", str(one.value)):
                    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    if "import" in called:
                        add(one.value)
    return {name[1] for name in names if name[0] == "warpzoo" and len(name) > 1 and not name[1].startswith("__")}


def bundles_named(source: str, python: bool = True) -> set[str]:
    """The bundles whose name, or whose package's, is a word of the text or of a string that is made in it."""
    texts = [source]
    if python:
        texts += [str(node.value) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    words = rf"(?<![A-Za-z0-9])({'|'.join(map(re.escape, BUNDLES))})(?![A-Za-z0-9])"
    return {found.lower() for text in texts for found in re.findall(words, text, re.IGNORECASE)}


def test_every_room_has_its_storey() -> None:
    rooms = {room_of(path) for path in FILES}
    assert rooms == set().union(*STOREYS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_imports_upwards(path: Path) -> None:
    room = room_of(path)
    storey = next(number for number, rooms in enumerate(STOREYS) if room in rooms)
    allowed = {room}.union(*STOREYS[:storey], STOREYS[0] if storey == 0 else set())
    if room in ("metrics", "losses", "networks"):
        allowed -= {"data"}
    rooms = imported(path.read_text(encoding="utf-8"), ["warpzoo", *path.relative_to(PACKAGE).parent.parts])
    assert rooms <= allowed, f"{path.relative_to(PACKAGE)} imports {sorted(rooms - allowed)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_dask_is_imported_for_a_cluster_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = {node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))}
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if {name.partition(".")[0] for name in names} & {"dask", "distributed", "dask_jobqueue"}:
            assert room_of(path) == "cluster"
            assert node not in at_once, "inside a function"


def test_no_file_names_a_bundle() -> None:
    assert len(BUNDLES) > 3
    for path in (ROOT / "common").rglob("*"):
        if ".egg-info" not in path.parent.suffix and path.suffix in (".py", ".html", ".json", ".toml", ".md", ".txt"):
            assert not bundles_named(path.read_text(encoding="utf-8"), path.suffix == ".py"), path


@pytest.mark.parametrize(
    "source",
    [
        "import warpzoo.registration",
        "import warpzoo.registration.pair as pair",
        "import warpzoo\ndef late(): return warpzoo.registration.pair",
        "from warpzoo import registration",
        "from warpzoo.registration import pair",
        "from .. import registration",
        "from ..registration import pair",
        "from ..registration.pair import register_pair",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..registration.pair import Method",
        "def late():\n    from warpzoo.registration.pair import register_pair",
        "from importlib import import_module\nimport_module('warpzoo.registration.pair')",
        "from importlib import import_module as load\nload('warpzoo.registration')",
        "import importlib\nimportlib.import_module('..registration.pair', __package__)",
        "import importlib\nimportlib.import_module(name='..registration', package=__package__)",
        "__import__('warpzoo.registration.pair')",
        "__import__('warpzoo.' 'registration')",
        "HOMES = {'register': 'warpzoo.registration.interface'}",
        "ENTRY = 'warpzoo.registration.interface:register'",
    ],
)
def test_no_import_escapes_the_check(source: str) -> None:
    assert imported(source, ["warpzoo", "denoising"]) == {"registration"}


def test_other_imports_are_no_upward_ones() -> None:
    source = "from . import tiles\nfrom .tiles import Tile\nimport torch\n'see warpzoo.'\nwarpzoo.__file__"
    assert imported(source, ["warpzoo", "denoising"]) == {"denoising"}
    assert imported("'..registration'.split('.')\nf'{1}.x'", ["warpzoo", "denoising"]) == set()
    assert imported("from warpzoo.errors import Finding", ["warpzoo"]) == {"errors"}


@pytest.mark.parametrize(
    "source",
    [
        "from dirnet.network import DIRNet",
        "import dirnet",
        "from importlib import import_module\nimport_module('dirnet.network')",
        "path = 'models/dirnet.pt'",
        "name = 'dirnet'",
        "name = 'dir' 'net'",
        "text = f'{1} of dirnet'",
        '"""the bundle dirnet is special"""',
        "x = 1  # as DIRNet does",
        "def dirnet(): pass",
        "dirnet_weights = 1",
    ],
)
def test_no_name_of_a_bundle_escapes_the_check(source: str) -> None:
    assert bundles_named(source) == {"dirnet"}


def test_other_words_name_no_bundle() -> None:
    assert not bundles_named("from warpzoo.networks import Padirnets\n'blindspot', 'psf', 'voxelmorph', 'dense'")
