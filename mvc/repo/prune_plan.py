"""Which files go, which packs are written anew, and why the rest stays: decided, not done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from mvc.repo.survey import Place, StoredFile, Survey
from mvc.settings import Gc
from mvc.store.batch import PACK_LIMIT
from mvc.store.layout import StoredObject
from mvc.store.packs import packed_bytes
from mvc.types import ObjectId

__all__ = ["SHARED", "YOUNG", "PackRewrite", "PrunePlan", "Removal", "Tally", "Verdicts", "plan_prune"]

_SMALL_PACK: Final = 16 << 20
"""Bytes below which a pack is small: those of the commits of most models. What is merged of them is copied once."""

YOUNG: Final = "younger than the grace period"
SHARED: Final = "in a pack with what stays"


@dataclass(frozen=True, slots=True)
class Tally:
    """So many objects, of so many stored bytes."""

    objects: int = 0
    stored_bytes: int = 0

    def plus(self, found: StoredObject) -> Tally:
        """Return the tally with one more object."""
        return Tally(self.objects + 1, self.stored_bytes + found.location.length)


@dataclass(frozen=True, slots=True)
class Removal:
    """A file that goes.

    Parameters
    ----------
    holder : ObjectId
        The pack, or the content of a loose blob.
    file : StoredFile
        The file, as it was when it was judged.
    objects : tuple of ObjectId
        Those that it holds and that nobody needs.
    """

    holder: ObjectId
    file: StoredFile
    objects: tuple[ObjectId, ...]


@dataclass(frozen=True, slots=True)
class PackRewrite:
    """A pack whose objects move to another, less some of them.

    Parameters
    ----------
    removal : Removal
        Its file, with the objects that do not move.
    keep : tuple of StoredObject
        What moves, in the order of the pack.
    """

    removal: Removal
    keep: tuple[StoredObject, ...]


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a garbage collection does.

    Parameters
    ----------
    removals : tuple of Removal
        Loose blobs and packs of which nothing stays.
    rewrites : tuple of PackRewrite
        Packs of which something stays.
    kept : mapping of str to Tally
        By reason: what stays.
    """

    removals: tuple[Removal, ...] = ()
    rewrites: tuple[PackRewrite, ...] = ()
    kept: Mapping[str, Tally] = field(default_factory=dict)

    @property
    def freed(self) -> Tally:
        """What goes: whole files, and from packs that are written anew what does not move."""
        moved = sum(packed_bytes(lengths, PACK_LIMIT) for lengths in _batches(self.rewrites))
        return Tally(sum(len(item.objects) for item in self.files), sum(item.file.size for item in self.files) - moved)

    @property
    def files(self) -> tuple[Removal, ...]:
        """Every file that goes, also those of packs that are written anew."""
        return (*self.removals, *(rewrite.removal for rewrite in self.rewrites))


@dataclass(frozen=True)
class Verdicts:
    """What is known of single objects.

    Parameters
    ----------
    needed : mapping of Place to str
        What must stay where it is or move, and why.
    replaced : collection of Place
        What may go whatever its age: an encoding for which this process has stored, and checked, another.
    """

    needed: Mapping[Place, str]
    replaced: Collection[Place] = frozenset()


def plan_prune(found: Survey, verdicts: Verdicts, cutoff: float, bounds: Gc, *, merge_all: bool = False) -> PrunePlan:
    """Decide what goes.

    What is not needed goes if its file is older than `cutoff`. A pack goes if nothing in it stays; it is written anew
    if more than `Gc.dead_share` of it goes, or together with other small ones if there are more than
    `Gc.small_packs`.

    Parameters
    ----------
    found : Survey
        What there is.
    verdicts : Verdicts
        What is needed.
    cutoff : float
        Seconds since 1970-01-01T00:00:00Z.
    bounds : Gc
        When packs are written anew.
    merge_all : bool
        Write a pack anew also if only a little of it goes, and merge small ones even if there are few.
    """
    judge = _Judge(found, verdicts, cutoff)
    removals, rewrites, small = [], [], []
    for holder, items in _by_file(found).items():
        file = found.files[holder]
        keep = tuple(item for item in items if not judge.goes(item, file))
        gone = tuple(item for item in items if judge.goes(item, file))
        removal = Removal(holder, file, tuple(item.oid for item in gone))
        if not keep:
            removals.append(removal)
        elif gone and (merge_all or _bytes(gone) > bounds.dead_share * _bytes(items)):
            rewrites.append(PackRewrite(removal, keep))
        elif items[0].location.pack and file.size < _SMALL_PACK and (merge_all or file.modified <= cutoff):
            small.append(PackRewrite(removal, keep))
    if len(small) > (1 if merge_all else bounds.small_packs):
        rewrites += small
    gone_files = {removal.holder for removal in removals}
    return PrunePlan(tuple(removals), tuple(rewrites), judge.kept(gone_files, rewrites))


def _by_file(found: Survey) -> dict[ObjectId, list[StoredObject]]:
    """Return the objects by the file that holds them, in its order; oldest files first, so that neighbours stay so."""
    result: dict[ObjectId, list[StoredObject]] = {
        holder: [] for holder, _ in sorted(found.files.items(), key=lambda item: (item[1].modified, item[0]))
    }
    for item in sorted(found.objects.values(), key=lambda item: item.location.offset):
        if found.file_of(item):
            result[item.location.pack or item.oid].append(item)
    return {holder: items for holder, items in result.items() if items}


def _batches(rewrites: Iterable[PackRewrite]) -> Iterator[list[int]]:
    """Yield the lengths of what moves together: of an object that moves more than once, one copy at a time."""
    pending = [item for rewrite in rewrites for item in rewrite.keep]
    while pending:
        first = {item.oid: item for item in reversed(pending)}
        now = [item for item in pending if first[item.oid] is item]
        yield [item.location.length for item in now]
        pending = [item for item in pending if first[item.oid] is not item]


def _bytes(items: Iterable[StoredObject]) -> int:
    return sum(item.location.length for item in items)


@dataclass(frozen=True)
class _Judge:
    found: Survey
    verdicts: Verdicts
    cutoff: float

    def goes(self, item: StoredObject, file: StoredFile) -> bool:
        """Return True if nothing speaks for an object."""
        place = item.oid, item.location.pack
        if place in self.verdicts.needed:
            return False
        return place in self.verdicts.replaced or file.modified <= self.cutoff

    def kept(self, gone: Collection[ObjectId], rewrites: Iterable[PackRewrite]) -> dict[str, Tally]:
        """Return by reason what stays."""
        dropped = {(oid, item.removal.holder) for item in rewrites for oid in item.removal.objects}
        tallies: dict[str, Tally] = {}
        for place, item in self.found.objects.items():
            file = self.found.file_of(item)
            if file is None or (place[1] or place[0]) in gone or place in dropped:
                continue
            reason = self.verdicts.needed.get(place) or (YOUNG if file.modified > self.cutoff else SHARED)
            tallies[reason] = tallies.get(reason, Tally()).plus(item)
        return dict(sorted(tallies.items(), key=lambda item: -item[1].stored_bytes))
