"""Failures as one sentence for the user, extracted from the exceptions that libraries wrap around it; warnings."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from types import TracebackType

FAILURES = (ValueError, RuntimeError, OSError, MemoryError)
"""Caused by files, settings or the machine; any other exception is a bug."""


def plain_reason(error: BaseException) -> str:
    """The message that was written for the user; if there is none, that of the innermost exception."""
    chain = _chain(error)
    for one in chain:
        if isinstance(one, MemoryError):
            return f"not enough memory ({one or 'allocation failed'}); use smaller images."
        if isinstance(one, OSError) and one.filename:
            return f"{one.filename}: {one.strerror}."
        if isinstance(one, (ValueError, OSError)):
            return str(one)
    return f"{chain[-1] or type(chain[-1]).__name__}"


def nearest(name: object, names: Iterable[object]) -> str:
    """ " (did you mean …?)" with the most similar of the names, to be added to what is said of an unknown one; empty if
    none is similar."""
    found = get_close_matches(str(name), [str(one) for one in names], 1)
    return f" (did you mean {found[0]}?)" if found else ""


@contextmanager
def as_value_error() -> Iterator[None]:
    """Raises the ValueError or OSError that MONAI wraps in a RuntimeError ("Failed to instantiate component …") as one
    ValueError with its message."""
    try:
        yield
    except RuntimeError as error:
        if not _has_reason(error):
            raise
        raise ValueError(plain_reason(error)) from error


def is_monai_command() -> bool:
    """Whether this process is a `python -m monai.bundle`."""
    program = getattr(sys.modules["__main__"], "__spec__", None)
    return program is not None and program.name == "monai.bundle.__main__"


def end_with_the_reason() -> None:
    """Makes a failing `python -m monai.bundle` print one sentence instead of a traceback.

    `python -X dev -m monai.bundle` prints the traceback as well. The same sentence in what ignite logs of it is left
    out where logs are not configured.
    """
    if is_monai_command() and not sys.flags.dev_mode:
        sys.excepthook = _print_reason
        if logging.lastResort is not None:
            logging.lastResort.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "is terminating due to exception" not in str(record.msg)


def _print_reason(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        print("\ninterrupted; existing output files are complete.", file=sys.stderr)
    elif _has_reason(error):
        print(
            f"\nerror: {plain_reason(error)}\n(python -X dev -m monai.bundle … shows the traceback.)", file=sys.stderr
        )
    else:
        sys.__excepthook__(kind, error, trace)


def _has_reason(error: BaseException) -> bool:
    return any(isinstance(one, (ValueError, OSError, MemoryError)) for one in _chain(error))


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and its causes, outermost first."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return chain


@dataclass(frozen=True)
class Finding:
    """A problem that makes the result wrong ("error") or may do so ("warning"), in whole sentences."""

    severity: str
    message: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.message} {self.way_out}"


def warning(message: str, way_out: str) -> Finding:
    return Finding("warning", message, way_out)


def fatal(message: str, way_out: str) -> Finding:
    return Finding("error", message, way_out)


def raise_if(findings: Sequence[Finding], strict: bool = False) -> None:
    """Raises a ValueError that lists all errors, if there are any; with `strict`, warnings are errors."""
    against = [finding for finding in findings if strict or finding.severity == "error"]
    if against:
        ending = " (Without strict this is a warning.)" if all(one.severity == "warning" for one in against) else ""
        raise ValueError(" ".join(map(str, against)) + ending)
