"""Storage against recreation: how to store every content of a history in the fewest bytes, under a bound on reading.

Pure planning for ``mvc repack``. Contents are nodes; a way to store one is an arc from its base, or from nothing.
Storing each content in one way without going in circles, at the least sum of stored bytes, is the minimum-cost
arborescence of Edmonds; with a bound on depth and on bytes read it is NP-hard (Bhattacherjee et al., "Principles of
Dataset Versioning", VLDB 2015, problem 6), and `solve` gives the best of several heuristics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mvc.errors import InvalidInputError
from mvc.repo.assignment import Assignment, Choice, Problem, grow, summits
from mvc.repo.connected import connected
from mvc.repo.edmonds import Arc, minimum_arborescence
from mvc.repo.reparenting import improve
from mvc.settings import Delta
from mvc.types import ObjectId

__all__ = ["Reading", "Totals", "Version", "Way", "readings", "solve", "totals"]

_MOST_ROOTS: Final = 16
"""Contents of a component that are tried as the first full encoding. They bring synthetic histories of 30 to 200
contents, whose bounds cost 3 to 8 % over the arborescence without bounds, by 0.5 to 0.8 % of the total closer to it;
and with them nearly all histories of up to five contents come out at the optimum (without, 97 of 100)."""

_TRIED_NODES: Final = 20_000
"""Contents of all assignments that begin with one of those: large histories get fewer. Each costs about 0.3 ms."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to store a content.

    Parameters
    ----------
    sides : tuple of ObjectId
        The contents that are needed to decode it; none for a full encoding.
    stored_bytes : float
        Size of the blob, or an estimate.
    """

    sides: tuple[ObjectId, ...]
    stored_bytes: float


@dataclass(frozen=True, slots=True)
class Version:
    """A content and how it may be stored.

    Parameters
    ----------
    id : ObjectId
        Content id.
    raw_bytes : int
        Decoded size.
    current : Way
        How it is stored now.
    ways : tuple of Way
        Ways to choose from, beside `current`. Without any, it stays as it is.
    """

    id: ObjectId
    raw_bytes: int
    current: Way
    ways: tuple[Way, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What it takes to rebuild a content.

    Parameters
    ----------
    depth : int
        Contents to be decoded before it, on the longest way.
    read_bytes : float
        Stored bytes read, its own included; what is needed twice counts twice.
    """

    depth: int
    read_bytes: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What contents take to store and to rebuild.

    Parameters
    ----------
    stored_bytes, read_bytes : float
        Sums over all contents.
    worst_read_bytes : float
        Of the content that takes most to rebuild.
    worst_depth : int
        Of the content furthest from a full encoding.
    """

    stored_bytes: float
    read_bytes: float
    worst_read_bytes: float
    worst_depth: int


def readings(ways: Mapping[ObjectId, Way]) -> Mapping[ObjectId, Reading]:
    """Return what it takes to rebuild each content that is stored in the given way.

    Raises
    ------
    InvalidInputError
        If a content is needed that is not among them, or needs itself.

    Examples
    --------
    >>> first, second = ObjectId("1" * 64), ObjectId("2" * 64)
    >>> readings({second: Way((first,), 30.0), first: Way((), 100.0)})[second]
    Reading(depth=1, read_bytes=130.0)
    """
    ids = list(ways)
    choices = _numbered(ids, [(way,) for way in ways.values()])
    nothing = [0] * len(ids)
    assigned = _assigned(Problem(choices, nothing, nothing, nothing, nothing), nothing)
    return {oid: Reading(assigned.depth[node], assigned.read[node]) for node, oid in enumerate(ids)}


def totals(ways: Mapping[ObjectId, Way]) -> Totals:
    """Return what contents that are stored in the given ways take in all, and at worst.

    Raises
    ------
    InvalidInputError
        As for `readings`.

    Examples
    --------
    >>> first, second = ObjectId("1" * 64), ObjectId("2" * 64)
    >>> totals({first: Way((), 100.0), second: Way((first,), 30.0)})
    Totals(stored_bytes=130.0, read_bytes=230.0, worst_read_bytes=130.0, worst_depth=1)
    """
    found = readings(ways).values()
    read = [reading.read_bytes for reading in found]
    depth = max((reading.depth for reading in found), default=0)
    return Totals(math.fsum(way.stored_bytes for way in ways.values()), math.fsum(read), max(read, default=0.0), depth)


def solve(versions: Sequence[Version], bounds: Delta) -> Mapping[ObjectId, Way]:
    """Return a way to store each content, of little stored bytes in all, and never more than now.

    Depth and bytes read of a content stay within the bounds that `mvc.repo.plan.choose` keeps: ``bounds.depth``, and
    the larger of ``bounds.read_factor`` times its raw bytes and its smallest full encoding. One that breaks a bound now
    keeps to what it takes now. A way with sides other than the current one is taken only if it saves
    ``bounds.least_saving`` of the smallest full encoding.

    Parameters
    ----------
    versions : sequence of Version
        In any order; each content once, and all that they need.
    bounds : Delta
        The bounds.

    Returns
    -------
    mapping
        By content, in the order of `versions`: one of its ways, or its current one if nothing is gained.

    Raises
    ------
    InvalidInputError
        If a content is there twice, a way needs one that is missing, or contents are stored in a circle now.

    Notes
    -----
    Contents that share no way are solved apart. Where the minimum-cost arborescence keeps the bounds, it is the
    optimum. Else it is mended where it breaks them, a second assignment is grown by Modified Prim, the current one is a
    third, local search improves each, and the smallest wins; of equal ones the current one. Deterministic.

    Examples
    --------
    >>> one, two, three = (ObjectId(digit * 64) for digit in "123")
    >>> full = Way((), 100.0)
    >>> history = [
    ...     Version(one, 120, full),
    ...     Version(two, 120, full, (Way((one,), 40.0), Way((three,), 20.0))),
    ...     Version(three, 120, full, (Way((two,), 30.0), Way((one,), 40.0))),
    ... ]
    >>> [solve(history, Delta())[oid].stored_bytes for oid in (one, two, three)]
    [100.0, 20.0, 40.0]
    >>> [solve(history, Delta(depth=1))[oid].stored_bytes for oid in (one, two, three)]
    [100.0, 40.0, 40.0]
    """
    ways = [_sorted_ways(version, bounds) for version in versions]
    current = [found.index(version.current) for found, version in zip(ways, versions, strict=True)]
    choices = _numbered([version.id for version in versions], ways)
    problem = _bounded(versions, choices, current, bounds)
    chosen, roots = current.copy(), min(_MOST_ROOTS, _TRIED_NODES // max(1, problem.size))
    for nodes in _components(choices):
        part = _solved(_part(problem, nodes), [current[node] for node in nodes], roots)
        for node, index in zip(nodes, part, strict=True):
            chosen[node] = index
    return {version.id: ways[node][chosen[node]] for node, version in enumerate(versions)}


def _smallest_full(version: Version) -> float:
    """Return the size of the smallest full encoding; infinite if there is none."""
    return min((way.stored_bytes for way in (version.current, *version.ways) if not way.sides), default=math.inf)


def _sorted_ways(version: Version, bounds: Delta) -> list[Way]:
    """Return the ways that are worth their sides, and the current one, the smallest first; one for equal sides."""
    worthwhile = _smallest_full(version) * (1 - bounds.least_saving)
    smallest: dict[tuple[ObjectId, ...], Way] = {}
    for way in sorted(version.ways, key=lambda way: way.stored_bytes):
        if version.id not in way.sides and (not way.sides or way.stored_bytes < worthwhile):
            smallest.setdefault(way.sides, way)
    current = version.current
    others = [way for way in smallest.values() if way != current]
    return sorted([current, *others], key=lambda way: way.stored_bytes)


def _numbered(ids: Sequence[ObjectId], ways: Sequence[Sequence[Way]]) -> list[list[Choice]]:
    """Return ways with numbers in the place of ids."""
    number = {oid: node for node, oid in enumerate(ids)}
    if len(number) < len(ids):
        raise InvalidInputError("a content is to be stored in two ways")
    try:
        return [
            [Choice(tuple(number[side] for side in way.sides), way.stored_bytes) for way in found] for found in ways
        ]
    except KeyError as error:
        raise InvalidInputError(f"content {error.args[0]} is needed, but is not among those to be stored") from None


def _assigned(problem: Problem, chosen: Sequence[int]) -> Assignment:
    order = summits([choices[index] for choices, index in zip(problem.choices, chosen, strict=True)])
    if len(order) < problem.size:
        raise InvalidInputError("contents are stored in a circle")
    return Assignment(problem, chosen, order)


def _bounded(
    versions: Sequence[Version], choices: list[list[Choice]], current: Sequence[int], bounds: Delta
) -> Problem:
    """Return the problem with the bounds of every content, which the current assignment keeps."""
    depth, read = [bounds.depth] * len(versions), [_most_read(version, bounds) for version in versions]
    now = _assigned(Problem(choices, depth, read, depth, read), current)
    depth, read = [*map(max, depth, now.depth)], [*map(max, read, now.read)]
    safe_depth, safe_read = depth.copy(), read.copy()
    for node in reversed(summits([now.choice(node) for node in range(len(versions))])):
        if len(choices[node]) == 1:
            _tighten(now, node, safe_depth, safe_read)
    return Problem(choices, depth, read, safe_depth, safe_read)


def _most_read(version: Version, bounds: Delta) -> float:
    full = _smallest_full(version)
    return max(bounds.read_factor * version.raw_bytes, full if full < math.inf else 0.0)


def _tighten(now: Assignment, node: int, depth: list[int], read: list[float]) -> None:
    """Lower the bounds of what a content that stays as it is needs, so far that it keeps its own.

    What it may read beyond what it reads now is divided equally among its sides.
    """
    sides = now.choice(node).sides
    for side in sides:
        spare = max(0.0, read[node] - now.read[node]) / len(sides)
        depth[side] = min(depth[side], depth[node] - 1)
        read[side] = min(read[side], now.read[side] + spare)


def _components(choices: Sequence[Sequence[Choice]]) -> Iterable[list[int]]:
    """Return the nodes, apart by whether they can be reached from each other, whatever the direction; ascending."""
    pairs = ((node, side) for node, found in enumerate(choices) for choice in found for side in choice.sides)
    return connected(len(choices), pairs)


def _part(problem: Problem, nodes: Sequence[int]) -> Problem:
    """Return the problem of a component, with numbers of its own."""
    number = {node: place for place, node in enumerate(nodes)}
    choices = [
        [Choice(tuple(number[side] for side in sides), cost) for sides, cost in problem.choices[node]] for node in nodes
    ]
    depth, read = [problem.most_depth[n] for n in nodes], [problem.most_read[n] for n in nodes]
    return Problem(choices, depth, read, [problem.safe_depth[n] for n in nodes], [problem.safe_read[n] for n in nodes])


def _solved(problem: Problem, current: Sequence[int], roots: int) -> list[int]:
    """Return the choices of the best assignment found for a component."""
    best = now = _assigned(problem, current)
    for start in _starts(problem, now, roots):
        if start.cost < best.cost:
            best = start
    return best.chosen


def _starts(problem: Problem, now: Assignment, roots: int) -> Iterator[Assignment]:
    """Yield assignments that keep the bounds; only one if it is the optimum, which may be none at all."""
    tree = _cheapest_tree(problem)
    mended = grow(problem, dict(enumerate(tree)))
    if mended is not None and mended.chosen == tree:
        yield mended
        return
    again = _assigned(problem, now.chosen)
    for start in (again, mended, grow(problem, {}), *(grow(problem, root) for root in _roots(problem, roots))):
        if start is not None:
            improve(start)
            yield start


def _roots(problem: Problem, most: int) -> Iterator[Mapping[int, int]]:
    """Yield what assignments are to begin with: the full encoding of so many nodes, one each, evenly spread."""
    count = min(most, problem.size)
    for node in (number * problem.size // count for number in range(count)):
        for index, choice in enumerate(problem.choices[node]):
            if not choice.sides:
                yield {node: index}


def _cheapest_tree(problem: Problem) -> list[int]:
    """Return the choices of the minimum-cost arborescence; what several sides are needed for counts as full."""
    arcs, index = [], []
    for node, choices in enumerate(problem.choices):
        for number, choice in enumerate(choices):
            arcs.append(Arc(choice.sides[0] if len(choice.sides) == 1 else problem.size, node, choice.cost))
            index.append(number)
    return [index[arc] for arc in minimum_arborescence(problem.size, arcs)]
