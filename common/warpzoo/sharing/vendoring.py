"""A bundle's own copy of this package, with which it runs where this is not installed, and what it uses of it."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import warpzoo

PACKAGE = Path(warpzoo.__file__).resolve().parent
NAME = PACKAGE.name
PULLS = {"torch.utils.tensorboard": "tensorboard"}
"""Parts of a package that need another one."""

IMPORTS = ["$import inspect", "$import os", "$import sys", "$from monai.bundle import ConfigWorkflow"]
PATH = (
    "$sys.path.insert(1, os.path.abspath(next((one.config_root_path.parent for one in "
    "(frame.frame.f_locals.get('self') for frame in inspect.stack(0)) if isinstance(one, ConfigWorkflow)), "
    "@bundle_root)))"
)
"""MONAI puts a bundle's folder on the path in `run` only, after `initialize`; this does at the first component. Where
a workflow reads the configuration, as in `monai.bundle.load`, that knows the folder, else `bundle_root` has to say."""


def is_released(root: Path) -> bool:
    """Whether a bundle has a copy of this package."""
    return (root / NAME / "__init__.py").is_file()


def copy_package(root: Path) -> None:
    """Puts this package beside the bundle's own, whole: Python has one of a name, so of several bundles in one process
    the first one's serves all.

    Its configurations then find both from any working directory.
    """
    shutil.copytree(PACKAGE, root / NAME, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for path in configurations(root):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "imports" in content:
            content["imports"] = [*(one for one in content["imports"] if NAME not in one), *IMPORTS]
            content["packages"] = PATH
        _require(content)
        path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def configurations(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("configs/**/*.json") if path.name != "metadata.json")


def used_modules(root: Path) -> list[str]:
    """The modules of this package that the bundle's configurations and code name, and all that these import.

    Of a package below this one all modules count: some are imported by names that are put together.
    """
    texts = [path.read_text(encoding="utf-8") for path in configurations(root)]
    waiting = [name for text in texts for name in re.findall(rf"\b{NAME}(?:\.\w+)+", text)]
    for path in root.glob(f"{root.name}/**/*.py"):
        waiting += imported(path)
    found: set[str] = set()
    while waiting:
        module = _module(waiting.pop())
        for name in [*_with_parents(module), *_below(module)]:
            if name not in found:
                found.add(name)
                # what the package itself offers under short names is for those who have installed it
                waiting += imported(_file_of(name)) if name != NAME else []
    return sorted(found)


def imported(path: Path) -> list[str]:
    """The names below this package that a file imports, anywhere in it, or has as a string."""
    return [name for name in _imports(path) if name.partition(".")[0] == NAME]


def foreign_packages(root: Path) -> set[str]:
    """What a bundle and its part of this package import, anywhere, that is neither theirs nor Python's."""
    files = [*root.glob(f"{root.name}/**/*.py"), *(_file_of(name) for name in used_modules(root))]
    full = {name for path in files for name in _imports(path)}
    names = {name.partition(".")[0] for name in full}
    names |= {package for part, package in PULLS.items() if any(name.startswith(part) for name in full)}
    return names - {NAME, root.name} - set(sys.stdlib_module_names)


def _imports(path: Path) -> tuple[str, ...]:
    return _imports_of(path.read_text(encoding="utf-8"))


@cache
def _imports_of(source: str) -> tuple[str, ...]:
    return tuple(_walk(source))


def _walk(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "find_spec":
            yield from (str(one.value) for one in node.args if isinstance(one, ast.Constant))
        elif isinstance(node, ast.Constant) and re.fullmatch(rf"{NAME}(\.\w+)+", str(node.value)):
            yield str(node.value)


def _require(content: Any) -> None:
    """Every component waits for the path."""
    if isinstance(content, dict):
        for part in list(content.values()):
            _require(part)
        if "_target_" in content:
            content["_requires_"] = "@packages"
    elif isinstance(content, list):
        for part in content:
            _require(part)


def _module(name: str) -> str:
    """The module in which a dotted name is."""
    while not _file_of(name).is_file():
        name = name.rpartition(".")[0]
    return name


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


@cache
def _below(name: str) -> list[str]:
    """The modules of the package that a module is, or lies in, if that is not this package itself."""
    folder = _file_of(name).parent
    paths = () if folder == PACKAGE else folder.rglob("*.py")
    names = (path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths)
    return [".".join(parts).removesuffix(".__init__") for parts in names]


def _file_of(name: str) -> Path:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
