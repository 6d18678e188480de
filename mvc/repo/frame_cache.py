"""Decoded frames kept for a while: who decodes a base and then its deltas need not decode the base again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

from mvc.codecs import Bytes

__all__ = ["FrameCache"]


class FrameCache:
    """The frames that were used last. Safe for many threads; what is put in or taken out must not be changed.

    Parameters
    ----------
    limit : int
        Bytes kept; with 0, nothing is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._lock = Lock()
        self._frames: OrderedDict[Hashable, Bytes] = OrderedDict()

    def __bool__(self) -> bool:
        return self._limit > 0

    def get(self, place: Hashable) -> Bytes | None:
        """Return the frame that was put at `place`, if it is still here."""
        with self._lock:
            found = self._frames.get(place)
            if found is not None:
                self._frames.move_to_end(place)
            return found

    def put(self, place: Hashable, frame: Bytes) -> None:
        """Keep a frame, and let go of others where needed."""
        with self._lock:
            old = self._frames.pop(place, None)
            self._size += frame.nbytes - (0 if old is None else old.nbytes)
            self._frames[place] = frame
            while self._size > self._limit:
                _, dropped = self._frames.popitem(last=False)
                self._size -= dropped.nbytes
