"""What a person is told when something fails: one sentence, from under what libraries wrapped around it."""

from __future__ import annotations

FAILURES = (ValueError, RuntimeError, OSError, MemoryError)
"""What files, settings and machines are to blame for; anything else is a mistake in the program."""


def plain_reason(error: BaseException) -> str:
    """The sentence that was written for a person; without one, what the innermost error says."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for one in chain:
        if isinstance(one, MemoryError):
            return f"there is not enough memory ({one or 'no more could be had'}); try smaller images."
        if isinstance(one, OSError) and one.filename:
            return f"{one.filename}: {one.strerror}."
        if isinstance(one, (ValueError, OSError)):
            return str(one)
    return f"{chain[-1] or type(chain[-1]).__name__}"
