"""Provenance of a result: command, commit, versions, machine; and atomic JSON files."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import warpzoo
from warpzoo.files import whole_file

_on_behalf_of: ContextVar[str | None] = ContextVar("on_behalf_of", default=None)


@contextmanager
def on_behalf_of(line: str) -> Iterator[None]:
    """Within it, what is recorded as the command is that line: of the process that has given this one its work."""
    token = _on_behalf_of.set(line)
    try:
        yield
    finally:
        _on_behalf_of.reset(token)


def command() -> str:
    """The command line of this process, or of the one on whose behalf it works."""
    if (line := _on_behalf_of.get()) is not None:
        return line
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name
    return shlex.join([*program.split(), *sys.argv[1:]])


@cache
def versions() -> dict[str, str]:
    names = ("torch", "monai", "pytorch-ignite", "numpy", "scipy", "nibabel", "itk", "tifffile")
    return {"python": platform.python_version(), "warpzoo": warpzoo.__version__} | {
        name: _version(name) for name in names
    }


def _version(package: str) -> str:
    """A training needs no ITK, and some machines that train have none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@cache
def commit() -> str | None:
    """The commit of the checkout that this package is in, "…+" if it has changes; None outside one."""
    folder = Path(warpzoo.__file__).parent
    try:
        asked = [
            subprocess.run(["git", "-C", str(folder), *what], capture_output=True, text=True, timeout=10, check=True)
            for what in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return asked[0].stdout.strip() + "+" * bool(asked[1].stdout.strip())


def machine() -> dict[str, Any]:
    """The name of the processor (of the first GPU) and the number of threads that torch uses."""
    processor = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"processor": processor, "threads": torch.get_num_threads()}


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def checksum(path: str | Path) -> str:
    """The SHA-256 of a file; of the names and contents of all files below a folder."""
    path, digest = Path(path), sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            if file != path:
                digest.update(file.relative_to(path).as_posix().encode())
            with open(file, "rb") as content:
                while part := content.read(2**20):
                    digest.update(part)
    return digest.hexdigest()


def write_json(path: str | Path, content: Any) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
