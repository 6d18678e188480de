"""``mvc gc``: remove what nothing reaches any more, beside whatever else is going on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from mvc.errors import IntegrityError
from mvc.repo.arborescence import readings
from mvc.repo.clock import now
from mvc.repo.copies import copies_wanted, is_copy
from mvc.repo.features import is_partial
from mvc.repo.leftovers import settle_leftovers
from mvc.repo.liveness import Liveness
from mvc.repo.prune import Pruned, prune
from mvc.repo.prune_plan import YOUNG, PrunePlan, Tally, Verdicts, plan_prune
from mvc.repo.refs import RefState
from mvc.repo.roots import Root, roots, roots_of_refs
from mvc.repo.session import Session
from mvc.repo.survey import Place, Preferred, Survey, survey, way_of
from mvc.settings import Gc
from mvc.store.leases import SKEW_SECONDS, STALE_SECONDS
from mvc.types import ObjectId

__all__ = ["BASES", "Collection", "GcResult", "collect", "foresee", "gc"]

BASES: Final = "bases of deltas"
"""Why a content stays that only deltas of others need."""
_COPIES: Final = "second copies"
_LEAST_AGE: Final = 2.0
"""Seconds for which a file is young whatever the settings say: clocks of file systems tick as slowly as that (FAT), and
a file that is touched within one tick looks untouched."""
_DAY: Final = 86_400
_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class GcResult:
    """What a garbage collection found and did.

    Parameters
    ----------
    freed : Tally
        What went; with `dry_run`, what would go.
    spared : int
        Files that stayed because another process came to need them meanwhile.
    kept : mapping of str to Tally
        By reason: what stays.
    """

    freed: Tally
    spared: int
    kept: Mapping[str, Tally]


@dataclass(frozen=True)
class Collection:
    """What is known before anything is removed.

    Parameters
    ----------
    found : Survey
        What there is.
    live : Liveness
        What roots reach.
    needed : mapping of Place to str
        Where it is taken from, and why it is needed.
    cutoff : float
        Only older files may go; seconds since 1970-01-01T00:00:00Z.
    since : int
        The operation log from here on holds what it names; microseconds.
    """

    found: Survey
    live: Liveness
    needed: Mapping[Place, str]
    cutoff: float
    since: int

    def newly_live(self, session: Session) -> set[ObjectId]:
        """Return what refs and leases have come to reach since."""
        before = self.live.contents.keys() | self.live.metadata.keys()
        self.live.reach(*roots(session, self.since))
        return (self.live.contents.keys() | self.live.metadata.keys()) - before


def gc(session: Session, bounds: Gc, *, dry_run: bool = False) -> GcResult:
    """Remove what neither refs, nor the operation log of the last time, nor a process at work reaches.

    Safe beside commits, checkouts and other collections of any number of processes.

    Parameters
    ----------
    session : Session
        The repository.
    bounds : Gc
        Grace period, retention of the operation log, and when packs are written anew.
    dry_run : bool
        Say what would be done, and do nothing.

    Raises
    ------
    IntegrityError
        If something that a ref reaches is missing or corrupt: nothing is removed then, since what looks like garbage
        may be what repairs it.
    ConflictError
        If another process collects garbage or repacks.
    """
    session.check_writable("gc")
    if dry_run:
        plan = _plan(collect(session, bounds), bounds)
        return GcResult(plan.freed, 0, plan.kept)
    with session.store.leases.take_maintenance("gc") as lease:
        session.store.temporaries.sweep(STALE_SECONDS)
        if settle_leftovers(session.store):
            session.refresh(force=True)
        known = collect(session, bounds)
        plan = _plan(known, bounds)
        done: Pruned = prune(session, known.found, plan, known.needed, lambda: known.newly_live(session), lease)
        return GcResult(done.freed, done.spared, plan.kept)


def _plan(known: Collection, bounds: Gc) -> PrunePlan:
    return plan_prune(known.found, Verdicts(known.needed), known.cutoff, bounds)


def collect(session: Session, bounds: Gc, preferred: Preferred | None = None) -> Collection:
    """Find out what there is, what must stay, and why.

    Of several encodings of a content the one in the pack that `preferred` names is taken, or else the one that is
    quickest to rebuild.

    Raises
    ------
    IntegrityError
        If something that a ref reaches is missing or corrupt.
    """
    start = now()
    since = start - int(bounds.retention_days * _DAY * _MICRO)
    cutoff = start / _MICRO - max(bounds.grace_hours * 3600, _LEAST_AGE)
    leases = session.store.leases.live()
    cutoff = min([cutoff, *(lease.start / _MICRO - SKEW_SECONDS for lease in leases)])
    session.store.packs.refresh()  # what this process still has open may be gone
    live = Liveness(session.store, session.absent)
    live.reach(*roots(session, since))
    found = survey(session.store)  # afterwards: a commit that comes in between must not seem to lack what it stored
    needed = _needed(found, live, cutoff, preferred or {}, bounds.copies_from, partial=is_partial(session.layout))
    return Collection(found, live, needed, cutoff, since)


def foresee(session: Session, found: Survey, state: RefState, more: Iterable[ObjectId], bounds: Gc) -> PrunePlan:
    """Return what `gc` would do if refs were in a `state`, and when nothing is young nor held by anything but them.

    Parameters
    ----------
    session : Session
        The repository.
    found : Survey
        What there is.
    state : RefState
        The refs. What stands in for thinned commits need not be stored.
    more : iterable of ObjectId
        Contents that are needed besides.
    bounds : Gc
        When packs are written anew.

    Raises
    ------
    IntegrityError
        If something that a ref reaches is missing or corrupt.
    """
    live = Liveness(session.store, session.absent)
    live.reach(roots_of_refs(state), state.thinned)
    beside = Root(state.operation, "operation log", "what is about to be recorded")
    live.contents = {**dict.fromkeys(more, beside), **live.contents}
    needed = _needed(found, live, inf, {}, bounds.copies_from, partial=is_partial(session.layout))
    return plan_prune(found, Verdicts(needed), inf, bounds)


def _needed(
    found: Survey, live: Liveness, cutoff: float, preferred: Preferred, copies_from: int, *, partial: bool
) -> dict[Place, str]:
    """Return from where everything that stays is taken, and why it is needed; IntegrityError if something is missing.

    What is too young to go can be rebuilt, too: others may rely on it. In a `partial` repository contents may be
    absent: nothing that is here repairs them.
    """
    young = {oid for oid, pack in found.objects if found.files[pack or oid].modified > cutoff}
    chain = found.chain([*live.contents, *young], preferred)
    for oid, root in live.contents.items():
        if oid not in chain and root.is_ref and not partial:
            raise _incomplete(oid, root)
    needed: dict[Place, str] = {
        (oid, record.location.pack): YOUNG
        if oid in young and oid not in live.contents
        else _reason(live.contents.get(oid))
        for oid, record in chain.items()
    }
    readings({oid: way_of(record) for oid, record in chain.items()})  # refuses encodings that need each other
    for oid in copies_wanted(chain, copies_from):
        same = [record.location.pack for record in found.blobs[oid] if is_copy(record, chain[oid])]
        needed |= {(oid, pack): _COPIES for pack in same[:1]}
    wanted = set(live.metadata)
    for (oid, pack), item in found.objects.items():
        if oid in wanted and item.kind is not None and item.kind.is_metadata:
            wanted.remove(oid)
            needed[oid, pack] = _reason(live.metadata[oid])
    if lost := [oid for oid in sorted(wanted) if live.metadata[oid].is_ref]:
        raise _incomplete(lost[0], live.metadata[lost[0]])
    return needed


def _incomplete(oid: ObjectId, root: Root) -> IntegrityError:
    return IntegrityError(
        f"{oid}, which {root.name} needs, is missing or corrupt; nothing was removed", hint="mvc fsck --repair"
    )


def _reason(root: Root | None) -> str:
    return root.reason if root else BASES
