"""Which packs may hold an object: asking the index of each takes as long as there are packs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock

from mvc.store.pack_index import PackIndex, prefix_of
from mvc.types import ObjectId

__all__ = ["PackLookup"]


class PackLookup:
    """The indexes of packs by the beginnings of the ids that they hold.

    Indexes that were replaced or whose packs are gone stay in it: whoever asks knows which are in use. May be called by
    many threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_prefix: dict[int, Sequence[PackIndex]] = {}

    def add(self, index: PackIndex) -> None:
        """Note what an index holds."""
        alone = (index,)  # shared by all its ids: a sequence for each would take more memory than the table
        with self._lock:
            for prefix in index.prefixes():
                others = self._by_prefix.setdefault(prefix, alone)
                if others is not alone:
                    self._by_prefix[prefix] = _with(others, index)

    def candidates(self, oid: ObjectId) -> Iterator[PackIndex]:
        """Yield the indexes that hold an id which begins like `oid`."""
        yield from self._by_prefix.get(prefix_of(oid), ())


def _with(others: Sequence[PackIndex], index: PackIndex) -> Sequence[PackIndex]:
    """Return `others` and `index`; a list is extended in place, since an object may lie in all packs."""
    if isinstance(others, list):
        others.append(index)
        return others
    return [*others, index]
