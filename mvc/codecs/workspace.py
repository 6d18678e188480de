"""Working memory that a thread keeps from frame to frame.

Fresh memory of a few MiB comes from the kernel page by page; for a frame of bf16 that took as long as coding it.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes

__all__ = ["array"]

_KEPT: Final = 1 << 24
"""Bytes of one array that a thread keeps: enough for frames of the default size at 8 bytes a word and their keys."""


class _Arrays(threading.local):
    def __init__(self) -> None:
        self.by_use: dict[str, Bytes] = {}


_arrays: Final = _Arrays()


def array(use: str, nbytes: int) -> Bytes:
    """Return an array of `nbytes` undefined bytes, valid until this thread asks again for the same `use`."""
    if nbytes > _KEPT:
        return np.empty(nbytes, dtype=np.uint8)
    kept = _arrays.by_use.get(use)
    if kept is None or len(kept) < nbytes:
        kept = _arrays.by_use[use] = np.empty(nbytes, dtype=np.uint8)
    return kept[:nbytes]
