"""Memory that a process has freed: a training keeps it, what goes through many frames gives it back."""

from __future__ import annotations

import ctypes
import platform

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h


def keep_freed_memory() -> bool:
    """From now on what this process frees on a CPU stays with it; whether that could be had.

    glibc gives large blocks back to the system at once. Every step of a training on a CPU then asks for the same ones
    anew and waits until the system has zeroed each page. Kept, they may add up to more than is in use at any one time.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """To the system, where it has none of it otherwise: glibc keeps what lies between things that are still in use."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
