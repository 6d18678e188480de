"""Which commits one side has and the other lacks, by what both know of history."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mvc.errors import IntegrityError
from mvc.index import CommitRecord
from mvc.objects.manifest import Manifest, SegmentKind
from mvc.repo.log import CommitPages
from mvc.repo.partial import Contents
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["Between", "check_same", "commits_between", "contents_of", "is_ancestor", "neighbours", "new_contents"]

_SIDE_BY_SIDE: Final = 16
"""Commits whose tensors are put side by side. With more, each batch would be small pieces of many packs."""


@dataclass(frozen=True, slots=True)
class Between:
    """What one side lacks.

    Parameters
    ----------
    commits : tuple of CommitRecord
        Parents first.
    boundary : frozenset of ObjectId
        Their parents that the other side has.
    """

    commits: tuple[CommitRecord, ...]
    boundary: frozenset[ObjectId]


def commits_between(session: Session, tips: Iterable[ObjectId], haves: Iterable[ObjectId]) -> Between:
    """Return the commits that `tips` reach and `haves` do not; reads no more of history than tells the two apart.

    Raises
    ------
    IntegrityError
        If a commit is missing.
    """
    pages = CommitPages(session)
    known = set(haves)
    waiting = set(tips) - known  # not looked at yet, and not known to the other side
    queued = known | waiting
    heap = [(-pages.get(oid).position, oid) for oid in queued]
    heapq.heapify(heap)
    found: list[CommitRecord] = []
    while waiting:
        record = pages.get(heapq.heappop(heap)[1])  # positions fall from child to parent: all its children were seen
        waiting.discard(record.id)
        if record.id not in known:
            found.append(record)
        for parent in record.parents:
            if parent not in queued:
                queued.add(parent)
                heapq.heappush(heap, (-pages.get(parent).position, parent))
            if record.id in known:
                known.add(parent)
                waiting.discard(parent)
            elif parent not in known:
                waiting.add(parent)
    new = {record.id for record in found}
    below = {parent for record in found for parent in record.parents}
    return Between(tuple(reversed(found)), frozenset(below - new))


def is_ancestor(session: Session, oid: ObjectId, of: ObjectId) -> bool:
    """Return whether a commit is another one, or is below it."""
    return not commits_between(session, [oid], [of]).commits


def contents_of(manifests: Iterable[Manifest]) -> Contents:
    """Return the contents that manifests name."""
    return {oid: (kind, length) for item in manifests for (kind, oid), length in item.segments().items()}


def new_contents(manifests: Iterable[Manifest], known: Contents) -> Contents:
    """Return the contents that `manifests` name, oldest first, and that are not `known`.

    Raises
    ------
    IntegrityError
        If two manifests disagree on the kind or the size of one.
    """
    found: dict[ObjectId, tuple[SegmentKind, int]] = {}
    for manifest in manifests:
        for segment in (segment for file in manifest.files for segment in file.segments):
            what = segment.kind, segment.length
            check_same(segment.id, known.get(segment.id) or found.setdefault(segment.id, what), what)
    return found


def neighbours(contents: Contents, manifests: Iterable[Manifest]) -> Contents:
    """Return `contents` in an order in which versions of the same tensor of neighbouring commits follow each other.

    Most are deltas of each other: who decodes them in this order still has in memory what the next one needs.

    Parameters
    ----------
    contents : mapping of ObjectId to (SegmentKind, int)
        Some of those that `manifests` name.
    manifests : iterable of Manifest
        Of commits, oldest first, whose files are alike, mostly: the same tensor is then at the same place of all.
    """
    places: dict[ObjectId, tuple[int, int]] = {}
    for number, manifest in enumerate(manifests):
        for place, segment in enumerate(segment for file in manifest.files for segment in file.segments):
            places.setdefault(segment.id, (number // _SIDE_BY_SIDE, place))
    return {oid: contents[oid] for oid in sorted(contents, key=places.__getitem__)}


def check_same(oid: ObjectId, before: tuple[SegmentKind, int], now: tuple[SegmentKind, int]) -> None:
    """Raise IntegrityError if a manifest says of a content what is not so elsewhere."""
    if before != now:
        raise IntegrityError(f"content {oid} is a {before[0]} of {before[1]:,} bytes, not a {now[0]} of {now[1]:,}")
