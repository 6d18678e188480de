"""How this process gets its memory: settings that suit a program which moves gigabytes and ends, but not a library."""

from __future__ import annotations

import atexit
import ctypes
import gc
from contextlib import suppress
from typing import Final

__all__ = ["collect_rarely", "keep_freed_memory"]

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of `mallopt`, from ``malloc.h``."""
_LARGEST_REUSED: Final = 8 << 20
"""Bytes from which a block goes back to the system when it is freed: more than a frame of 4 bytes a word has, so that
its memory is used again. With 32 MiB, that of contents that are held was too, and a commit took 25 MB more for no gain.
"""
_LARGEST_FREE: Final = 256 << 20
"""Bytes of free memory that are kept: never given back while a command runs, since what it needs for one frame it needs
for the next."""

_NEW_OBJECTS: Final = 200_000
"""Objects that come to be between two searches for cycles of garbage: twice as many as the imports of a commit make."""


def collect_rarely() -> None:
    """Have garbage searched for seldom: never while modules are imported, nor at the end of the process.

    What is imported is never garbage, but there is so much of it that every search takes long: together, those of a
    command that uses the index took a fifth of its time if it had nothing else to do. What no cycle holds is freed at
    once all the same.
    """
    gc.set_threshold(_NEW_OBJECTS)
    atexit.register(gc.freeze)


def keep_freed_memory() -> None:
    """Have memory that was freed used again, instead of going back to the system and coming from there page by page.

    Every frame takes a few MiB for its raw and its stored bytes. Getting them from the kernel anew took up to a third
    of the processor time of a checkout. Other allocators than that of glibc are left as they are.
    """
    with suppress(OSError, AttributeError, TypeError):  # no such function; on Windows no such library
        adjust = ctypes.CDLL(None).mallopt
        adjust(_M_MMAP_THRESHOLD, _LARGEST_REUSED)
        adjust(_M_TRIM_THRESHOLD, _LARGEST_FREE)
