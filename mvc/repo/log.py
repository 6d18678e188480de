"""``mvc log``: history, newest first, children before parents."""

from __future__ import annotations

import heapq
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mvc.errors import IntegrityError, InvalidInputError
from mvc.index import CommitRecord
from mvc.objects.commit import Metadata, Scalar
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["CommitPages", "Comparison", "history", "parse_condition", "parse_scalar"]

_PAGE: Final = 256
"""Commits fetched at once: most ``log`` calls end in the first page, and 10,000 commits take 40 queries."""
_CONDITION: Final = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|==|!=|=|<|>)\s*(.+?)\s*")


def history(session: Session, tips: Iterable[ObjectId]) -> Iterator[CommitRecord]:
    """Yield every commit reachable from `tips`, each once, newest first and children before parents.

    Raises
    ------
    IntegrityError
        If a commit is missing.
    """
    source = CommitPages(session)
    heap = [(-source.get(tip).position, tip) for tip in set(tips)]
    heapq.heapify(heap)
    seen = {tip for _, tip in heap}
    while heap:
        record = source.get(heapq.heappop(heap)[1])
        yield record
        for parent in record.parents:
            if parent not in seen:
                seen.add(parent)
                heapq.heappush(heap, (-source.get(parent).position, parent))


class CommitPages:
    """Commits, fetched by position in pages: history is read in that order.

    Parameters
    ----------
    session : Session
        The repository.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[ObjectId, CommitRecord] = {}

    def get(self, oid: ObjectId) -> CommitRecord:
        """Return a commit, from memory if it was asked for before.

        Raises
        ------
        IntegrityError
            If it is missing.
        """
        if oid not in self._known:
            record = self._session.records([oid]).get(oid)
            if record is None:
                raise IntegrityError(f"commit {oid} is missing from the store", hint="mvc fsck")
            page = self._session.page(record.position, _PAGE)
            self._known |= {item.id: item for item in page} | {oid: record}
        return self._known[oid]


_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A condition on one value of a commit; one without it, or with one of another kind, does not meet it.

    Parameters
    ----------
    key : str
        Name of the value.
    operator : str
        One of ``= == != < <= > >=``.
    operand : Scalar
        What to compare with.
    """

    key: str
    operator: str
    operand: Scalar

    def __call__(self, values: Metadata) -> bool:
        """Return True if what a commit records, or what is noted of it, meets the condition."""
        if self.key not in values:
            return False
        value = values[self.key]
        if self.operator in {"=", "==", "!="} or _ordered(value, self.operand):
            return _OPERATORS[self.operator](value, self.operand)
        return False


def _ordered(one: Scalar, other: Scalar) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return numbers or (isinstance(one, str) and isinstance(other, str))


def parse_condition(text: str) -> Comparison:
    """Return the condition that `text` states about the values of a commit: ``loss<0.3``, ``epoch>=2``, ``run=a7``.

    Raises
    ------
    InvalidInputError
        If it is not of the form KEY OPERATOR VALUE.

    Examples
    --------
    >>> parse_condition("loss < 0.3").operand
    0.3
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"{text!r} is not a condition", hint="write it like 'loss<0.3' or 'run=a7'")
    return Comparison(match[1], match[2], parse_scalar(match[3]))


def parse_scalar(text: str) -> Scalar:
    """Return `text` as the number, boolean or null that it spells, or as itself.

    Examples
    --------
    >>> [parse_scalar(text) for text in ("3", "1e-3", "true", "a7")]
    [3, 0.001, True, 'a7']
    """
    words: dict[str, Scalar] = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
