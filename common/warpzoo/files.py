"""Atomic files, written under a temporary name and renamed when complete; errors of files as one sentence."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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
    """A file that cannot be read or written: one sentence that names it, what is wrong and the way out.

    What it quotes of a file may hold anything; control characters do not get into the terminal.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(one if one.isprintable() else "\ufffd" for one in message))


class InUseError(FileError):
    """A folder that another command writes into."""


class TooLargeError(FileError):
    """A file whose content is more than fits into memory."""


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
        raise FileError(f"{path} cannot be written: {_way_out(error)}.") from error
    finally:
        with suppress(OSError):  # not a folder, or unreachable: there is nothing to remove
            temporary.unlink(missing_ok=True)


def _way_out(error: OSError) -> str:
    return _WAYS_OUT.get(error.errno or 0, error.strerror or str(error))


def remove_unfinished(folder: Path, names: Collection[str]) -> None:
    """Removes what `whole_file` leaves of files with these names in a folder if its process is killed."""
    for path in [*folder.glob(".????????-*")]:
        if path.name[10:] in names:
            path.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Within it, no other process that asks for the same, on any machine that sees the folder, writes there; one that
    does so now is waited for, for so many seconds.

    The lock is the system's own and ends with its process, however that ends; Windows has none of the kind. A folder
    that was made for it is removed if nothing is in it in the end.
    """
    if fcntl is None:
        yield
        return
    path, made = folder / ".in_use", not folder.exists()
    until = time.monotonic() + patience
    while True:
        try:
            file = _locked(path)
            break
        except InUseError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # results are in it
                    folder.rmdir()


def _locked(path: Path) -> TextIO:
    """The lock's file, open, with this process in it."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed by who holds the lock)
    except OSError as error:
        raise FileError(f"{folder} cannot be written to: {_way_out(error)}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        with file:
            file.seek(0)
            raise InUseError(
                f"{folder} is in use by another command ({file.read() or 'which has just begun'}): wait for it, or "
                f"choose another output folder."
            ) from error
    except OSError as error:  # a file system without locks: the user is trusted
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            file.close()
            raise
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        file.close()
        raise InUseError(f"{folder} was in use by another command until now: try again.")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def check_kind(path: Path) -> None:
    """That what is there is a file or a folder: a pipe or a device may wait or never end."""
    if os.path.exists(path) and not path.is_file() and not path.is_dir():
        raise FileError(f"{path} is a pipe or a device; it must be a file: save what it gives as one.")


def check_kinds_below(folder: Path) -> int:
    """That there are files and folders only, as `check_kind` has it; returns how many bytes the files have."""
    size, waiting = 0, [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file():
                    size += entry.stat().st_size
                else:
                    check_kind(Path(entry.path))
    return size


def shortened(text: str, length: int = 80) -> str:
    """What a message quotes of a file."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def is_text(path: Path) -> bool:
    """Whether it is a file that begins without what no text has."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return not set(file.read(1000)) & {*range(9), *range(14, 32)}


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turns any exception of a library about a broken file into one FileError; `what` is the expected kind of file.

    What would wait or never end, such as a pipe, is not opened.
    """
    path = Path(path)
    if not os.path.exists(path):  # False for a name that is too long as well
        raise FileError(f"{shortened(str(path), 400)} does not exist; it must be {what}.")
    check_kind(path)
    if not os.access(path, os.R_OK):
        raise FileError(f"{path} cannot be read: no permission; change it or copy the file.")
    try:
        yield
    except FileError:
        raise
    except MemoryError as error:
        raise TooLargeError(
            f"{path} takes more memory than there is; crop or downsample it, or export it again if its header is wrong."
        ) from error
    except Exception as error:
        if isinstance(error, UnicodeDecodeError) and is_text(path):
            raise FileError(f"{path} must be {what} in UTF-8; it is text in another encoding: save it anew.") from error
        reason = " ".join(str(error).split())[-300:] or type(error).__name__
        raise FileError(
            f"{path} cannot be read as {what} ({reason}); it is damaged, incomplete or of another kind: "
            f"copy or export it again."
        ) from error
