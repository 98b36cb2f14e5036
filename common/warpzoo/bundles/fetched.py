"""Where fetched bundles are, and where each came from."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

VARIABLE = "WARPZOO_FETCHED"
ORIGIN = "fetched.json"
"""In a fetched bundle's folder: what it was fetched from."""


def fetched_folder() -> Path:
    """The folder that WARPZOO_FETCHED names; without, one where the system keeps a user's data."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "warpzoo" / "bundles"


def origin(root: Path) -> str | None:
    """What the bundle in a folder was fetched from, if it was."""
    try:
        return str(json.loads((root / ORIGIN).read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
