"""Atomic files, written under a temporary name and renamed when complete; errors of files as one sentence."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_WAYS_OUT = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "your quota on this disk is used up: free some space or choose another folder",
    errno.EACCES: "you may not write there: choose another folder or change its permissions",
    errno.EPERM: "you may not write there: choose another folder or change its permissions",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another folder",
    errno.EEXIST: "a part of the path is a file, not a folder: choose another folder",
    errno.EISDIR: "it is a folder: choose another name",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


class FileError(ValueError):
    """A file that cannot be read or written: one sentence that names it, what is wrong and the way out."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path` and with its suffix, renamed to `path` when the block succeeds.

    Missing folders are created. If the block fails (an error, Ctrl-C), the temporary file is removed.

    Example:
        >>> with whole_file("out/metrics.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        way_out = _WAYS_OUT.get(error.errno or 0, error.strerror or str(error))
        raise FileError(f"{path} cannot be written: {way_out}.") from error
    finally:
        with suppress(OSError):  # not a folder, or unreachable: there is nothing to remove
            temporary.unlink(missing_ok=True)


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turns any exception of a library about a broken file into one FileError; `what` is the expected kind of file."""
    path = Path(path)
    if not path.exists():
        raise FileError(f"{path} does not exist; it must be {what}.")
    try:
        yield
    except (FileError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, PermissionError):
            raise FileError(f"{path} cannot be read: no permission; change it or copy the file.") from error
        reason = " ".join(str(error).split())[-300:] or type(error).__name__
        raise FileError(
            f"{path} cannot be read as {what} ({reason}); it is damaged, incomplete or of another kind: "
            f"copy or export it again."
        ) from error
