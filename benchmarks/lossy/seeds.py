"""Several fine-tunes of the same base, alike but for their seeds: what of a figure is luck."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.corpus import MiniLM, SecondMiniLM, ThirdMiniLM
from benchmarks.report import Range

FAMILIES: dict[str, type[MiniLM]] = {family.name: family for family in (MiniLM, SecondMiniLM, ThirdMiniLM)}
Row = Mapping[str, Any]
Table = Sequence[Row]


def standard_error(share: float, count: int) -> float:
    """Return the standard error of a share of `count` texts, were they drawn at random (binomial).

    >>> round(standard_error(0.5, 640), 3)
    0.02
    """
    return math.sqrt(share * (1 - share) / count)


def over_seeds(key: str, tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return the table that has the range of every number of tables of the same rows; `key` names a row.

    >>> over_seeds("b", [[{"b": 3, "x": 1.0}], [{"b": 3, "x": 2.0}]])
    [{'b': 3, 'x': Range(mean=1.5, min=1.0, max=2.0, runs=2)}]
    """
    return [_over_seeds(key, rows) for rows in zip(*tables, strict=True)]


def _over_seeds(key: str, rows: Table) -> dict[str, Any]:
    first = rows[0]
    assert all(row[key] == first[key] for row in rows), "the tables are not of the same rows"
    numbers = {name: [float(row[name]) for row in rows] for name in first if name != key}
    return {key: first[key]} | {name: Range.of(values) for name, values in numbers.items()}


def grouped(rows: Table, labels: Sequence[str], seed: str) -> list[dict[str, Any]]:
    """Return one row for all that differ in their `seed` alone, with the range of every number; `labels` name a row.

    >>> grouped([{"b": 3, "run": 0, "x": 1.0}, {"b": 3, "run": 1, "x": 2.0}], ["b"], "run")
    [{'b': 3, 'x': Range(mean=1.5, min=1.0, max=2.0, runs=2)}]
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[label] for label in labels), []).append(row)
    return [
        dict(zip(labels, key, strict=True))
        | {n: Range.of([float(row[n]) for row in found]) for n in found[0] if n not in {*labels, seed}}
        for key, found in groups.items()
    ]
