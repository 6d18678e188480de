"""What both modes of delta-GPTQ take for the same quality: the best setting of each, interpolated between settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.lossy.seeds import Row, Table
from benchmarks.report import Range

GRID, CODED = "delta GPTQ", "delta entropy-coded"  # how names of rows of the modes begin
ERRORS = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3)  # of the logits
GAINS = (95.0, 90.0, 80.0, 50.0)  # kept, %
Points = Sequence[tuple[float, float]]


def bits_at(points: Points, badness: float) -> float:
    """Return the bits that reach a badness: linear in both along the frontier; NaN beyond what was measured.

    Parameters
    ----------
    points : sequence of (bits, badness)
        Settings; those that another beats in both do not count.
    badness : float
        What is to be reached; smaller is better, in a unit in which it makes sense to interpolate.

    >>> bits_at([(4.0, 0.0), (2.0, 10.0), (3.0, 20.0)], 5.0), bits_at([(4.0, 0.0)], 5.0)
    (3.0, nan)
    """
    frontier = list[tuple[float, float]]()
    for bits, bad in sorted(points):
        if not frontier or bad < frontier[-1][1]:
            frontier.append((bits, bad))
    bits, bads = np.array(frontier[::-1]).T
    return float(np.interp(badness, bads, bits, left=np.nan, right=np.nan))


def compare(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return the bits of both modes at each quality, over all seeds; a quality is left out that one seed has not."""
    rows = [_row(tables, f"logit error {e:g}", _of_error, math.log(e)) for e in ERRORS]
    rows += [_row(tables, f"gain kept {g:g} %", _of_gain, -g) for g in GAINS]
    return [row for row in rows if row]


def _of_error(row: Row) -> float:
    return math.log(row["logit error"])


def _of_gain(row: Row) -> float:
    return -float(row["gain kept %"])


def _row(tables: Sequence[Table], name: str, badness_of: Callable[[Row], float], badness: float) -> dict[str, Any]:
    """Return a row, or nothing if a seed cannot tell; bits are interpolated as logarithms."""
    found = []
    for table in tables:
        modes = [[row for row in table if row["method"].startswith(mode)] for mode in (GRID, CODED)]
        points = [[(math.log(row["stored bits a parameter"]), badness_of(row)) for row in rows] for rows in modes]
        found.append([math.exp(bits_at(mode, badness)) if mode else math.nan for mode in points])
    if np.isnan(found).any():
        return {}
    grid, coded = zip(*found, strict=True)
    ratios = [one / other for one, other in found]
    return {"quality": name, "paper mode": Range.of(grid), "ec": Range.of(coded), "paper / ec": Range.of(ratios)}
