"""Carrying out a `PrunePlan` beside other processes: nothing goes that one of them needs (docs/decisions/011)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Final

from mvc.errors import NotFoundError
from mvc.repo.materialize import ContentReader
from mvc.repo.prune_plan import PackRewrite, PrunePlan, Removal, Tally
from mvc.repo.session import Session
from mvc.repo.survey import Place, Survey, survey
from mvc.store.batch import WriteBatch
from mvc.store.layout import StoredObject
from mvc.store.leases import SKEW_SECONDS, Lease
from mvc.store.metadata import unwrap_metadata
from mvc.store.object_store import ObjectStore
from mvc.store.packs import index_path
from mvc.types import ObjectId

__all__ = ["Pruned", "prune"]

_MICRO: Final = 1_000_000

Wanted = Callable[[], Collection[ObjectId]]
"""Returns what has come to be needed since the plan was made."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done.

    Parameters
    ----------
    freed : Tally
        Objects that went, and by how many bytes the files are smaller.
    spared : int
        Files that stayed because somebody came to need them meanwhile.
    """

    freed: Tally
    spared: int


def prune(
    session: Session,
    found: Survey,
    plan: PrunePlan,
    needed: Collection[Place],
    wanted: Wanted,
    lease: Lease,
    *,
    checked: Collection[ObjectId] = frozenset(),
) -> Pruned:
    """Remove what `plan` says, less what turns out to be needed.

    What moves from one pack to another is stored again before its old file is touched. Files are condemned, looked at
    again, and only then removed; if this process is stopped in between, they are found by whoever needs them.

    Parameters
    ----------
    session : Session
        The repository.
    found : Survey
        What the plan was made from.
    plan : PrunePlan
        What to do.
    needed : collection of Place
        What must be there afterwards, at these places or moved from them by the plan.
    wanted : callable
        Asked after everything was condemned.
    lease : Lease
        That for maintenance: if others took it away, they may be at the same files, and nothing is removed.
    checked : collection of ObjectId
        Contents that are known to be whole where `needed` says.

    Raises
    ------
    IntegrityError
        If a pack that is to be written anew is corrupt, or the copy that is to stay of something that is stored more
        than once. Nothing is removed.
    """
    store = session.store
    _check_copies(session, found, plan, needed, checked)
    moved = _move(store, plan.rewrites)
    doomed = [item for item in plan.files if item.holder not in moved]
    if not doomed:
        return Pruned(Tally(), 0)
    _index_packs(store, {pack for _, pack in needed if pack} - {item.holder for item in doomed})
    _make_durable(store, found, {pack or oid for oid, pack in needed})
    session.forget_index()
    removed = _evict(session, found, doomed, needed, wanted, lease)
    before = {item.holder: item.file.size for item in plan.files}
    grown = sum(size - before.get(pack, 0) for pack, size in moved.items())
    freed = sum(item.file.size for item in removed) - grown
    return Pruned(Tally(sum(len(item.objects) for item in removed), freed), len(doomed) - len(removed))


def _evict(
    session: Session,
    found: Survey,
    doomed: Sequence[Removal],
    needed: Collection[Place],
    wanted: Wanted,
    lease: Lease,
) -> list[Removal]:
    """Condemn files, look again, remove those that nobody needs, and return them."""
    store = session.store
    condemned = [item for item in doomed if store.evictions.condemn(item.file.path)]
    removed: list[Removal] = []
    try:
        spared = _spared(store, found, condemned, needed, wanted)
        if not lease.renew():
            spared = {item.holder for item in condemned}
        for item in condemned:
            if item.holder not in spared:
                _remove(store, item)
                removed.append(item)
    finally:
        gone = {item.holder for item in removed}
        for item in condemned:
            if item.holder not in gone:
                store.evictions.spare(item.file.path)
        store.packs.refresh()
        session.refresh(force=True)
    return removed


def _check_copies(
    session: Session, found: Survey, plan: PrunePlan, needed: Collection[Place], checked: Collection[ObjectId]
) -> None:
    """Refuse to remove copies of what stays if the one that stays is corrupt: readers use the others."""
    store, doomed = session.store, {oid for item in plan.files for oid in item.objects} - {*checked}
    with session.pool() as pool:
        reader = ContentReader(session, pool)
        for place in sorted((place for place in needed if place[0] in doomed), key=lambda place: place[0]):
            item = found.objects[place]
            if item.kind is not None and item.kind.is_metadata:
                unwrap_metadata(store.read(item.oid, item.location), f"object {item.oid[:12]}")
                continue
            reader.check(reader.copy(item.oid, item.location))


def _move(store: ObjectStore, rewrites: Sequence[PackRewrite]) -> dict[ObjectId, int]:
    """Store again what moves; return the packs that it is in now, and their sizes.

    What several packs hold may be put together to just what one of them was: that one then stays.
    Two encodings of one content go to different packs: others may depend on either.
    """
    for rewrite in rewrites:
        store.packs.verify(rewrite.removal.holder)
    pending = [item for rewrite in rewrites for item in rewrite.keep]
    packs: dict[ObjectId, int] = {}
    while pending:
        with store.begin() as batch:
            pending = [item for item in pending if not _put(store, item, batch)]
            for pack in {location.pack for location in batch.commit().values()}:
                assert pack is not None, "what moves goes into packs"
                store.packs.verify(pack)
                packs[pack] = store.fs.size(store.path(pack, pack)) or 0
    return packs


def _put(store: ObjectStore, item: StoredObject, batch: WriteBatch) -> bool:
    """Put an entry of a pack into a batch; False if that holds the same object already."""
    assert item.kind is not None, "only entries of packs move"
    return item.oid not in batch and batch.put(item.kind, item.oid, store.packs.read(item.oid, item.location))


def _index_packs(store: ObjectStore, staying: Collection[ObjectId]) -> None:
    """Write the indexes that packs lack, as after a crash: who fetches finds packs by them (remotes-v1, 3)."""
    for pack in staying:
        if store.fs.size(index_path(store.packs.directory, pack)) is None:
            store.packs.rebuild_index(pack)


def _make_durable(store: ObjectStore, found: Survey, staying: Collection[ObjectId]) -> None:
    """Have the names of what stays survive a crash: others may have stored it, and not have come to this yet."""
    for directory in {found.files[holder].path.parent for holder in staying}:
        store.fs.fsync_dir(directory)
    with suppress(NotFoundError):  # a bare repository that only clients have written has none
        store.fs.fsync_dir(store.loose.directory)


def _relied_on(store: ObjectStore, condemned: Sequence[Removal], needed: Collection[Place]) -> list[Removal]:
    """Return which of the condemned a process may rely on that took a lease since they were judged.

    It has touched them, but before they were looked at, and by a clock that is behind.
    """
    starts = (lease.start / _MICRO - SKEW_SECONDS for lease in store.leases.live())  # before refs are looked at
    oldest, stays = min(starts, default=inf), {oid for oid, _ in needed}
    return [item for item in condemned if item.file.modified > oldest and not stays.issuperset(item.objects)]


def _spared(
    store: ObjectStore, found: Survey, condemned: Sequence[Removal], needed: Collection[Place], wanted: Wanted
) -> set[ObjectId]:
    """Return which of the condemned must not go."""
    relied = _relied_on(store, condemned, needed)
    if not _is_whole(survey(store), found, needed):
        return {item.holder for item in condemned}  # another process removes at the same time
    touched = [item for item in condemned if store.evictions.modified(item.file.path) != item.file.modified]
    touched += relied
    missed = {*wanted(), *(oid for item in touched for oid in item.objects)}
    missed |= found.chain(missed).keys()
    return {item.holder for item in condemned if not missed.isdisjoint(item.objects)} | {i.holder for i in touched}


def _is_whole(there: Survey, before: Survey, needed: Iterable[Place]) -> bool:
    """Return True if everything that is needed is there, and every content of it can be rebuilt."""
    stored = {oid for oid, _ in there.objects}
    return all(oid in (there.blobs if oid in before.blobs else stored) for oid, _ in needed)


def _remove(store: ObjectStore, item: Removal) -> None:
    if item.file.path.parent == store.packs.directory:
        store.packs.delete_index(item.holder)
    store.evictions.remove(item.file.path)
