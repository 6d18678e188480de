"""How everything that is live could be stored in fewer bytes: decided, not done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
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


def plan_repack(versions: Sequence[Version], bounds: Delta, dead: AbstractSet[ObjectId] = frozenset()) -> RepackPlan:
    """Choose how to store each content, by estimates.

    Parameters
    ----------
    versions : sequence of Version
        Everything that is live, with the ways that it could be stored in.
    bounds : Delta
        Bounds on depth and bytes read.
    dead : set of ObjectId
        Those of them that go when nothing is a delta of them any more.
    """
    bounds = replace(bounds, read_factor=bounds.read_factor * _MARGIN)
    ways = dict(solve(versions, bounds))
    for part in _related(versions) if dead else ():
        if not dead.isdisjoint(version.id for version in part):
            apart = _apart(part, bounds, dead)
            if _stored_bytes(part, apart, dead) < _stored_bytes(part, ways, dead):
                ways |= apart
    return _plan(versions, ways, dead)


def _related(versions: Sequence[Version]) -> Iterable[list[Version]]:
    """Yield contents of which some may be stored with the help of others."""
    number = {version.id: place for place, version in enumerate(versions)}
    pairs = (
        (place, number[side])
        for place, version in enumerate(versions)
        for way in (version.current, *version.ways)
        for side in way.sides
    )
    for group in connected(len(versions), pairs):
        yield [versions[place] for place in group]


def _apart(versions: Sequence[Version], bounds: Delta, dead: AbstractSet[ObjectId]) -> dict[ObjectId, Way]:
    """Return ways for all that do without the dead ones, but for those that something without a choice needs."""
    current = {version.id: version.current for version in versions}
    fixed = [version.id for version in versions if not version.ways and version.id not in dead]
    barred = dead - _needed(fixed, current)
    free = [_free(version, barred) for version in versions if version.id not in barred]
    return {**{oid: way for oid, way in current.items() if oid in barred}, **solve(free, bounds)}


def _free(version: Version, barred: AbstractSet[ObjectId]) -> Version:
    """Return a content with those of its ways that need none of some others, a full one among them."""
    ways = tuple(way for way in version.ways if barred.isdisjoint(way.sides))
    if barred.isdisjoint(version.current.sides):
        return replace(version, ways=ways)
    return replace(version, current=next(way for way in ways if not way.sides), ways=ways)


def _needed(wanted: Iterable[ObjectId], ways: Mapping[ObjectId, Way]) -> set[ObjectId]:
    """Return some contents with all that they need."""
    found: set[ObjectId] = set()
    pending = [*wanted]
    while pending:
        oid = pending.pop()
        if oid not in found:
            found.add(oid)
            pending += ways[oid].sides
    return found


def _stored_bytes(versions: Iterable[Version], ways: Mapping[ObjectId, Way], dead: AbstractSet[ObjectId]) -> float:
    """Return what contents take with all that they need, the dead ones if others need them."""
    needed = _needed((version.id for version in versions if version.id not in dead), ways)
    return sum(ways[oid].stored_bytes for oid in needed)


def settled(
    versions: Sequence[Version],
    made: Mapping[ObjectId, Way],
    bounds: Delta,
    dead: AbstractSet[ObjectId] = frozenset(),
) -> RepackPlan:
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
    dead : set of ObjectId
        As for `plan_repack`. What was made to do without them is taken as a whole or not at all.
    """
    known = [replace(item, ways=(made[item.id],) if item.id in made else ()) for item in versions]
    ways = solve(known, bounds)
    whole = {item.id: made.get(item.id, item.current) for item in versions}
    if (
        dead
        and _stored_bytes(versions, whole, dead) < _stored_bytes(versions, ways, dead)
        and _keeps(versions, whole, bounds, dead)
    ):
        ways = whole
    return _plan(known, ways, dead)


def _keeps(
    versions: Sequence[Version], ways: Mapping[ObjectId, Way], bounds: Delta, dead: AbstractSet[ObjectId]
) -> bool:
    """Return whether ways keep the bounds, or what was broken before."""
    before, after = readings({item.id: item.current for item in versions}), readings(ways)
    return all(
        after[item.id].depth <= max(bounds.depth, before[item.id].depth)
        and (
            not ways[item.id].sides
            or after[item.id].read_bytes <= max(bounds.read_factor * item.raw_bytes, before[item.id].read_bytes)
        )
        for item in versions
        if item.id not in dead
    )


def _plan(versions: Sequence[Version], ways: Mapping[ObjectId, Way], dead: AbstractSet[ObjectId]) -> RepackPlan:
    current = {version.id: version.current for version in versions}
    changes = frozenset(oid for oid, way in ways.items() if way != current[oid])
    needed = _needed((oid for oid in current if oid not in dead), ways)
    return RepackPlan(ways, changes, totals(current), totals({oid: ways[oid] for oid in current if oid in needed}))


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
