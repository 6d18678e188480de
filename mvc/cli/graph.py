"""``mvc log --graph``: lanes as text, and history reduced to the commits that a condition keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final

import click

from mvc.index import CommitRecord
from mvc.repo.graph import GraphRow
from mvc.types import ObjectId

__all__ = ["draw", "reduced"]

_COLOURS: Final = ("red", "green", "yellow", "blue", "magenta", "cyan")
"""Of lanes, by column; git uses the same six."""


def reduced(records: Iterable[CommitRecord], keep: Callable[[CommitRecord], bool]) -> list[CommitRecord]:
    """Return the commits to keep, each with its nearest kept ancestors for parents.

    Parameters
    ----------
    records : iterable of CommitRecord
        Children before parents.
    keep : callable
        Says which to keep.
    """
    ordered = list(records)
    nearest: dict[ObjectId, tuple[ObjectId, ...]] = {}
    result = []
    for record in reversed(ordered):
        parents = tuple(dict.fromkeys(oid for parent in record.parents for oid in nearest.get(parent, ())))
        kept = keep(record)
        nearest[record.id] = (record.id,) if kept else parents
        if kept:
            result.append(replace(record, parents=parents))
    return result[::-1]


def draw(row: GraphRow, text: Sequence[str]) -> Iterator[str]:
    """Yield the lines of one commit: its lanes, and beside them `text`.

    The lanes are at every second character. A line that goes to another column moves by one a line, so that lines from
    a merge fan out and lines to a common parent come together.
    """
    prefixes = [_line({2 * lane: "*" if lane == row.column else "|" for lane in range(row.before)})]
    prefixes += map(_line, _transitions(row.edges))
    after = max((target for _, target in row.edges), default=-1) + 1
    straight = _line({2 * lane: "|" for lane in range(after)})
    width = max(len(click.unstyle(prefix)) for prefix in [*prefixes, straight])
    below: Iterator[str] = iter(prefixes)
    for prefix, line in zip_longest(below, text):
        lanes = straight if prefix is None else prefix
        yield f"{lanes}{' ' * (width - len(click.unstyle(lanes)))} {line or ''}".rstrip()


def _transitions(edges: Sequence[tuple[int, int]]) -> Iterator[dict[int, str]]:
    """Yield the rows of characters, by position, in which edges reach their columns."""
    places = list(edges)
    while any(here != target for here, target in places):
        characters = {}
        for here, target in places:
            step = (target > here) - (target < here)
            characters[2 * here + step] = {0: "|", 1: "\\", -1: "/"}[step]
        yield characters
        places = [(here + (target > here) - (target < here), target) for here, target in places]


def _line(characters: dict[int, str]) -> str:
    width = max(characters, default=-1) + 1
    return "".join(_styled(characters[place], place) if place in characters else " " for place in range(width))


def _styled(character: str, place: int) -> str:
    return character if character == "*" else click.style(character, fg=_COLOURS[place // 2 % len(_COLOURS)])
