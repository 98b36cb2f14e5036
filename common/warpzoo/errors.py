"""What a person is told when something fails: one sentence, from under what libraries wrapped around it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

FAILURES = (ValueError, RuntimeError, OSError, MemoryError)
"""What files, settings and machines are to blame for; anything else is a mistake in the program."""


def plain_reason(error: BaseException) -> str:
    """The sentence that was written for a person; without one, what the innermost error says."""
    chain = _chain(error)
    for one in chain:
        if isinstance(one, MemoryError):
            return f"there is not enough memory ({one or 'no more could be had'}); try smaller images."
        if isinstance(one, OSError) and one.filename:
            return f"{one.filename}: {one.strerror}."
        if isinstance(one, (ValueError, OSError)):
            return str(one)
    return f"{chain[-1] or type(chain[-1]).__name__}"


def end_with_the_reason() -> None:
    """A run of `python -m monai.bundle` that fails ends with one sentence, not with its way through the libraries.

    `python -X dev -m monai.bundle` shows that too.
    """
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program is not None and program.name == "monai.bundle.__main__" and not sys.flags.dev_mode:
        sys.excepthook = _print_reason


def _print_reason(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        print("\ninterrupted; what is there under its final name is whole.", file=sys.stderr)
    elif any(isinstance(one, (ValueError, OSError, MemoryError)) for one in _chain(error)):
        print(f"\nerror: {plain_reason(error)}\n(python -X dev -m monai.bundle … shows where.)", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and, inwards, what it came from."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return chain


@dataclass(frozen=True)
class Finding:
    """Something that will ("error") or may ("warning") spoil the result, in whole sentences."""

    severity: str
    message: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.message} {self.way_out}"


def raise_if(findings: Sequence[Finding], strict: bool = False) -> None:
    """Raises a ValueError that says all errors, if there are any; with `strict`, warnings are errors."""
    fatal = [finding for finding in findings if strict or finding.severity == "error"]
    if fatal:
        ending = " (Without strict this is a warning.)" if all(one.severity == "warning" for one in fatal) else ""
        raise ValueError(" ".join(map(str, fatal)) + ending)
