"""One choice for each tensor, so that a whole model stays within a budget: a knapsack with one item of each class.

Dynamic programming over a budget in buckets, as SPDY searches the sparsity of layers (Frantar and Alistarh 2022,
arXiv 2201.13096). Size may be bytes or milliseconds, error any sum that adds up over tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError

__all__ = ["Allocation", "Point", "within_error", "within_size"]

_BUCKETS: Final = 10_000
"""Parts of the budget: with 100 tensors at most 1 % of it is lost to rounding, and a table takes 20 kB a tensor."""

_Choice = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Point:
    """One way to store a tensor.

    Parameters
    ----------
    size : float
        What it takes, 0 or more.
    error : float
        What it loses, 0 or more.
    """

    size: float
    error: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """The way of each tensor.

    Parameters
    ----------
    chosen : tuple of int
        For each tensor, the index of its point.
    size, error : float
        The sums over all tensors.
    """

    chosen: tuple[int, ...]
    size: float
    error: float


def within_size(tensors: Sequence[Sequence[Point]], most: float) -> Allocation:
    """Return the points of least error whose sizes sum to at most `most`.

    The sum is exact; the error is the least up to the rounding of sizes to a 10,000th of what there is to spend.

    Raises
    ------
    InvalidInputError
        If the smallest points take more, a tensor has none, or a number is negative or not finite.

    Examples
    --------
    >>> within_size([[Point(1, 9), Point(5, 1)], [Point(2, 4), Point(4, 3)]], 8).chosen
    (1, 0)
    """
    costs = [[point.size for point in points] for points in tensors]
    losses = [[point.error for point in points] for points in tensors]
    return _allocation(tensors, _cheapest(costs, losses, most, "size"))


def within_error(tensors: Sequence[Sequence[Point]], most: float) -> Allocation:
    """Return the points of least size whose errors sum to at most `most`; the rest as for `within_size`."""
    costs = [[point.error for point in points] for points in tensors]
    losses = [[point.size for point in points] for points in tensors]
    return _allocation(tensors, _cheapest(costs, losses, most, "error"))


def _allocation(tensors: Sequence[Sequence[Point]], chosen: Sequence[int]) -> Allocation:
    points = [points[k] for points, k in zip(tensors, chosen, strict=True)]
    return Allocation(tuple(chosen), sum(point.size for point in points), sum(point.error for point in points))


def _cheapest(costs: list[list[float]], losses: list[list[float]], budget: float, what: str) -> list[int]:
    """Return for each tensor the index of its point: least loss at a cost of at most `budget`."""
    _check(costs, losses, budget)
    least = [min(row) for row in costs]
    spare = budget - sum(least)
    if spare < 0:
        raise InvalidInputError(f"no choice has a {what} of at most {budget:g}; the least is {sum(least):g}")
    bucket = max(spare / _BUCKETS, 1.0) if what == "size" and _whole(costs) else spare / _BUCKETS
    capacity = int(spare / bucket) if bucket else 0
    rounded = [_rounded(row, low, bucket) for row, low in zip(costs, least, strict=True)]
    return _search(rounded, losses, capacity)


def _whole(costs: list[list[float]]) -> bool:
    """Return whether all costs are integers, so that a bucket of 1 loses nothing."""
    return all(float(cost).is_integer() for row in costs for cost in row)


def _rounded(row: list[float], low: float, bucket: float) -> list[int]:
    """Return how many buckets each cost takes beyond the least one; more than all where it can never be paid."""
    return [
        0 if cost == low else min(_BUCKETS + 1, -int(-(cost - low) // bucket)) if bucket else _BUCKETS + 1
        for cost in row
    ]


def _search(costs: list[list[int]], losses: list[list[float]], capacity: int) -> list[int]:
    """Return the choices of least loss whose costs, in buckets, sum to at most `capacity`."""
    best = np.zeros(capacity + 1)  # least loss of the tensors so far, at a cost of at most so many buckets
    choices = list[_Choice]()
    for row, lost in zip(costs, losses, strict=True):
        reached = np.full((len(row), capacity + 1), np.inf)
        for k, (cost, loss) in enumerate(zip(row, lost, strict=True)):
            if cost <= capacity:
                reached[k, cost:] = best[: capacity + 1 - cost] + loss
        choices.append(reached.argmin(axis=0).astype(np.uint16))
        best = reached.min(axis=0)
    chosen, left = list[int](), capacity
    for row, choice in zip(reversed(costs), reversed(choices), strict=True):
        chosen.append(int(choice[left]))
        left -= row[chosen[-1]]
    return chosen[::-1]


def _check(costs: list[list[float]], losses: list[list[float]], budget: float) -> None:
    """Refuse what is no choice."""
    if not all(0 < len(row) <= np.iinfo(np.uint16).max for row in costs):
        raise InvalidInputError("every tensor needs a point, and no tensor more than 65,535")
    numbers = [budget, *(number for rows in (costs, losses) for row in rows for number in row)]
    if not all(np.isfinite(number) and number >= 0 for number in numbers):
        raise InvalidInputError("a size, an error or the budget is negative or not finite")
