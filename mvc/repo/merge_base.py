"""Where two lines of history parted."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from mvc.index import CommitRecord
from mvc.types import ObjectId

__all__ = ["merge_bases"]

_OURS: Final = 1
_THEIRS: Final = 2
_COMMON: Final = _OURS | _THEIRS
_BELOW: Final = 4
"""Reached from a common ancestor: not a best one."""


def merge_bases(record: Callable[[ObjectId], CommitRecord], ours: ObjectId, theirs: ObjectId) -> tuple[ObjectId, ...]:
    """Return the best common ancestors of two commits: those that no other common ancestor descends from.

    The walk goes down the positions of the index, which are above those of all parents: when a commit is met, all that
    leads to it has been. It ends when nothing is left to be met but ancestors of bases. (``paint_down_to_common`` of
    git's ``commit-reach.c``, which has to correct itself where dates are wrong.)

    Parameters
    ----------
    record : callable
        Returns what the index knows of a commit.
    ours, theirs : ObjectId
        The commits, in any order.

    Returns
    -------
    tuple of ObjectId
        Newest first, as ``git merge-base`` takes the first; one of the two itself if the other descends from it; empty
        if they have no history in common. More than one where branches were merged crosswise.
    """
    marks = {ours: _OURS}
    marks[theirs] = marks.get(theirs, 0) | _THEIRS
    heap = [(-record(oid).position, oid) for oid in marks]
    heapq.heapify(heap)
    open_ends = sum(mark < _BELOW for mark in marks.values())
    bases = []
    while open_ends:
        found = record(heapq.heappop(heap)[1])
        mark = marks[found.id]
        open_ends -= mark < _BELOW
        if mark == _COMMON:
            bases.append(found.id)
        inherited = _BELOW if mark >= _COMMON else mark
        for parent in found.parents:
            if parent not in marks:
                heapq.heappush(heap, (-record(parent).position, parent))
            old = marks.get(parent, _BELOW)
            marks[parent] = marks.get(parent, 0) | inherited
            open_ends += (marks[parent] < _BELOW) - (old < _BELOW)
    return tuple(bases)
