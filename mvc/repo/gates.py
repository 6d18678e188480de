"""Conditions on the metrics of a commit that stands for another one: ``acc >= 0.98*source and loss < 2``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mvc.errors import InvalidInputError
from mvc.repo.metrics import Metrics

__all__ = ["Clause", "Finding", "Gate", "Limit"]

_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER: Final = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LIMIT: Final = re.compile(
    rf"(?:(?P<factor>{_NUMBER})\s*\*\s*)?source(?:\s*(?P<sign>[+-])\s*(?P<offset>{_NUMBER}))?|(?P<number>{_NUMBER})",
    re.ASCII,
)
_CLAUSE: Final = re.compile(r"\s*(?P<metric>[^\s<>=!*]+)\s*(?P<operator>>=|<=|>|<)\s*(?P<limit>[^<>=!]+?)\s*")
_AND: Final = re.compile(r"\sand\s")
_EXAMPLE: Final = "write it like 'acc >= 0.98*source' or 'loss < source + 0.01 and acc > 0.9'"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a metric is compared with.

    Parameters
    ----------
    factor : float or None
        What the metric of the source is multiplied by; None if it does not matter.
    offset : float
        What is added to that.
    """

    factor: float | None
    offset: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Return the limit that `text` states; see `Gate.parse`."""
        found = _LIMIT.fullmatch(text)
        if found is None:
            raise InvalidInputError(f"{text[:40]!r} is neither a number nor source, times or plus one", hint=_EXAMPLE)
        if found["number"] is not None:
            return cls(None, _finite(found["number"]))
        sign = -1.0 if found["sign"] == "-" else 1.0
        return cls(_finite(found["factor"] or "1"), sign * _finite(found["offset"] or "0"))

    def value(self, source: float | None) -> float:
        """Return the number that it comes to; `source` may be None where it does not matter."""
        if self.factor is None:
            return self.offset
        assert source is not None, "whoever asks has looked for the metric of the source"
        return self.factor * source + self.offset

    def __str__(self) -> str:
        if self.factor is None:
            return repr(self.offset)
        text = "source" if self.factor == 1 else f"{self.factor!r}*source"
        return f"{text} {'-' if self.offset < 0 else '+'} {abs(self.offset)!r}" if self.offset else text


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition on one metric.

    Parameters
    ----------
    metric : str
        Its name.
    operator : str
        One of ``>= <= > <``.
    limit : Limit
        What it is compared with.
    """

    metric: str
    operator: str
    limit: Limit

    @classmethod
    def parse(cls, text: str) -> Clause:
        """Return the clause that `text` states; see `Gate.parse`."""
        found = _CLAUSE.fullmatch(text)
        if found is None:
            raise InvalidInputError(f"{text.strip()[:60]!r} is no condition on a metric", hint=_EXAMPLE)
        return cls(found["metric"], found["operator"], Limit.parse(found["limit"]))

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.limit}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a clause.

    Parameters
    ----------
    clause : Clause
        The condition.
    source : float or None
        The metric of the source, if that has it.
    value, limit : float
        The metric of the new commit, and what it was compared with.
    """

    clause: Clause
    source: float | None
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the condition is met."""
        return _OPERATORS[self.clause.operator](self.value, self.limit)

    def __str__(self) -> str:
        wanted = f"wanted {self.clause.operator} {self.limit:.6g}"
        of_source = "" if self.source is None else f"; the source has {self.source:.6g}"
        return f"{self.clause.metric} is {self.value:.6g}, {wanted}{of_source}"


@dataclass(frozen=True, slots=True)
class Gate:
    """Conditions of which all must be met.

    Parameters
    ----------
    clauses : tuple of Clause
        At least one.
    """

    clauses: tuple[Clause, ...]

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Return the gate that `text` states.

        METRIC, one of ``>= <= > <``, and a NUMBER or ``source``, maybe as ``NUMBER*source``, ``source + NUMBER`` or
        ``source - NUMBER``; several of these are joined with ``and``.

        Raises
        ------
        InvalidInputError
            If it is of another form, or a number is not finite.

        Examples
        --------
        >>> str(Gate.parse("acc>=.98*source and loss < source + 0.01"))
        'acc >= 0.98*source and loss < source + 0.01'
        """
        return cls(tuple(map(Clause.parse, _AND.split(text))))

    @property
    def metrics(self) -> frozenset[str]:
        """The names of the metrics."""
        return frozenset(clause.metric for clause in self.clauses)

    def judge(self, source: Metrics, derived: Metrics) -> tuple[Finding, ...]:
        """Return what becomes of every clause, given the metrics of both commits.

        Raises
        ------
        InvalidInputError
            If a metric is missing, or no number.
        """
        return tuple(_finding(clause, source, derived) for clause in self.clauses)

    def __str__(self) -> str:
        return " and ".join(map(str, self.clauses))


def _finding(clause: Clause, source: Metrics, derived: Metrics) -> Finding:
    needed = clause.limit.factor is not None or clause.metric in source
    old = _number(source, clause.metric) if needed else None
    return Finding(clause, old, _number(derived, clause.metric), clause.limit.value(old))


def _number(metrics: Metrics, name: str) -> float:
    value = metrics.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        known = ", ".join(sorted(metrics)) or "none"
        what = f"there is no metric {name!r}" if value is None else f"metric {name!r} is no number but {value!r:.40}"
        raise InvalidInputError(f"{what}; there are: {known}", hint="the command must print what the gate asks for")
    try:
        return float(value)
    except OverflowError:
        raise InvalidInputError(f"metric {name!r} is too large to compare: an integer beyond 1e308") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidInputError(f"{text[:40]} is not finite", hint=_EXAMPLE)
    return number
