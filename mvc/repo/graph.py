"""Lanes for ``mvc log --graph``: which column each commit stands in, and which lines run beside and below it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mvc.index import CommitRecord
from mvc.types import ObjectId

__all__ = ["GraphRow", "graph"]


@dataclass(frozen=True, slots=True)
class GraphRow:
    """One commit and its surroundings.

    Parameters
    ----------
    record : CommitRecord
        The commit.
    column : int
        Where it stands.
    before : int
        Lanes in the row of the commit, its own included.
    edges : tuple of (int, int)
        Lines to the next row: from a column of this one to a column there.
    """

    record: CommitRecord
    column: int
    before: int
    edges: tuple[tuple[int, int], ...]


def graph(records: Iterable[CommitRecord]) -> Iterator[GraphRow]:
    """Lay out commits that come children before parents.

    A lane waits for one commit. A commit takes the leftmost lane that waits for it, or a new one; lanes that wait for
    the same commit join there. Its first parent keeps its lane, further parents get lanes of their own. (The column
    algorithm of git's ``graph.c``, without its colours.)
    """
    lanes: list[ObjectId] = []
    for record in records:
        if record.id not in lanes:
            lanes.append(record.id)
        column = lanes.index(record.id)
        after = _advance(lanes, column, record.parents)
        yield GraphRow(record, column, len(lanes), _edges(lanes, after, column, record.parents))
        lanes = after


def _advance(lanes: Sequence[ObjectId], column: int, parents: Sequence[ObjectId]) -> list[ObjectId]:
    """Return the lanes below a commit: its own replaced by those of its parents, no commit waited for twice."""
    wanted = [*lanes[:column], *parents, *(lane for lane in lanes[column + 1 :] if lane != lanes[column])]
    return list(dict.fromkeys(wanted))


def _edges(
    lanes: Sequence[ObjectId], after: Sequence[ObjectId], column: int, parents: Sequence[ObjectId]
) -> tuple[tuple[int, int], ...]:
    place = {oid: number for number, oid in enumerate(after)}
    passing = [(number, place[oid]) for number, oid in enumerate(lanes) if number != column and oid in place]
    return tuple(sorted({*passing, *((column, place[parent]) for parent in parents)}))
