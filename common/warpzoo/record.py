"""What a result was made by: the command, the versions, the machine; and JSON files that are whole or not there."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import warpzoo
from warpzoo.files import whole_file


def provenance(method: str, files: Mapping[str, Any]) -> dict[str, Any]:
    """Method, files, command and versions of one registration."""
    return {"method": method, "files": dict(files), "command": command(), "versions": versions()}


def command() -> str:
    """How this process was called."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name
    return shlex.join([*program.split(), *sys.argv[1:]])


def versions() -> dict[str, str]:
    names = ("torch", "monai", "pytorch-ignite", "numpy")
    return {"python": platform.python_version(), "warpzoo": warpzoo.__version__} | {
        name: version(name) for name in names
    }


def machine() -> dict[str, Any]:
    """The processor's (the first GPU's) own name and how many threads torch uses."""
    return {"processor": processor_name(), "threads": torch.get_num_threads()}


def processor_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_json(path: str | Path, content: Any) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
