"""``mvc repack``: store the whole history in fewer bytes, and nothing beyond the bounds on what it takes to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from mvc.errors import ConflictError
from mvc.index import BlobRecord
from mvc.repo.arborescence import Totals, Version, Way, readings, totals
from mvc.repo.candidates import Task
from mvc.repo.copies import copies_wanted, is_copy, make_copies
from mvc.repo.encode import Encoder, Stored
from mvc.repo.gc import collect
from mvc.repo.leftovers import settle_leftovers
from mvc.repo.materialize import ContentReader
from mvc.repo.plan import Option, Side
from mvc.repo.progress import Progress, silent
from mvc.repo.prune import prune
from mvc.repo.prune_plan import Verdicts, plan_prune
from mvc.repo.repack_candidates import weighed
from mvc.repo.repack_plan import RepackPlan, groups, levels, plan_repack, settled
from mvc.repo.session import Session
from mvc.repo.staging import Staging
from mvc.repo.stored_source import stored_content
from mvc.repo.survey import survey, way_of
from mvc.settings import Gc, Level
from mvc.store.layout import Location
from mvc.store.leases import STALE_SECONDS, Lease
from mvc.types import ObjectId

__all__ = ["RepackResult", "repack"]

_GROUP_BYTES: Final = 1 << 30
"""Raw bytes that are encoded before any takes the place of an old encoding: bounds the room that is taken twice."""

_KEPT_BYTES: Final = 256 << 20
"""Bytes of decoded frames kept while tensors are weighed, each against some others of its family."""


@dataclass(frozen=True, slots=True)
class RepackResult:
    """What a repack did or, with `plan_only`, would do.

    Parameters
    ----------
    contents : int
        Contents that are stored in another way now.
    live : int
        Contents in all.
    raw_bytes : int
        Their decoded size.
    before, after : Totals
        What it takes to store and to rebuild everything that is live; `after` is judged by samples for a plan.
    stored_before, stored_after : int
        Bytes of the whole store; equal for a plan.
    """

    contents: int
    live: int
    raw_bytes: int
    before: Totals
    after: Totals
    stored_before: int
    stored_after: int


def repack(
    session: Session, bounds: Gc, *, level: Level = "max", plan_only: bool = False, progress: Progress = silent
) -> RepackResult:
    """Find the near relatives of every tensor, choose what is stored as a delta of what, and store it so.

    Storage against recreation (Bhattacherjee et al., "Principles of Dataset Versioning", VLDB 2015): the fewest bytes
    under the bounds on depth and bytes read of the delta policy. Every new encoding is read back and compared with its
    id before an old one goes; ids, manifests and commits stay as they are. The store never grows. Afterwards small
    packs are merged and what nothing reaches is removed, as by `gc`.

    Parameters
    ----------
    session : Session
        The repository.
    bounds : Gc
        As for `gc`.
    level : Level
        How hard to try to be small.
    plan_only : bool
        Choose, and write nothing.
    progress : callable
        Told how far the work is.

    Raises
    ------
    IntegrityError
        If something that a ref reaches is missing or corrupt. Whatever has been replaced by then is whole.
    ConflictError
        If another process collects garbage or repacks.
    """
    session.check_writable("gc")
    if plan_only:
        return _Repack(session, bounds, level, progress).planned()
    with session.store.leases.take_maintenance("repack") as lease:
        session.store.temporaries.sweep(STALE_SECONDS)
        if settle_leftovers(session.store):
            session.refresh(force=True)
        return _Repack(session, bounds, level, progress).done(lease)


@dataclass
class _Repack:
    """A repack under way: where everything is stored by now."""

    session: Session
    bounds: Gc
    level: Level
    progress: Progress
    where: dict[ObjectId, BlobRecord] = field(default_factory=dict)
    dead: frozenset[ObjectId] = frozenset()

    def planned(self) -> RepackResult:
        """Choose, and write nothing."""
        self._look()
        with self.session.pool() as pool:
            _, plan = self._plan(pool)
        stored = self.session.store.stored_bytes().total
        return self._result(len(plan.changes), plan.before, plan.after, stored)

    def done(self, lease: Lease) -> RepackResult:
        """Choose, encode, replace, and remove what was replaced."""
        stored = self.session.store.stored_bytes().total
        self._look()
        before = dict(self.where)
        with self.session.pool() as pool:
            versions, plan = self._plan(pool)
            work = sum(self.where[oid].raw_bytes for oid in plan.changes)
            with self.progress("storing", work) as tick:
                for group in groups(versions, plan, _GROUP_BYTES):
                    self._replace(group, plan, pool, lease)
                    tick(sum(item.raw_bytes for item in group if item.id in plan.changes))
        changed = {oid for oid, record in self.where.items() if record != before[oid]}
        self._forget_dead()
        self._copy()
        self._prune(changed, lease)
        after = totals({oid: way_of(record) for oid, record in self.where.items()})
        return self._result(len(changed), plan.before, after, stored)

    def _result(self, contents: int, before: Totals, after: Totals, stored: int) -> RepackResult:
        raw = sum(record.raw_bytes for record in self.where.values())
        now = self.session.store.stored_bytes().total
        return RepackResult(contents, len(self.where), raw, before, after, stored, now)

    def _look(self) -> None:
        """Find out how all that is live is stored, and which of its bases go when they are not needed any more."""
        known = collect(self.session, self.bounds)
        self.where = known.found.chain(known.live.contents)
        self.dead = frozenset(
            oid
            for oid, record in self.where.items()
            if oid not in known.live.contents
            and all(
                known.found.files[other.location.pack or oid].modified <= known.cutoff
                for other in (record, *known.found.blobs[oid])
            )
        )

    def _plan(self, pool: Executor) -> tuple[list[Version], RepackPlan]:
        reader = self._reader(pool, _KEPT_BYTES)
        level: Level = "default" if self.level == "max" else self.level
        encoder = Encoder(reader, pool, 2 * self.session.threads, level, self.session.settings.delta)
        with self.progress("weighing", sum(record.raw_bytes for record in self.where.values())) as tick:
            versions = weighed(self.where, self.dead, reader, encoder, pool, 2 * self.session.threads, tick)
        return versions, plan_repack(versions, self.session.settings.delta, self.dead)

    def _reader(self, pool: Executor, keep_bytes: int = 0) -> ContentReader:
        """Return a reader of everything as it is stored by now."""

        def locate(ids: Iterable[ObjectId]) -> dict[ObjectId, Location]:
            """Return where contents, and all that they need, are stored."""
            found: dict[ObjectId, Location] = {}
            pending = [*ids]
            while pending:
                oid = pending.pop()
                if oid not in found and oid in self.where:
                    found[oid] = self.where[oid].location
                    pending += [item.id for item in self.where[oid].references]
            return found

        return ContentReader(self.session, pool, locate, keep_bytes=keep_bytes)

    def _replace(self, group: Sequence[Version], plan: RepackPlan, pool: Executor, lease: Lease) -> None:
        """Encode what changes in a group, and have it take the place of the old, as far as that is a gain."""
        with Staging(self.session.store) as staging:
            made = self._encode(group, plan, staging, pool)
            ways = {oid: _way(item) for oid, item in made.items()}
            final = settled(group, ways, self.session.settings.delta, self.dead)
            if not final.changes:
                return
            _renew(lease)
            self.session.forget_index()
            published = staging.publish(levels(final.ways, final.changes))
            old = {oid: self.where[oid] for oid in final.changes}
            self.where |= {oid: _moved(old[oid], published[oid], made[oid].option) for oid in final.changes}
            try:
                self._check(list(final.changes), pool)
                _renew(lease)
            except BaseException:
                self.where |= old
                staging.bring_back()
                raise
            finally:
                self.session.refresh(force=True, again=final.changes)
            staging.drop_replaced()

    def _encode(
        self, group: Sequence[Version], plan: RepackPlan, staging: Staging, pool: Executor
    ) -> dict[ObjectId, Stored]:
        """Encode what changes in a group."""
        ways = {item.id: plan.ways[item.id] for item in group}
        changes = [oid for level in levels(ways, plan.changes & ways.keys()) for oid in level]
        found, reader = readings(ways), self._reader(pool)

        def task(oid: ObjectId) -> Task:
            """Return a content and the tensor that it is to be a delta of."""
            sides = (Side("base", side, found[side].depth, int(found[side].read_bytes)) for side in ways[oid].sides)
            return stored_content(reader, self.where[oid].kind, oid), tuple(sides)

        encoder = Encoder(self._reader(pool), pool, 2 * self.session.threads, self.level, self.session.settings.delta)
        stored = encoder.store(map(task, changes), staging)
        return {item.content.id: item for item in stored}

    def _check(self, ids: Sequence[ObjectId], pool: Executor) -> None:
        """Read what was encoded back from where it is now; IntegrityError if it is not what its id says."""
        reader = self._reader(pool)
        for oid in ids:
            reader.check(reader.copy(oid, self.where[oid].location))  # no other copy steps in

    def _forget_dead(self) -> None:
        """Leave out what nothing is a delta of any more."""
        needed: dict[ObjectId, BlobRecord] = {}
        pending = [oid for oid in self.where if oid not in self.dead]
        while pending:
            oid = pending.pop()
            if oid not in needed:
                needed[oid] = self.where[oid]
                pending += [item.id for item in self.where[oid].references]
        self.where = needed

    def _copy(self) -> None:
        """Make second copies where the settings want them and there are none."""
        if not self.bounds.copies_from:
            return
        found = survey(self.session.store).blobs
        wanted = copies_wanted(self.where, self.bounds.copies_from)
        single = (oid for oid in sorted(wanted) if not any(is_copy(other, self.where[oid]) for other in found[oid]))
        make_copies(self.session.store, [self.where[oid] for oid in single])

    def _prune(self, changed: AbstractSet[ObjectId], lease: Lease) -> None:
        """Remove what was replaced in packs, what nothing reaches, and small packs."""
        preferred = {oid: record.location.pack for oid, record in self.where.items()}
        known = collect(self.session, self.bounds, preferred)
        replaced = {place for place in known.found.objects if place[0] in changed and place not in known.needed}
        verdicts = Verdicts(known.needed, replaced)
        plan = plan_prune(known.found, verdicts, known.cutoff, self.bounds, merge_all=True)
        wanted = partial(known.newly_live, self.session)
        prune(self.session, known.found, plan, known.needed, wanted, lease, checked=changed)


def _renew(lease: Lease) -> None:
    """Stop here if others took this process for dead: they may be at the same files."""
    if not lease.renew():
        raise ConflictError("another process collects garbage or repacks meanwhile", hint="run mvc repack again")


def _way(stored: Stored) -> Way:
    return Way(tuple(item.id for item in stored.option.references), stored.stored_bytes)


def _moved(old: BlobRecord, location: Location, option: Option) -> BlobRecord:
    """Return what is known of a content that is stored in another way now; its chain is looked at when it is needed."""
    return replace(old, location=location, codec=option.codec.name, references=option.references, depth=option.depth)
