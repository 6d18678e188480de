"""How everything that is live could be stored in fewer bytes: decided, not done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mvc.repo.arborescence import Totals, Version, Way, readings, solve, totals
from mvc.repo.connected import connected
from mvc.settings import Delta
from mvc.types import ObjectId

__all__ = ["RepackPlan", "groups", "levels", "plan_repack", "settled"]

_MARGIN = 0.97
"""Share of the bound on bytes read that planning uses: estimates of sizes are off by some per cent."""


@dataclass(frozen=True)
class RepackPlan:
    """Which contents are to be encoded again.

    Parameters
    ----------
    ways : mapping of ObjectId to Way
        How everything would be stored.
    changes : frozenset of ObjectId
        What of it differs from how it is stored now.
    before, after : Totals
        What it takes to store and to rebuild everything, now and, as far as that can be judged, afterwards.
    """

    ways: Mapping[ObjectId, Way]
    changes: frozenset[ObjectId]
    before: Totals
    after: Totals


def plan_repack(versions: Sequence[Version], bounds: Delta) -> RepackPlan:
    """Choose how to store each content, by estimates.

    Parameters
    ----------
    versions : sequence of Version
        Everything that is live, with the ways that it could be stored in.
    bounds : Delta
        Bounds on depth and bytes read.
    """
    ways = solve(versions, replace(bounds, read_factor=bounds.read_factor * _MARGIN))
    return _plan(versions, ways)


def settled(versions: Sequence[Version], made: Mapping[ObjectId, Way], bounds: Delta) -> RepackPlan:
    """Choose again among what is stored and what was encoded, now that all sizes are known.

    So the result is never larger than before, and keeps the bounds, however wrong the estimates were.

    Parameters
    ----------
    versions : sequence of Version
        As for `plan_repack`.
    made : mapping of ObjectId to Way
        New encodings, with their real sizes.
    bounds : Delta
        Bounds on depth and bytes read.
    """
    known = [replace(item, ways=(made[item.id],) if item.id in made else ()) for item in versions]
    return _plan(known, solve(known, bounds))


def _plan(versions: Sequence[Version], ways: Mapping[ObjectId, Way]) -> RepackPlan:
    current = {version.id: version.current for version in versions}
    changes = frozenset(oid for oid, way in ways.items() if way != current[oid])
    return RepackPlan(ways, changes, totals(current), totals(ways))


def groups(versions: Sequence[Version], plan: RepackPlan, most_bytes: int) -> Iterable[tuple[Version, ...]]:
    """Yield contents that are to be encoded again, with all that these and others of them need, now or then.

    What is connected is in one group; small groups are joined.

    Parameters
    ----------
    versions : sequence of Version
        Everything that is live.
    plan : RepackPlan
        What changes.
    most_bytes : int
        Raw bytes of what changes in a group that is joined of several.
    """
    by_id = {version.id: version for version in versions}
    joined: list[Version] = []
    size = 0
    for part in _components(by_id, plan):
        weight = sum(by_id[oid].raw_bytes for oid in part if oid in plan.changes)
        if not weight:
            continue
        if joined and size + weight > most_bytes:
            yield tuple(joined)
            joined, size = [], 0
        joined += [by_id[oid] for oid in part]
        size += weight
    if joined:
        yield tuple(joined)


def _components(versions: Mapping[ObjectId, Version], plan: RepackPlan) -> Iterable[list[ObjectId]]:
    """Yield contents that need each other, now or then, directly or not."""
    ids = list(versions)
    number = {oid: place for place, oid in enumerate(ids)}
    pairs = (
        (number[oid], number[side])
        for oid, version in versions.items()
        for side in (*version.current.sides, *plan.ways[oid].sides)
    )
    for part in connected(len(ids), pairs):
        yield [ids[place] for place in part]


def levels(ways: Mapping[ObjectId, Way], chosen: Iterable[ObjectId]) -> list[list[ObjectId]]:
    """Return `chosen` by depth: what is needed by others before those."""
    found = readings(ways)
    result: dict[int, list[ObjectId]] = {}
    for oid in chosen:
        result.setdefault(found[oid].depth, []).append(oid)
    return [result[depth] for depth in sorted(result)]
