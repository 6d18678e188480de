"""Whether commits that no ref reaches are still whole: garbage collection may have begun to remove them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace

from mvc.errors import ConflictError, IntegrityError, NotFoundError
from mvc.index import BlobRecord
from mvc.objects.manifest import Segment
from mvc.objects.refnames import REMOTES
from mvc.repo.check_promised import refs_of_remotes
from mvc.repo.features import is_partial
from mvc.repo.liveness import Liveness
from mvc.repo.log import history
from mvc.repo.partial import may_be_promised
from mvc.repo.refs import RefState
from mvc.repo.roots import Root, roots_of_refs
from mvc.repo.session import Session
from mvc.repo.thinned import refuse_thinned
from mvc.repo.tips import commits_of_refs
from mvc.types import ObjectId

__all__ = ["check_contents", "check_not_named", "check_not_thinned", "check_present", "reached"]


def check_present(session: Session, state: RefState, wanted: Iterable[ObjectId], *, complete: bool = False) -> None:
    """Refuse those of `wanted`, commits or tag objects, that refs do not reach and of which something is gone.

    Or is not what a manifest says: a content of another length cannot be cloned, nor the file be put together.

    To be called while a lease pins them: what is there now then stays.

    Parameters
    ----------
    session : Session
        The repository.
    state : RefState
        What refs hold; everything that they reach is there.
    wanted : iterable of ObjectId
        Objects that refs are to hold.
    complete : bool
        Nothing may be missing by design either: neither parents of a shallow history, nor contents of which a remote
        promises that it has them.

    Raises
    ------
    NotFoundError
        If something is gone.
    ThinnedError
        If one is thinned.
    """
    wanted, values = {*wanted}, {*state.naming.values()}
    check_not_thinned(session, state, wanted)  # also what refs name: those of remotes may be at what is thinned here
    targets = {_target(session, oid) for oid in wanted - values}
    for oid in sorted(targets - reached(session, state, targets)):
        try:
            _check_whole(session, [Root(oid, "branches", oid[:12])], state, complete)
        except IntegrityError as error:
            raise NotFoundError(
                f"commit {oid[:12]} is not whole any more: {error.message}", hint="mvc fsck, or fetch it from a clone"
            ) from error


def check_contents(session: Session, state: RefState, commits: Collection[ObjectId]) -> None:
    """Refuse to go on if contents of thinned commits are gone. To be called while a lease pins them.

    In a partial repository those may be gone that a remote promises, and no others.

    Raises
    ------
    NotFoundError
        If something is gone.
    """
    roots = [Root(oid, "branches", oid[:12], entire=True) for oid in commits]
    try:
        unpromised = _unpromised(session, state, commits) if is_partial(session.layout) else frozenset()
        _check_whole(session, roots, state, complete=False, unpromised=unpromised)
    except IntegrityError as error:
        raise NotFoundError(
            f"what was thinned is not whole any more: {error.message}",
            hint="mvc gc has freed it: what stands in for it stays, and another clone may have it",
        ) from error


def check_not_thinned(session: Session, state: RefState, wanted: Iterable[ObjectId]) -> None:
    """Refuse those of `wanted`, commits or tag objects, that are thinned.

    Raises
    ------
    ThinnedError
        If one is.
    """
    thinned = state.thinned
    refuse_thinned(thinned, (_target(session, oid) for oid in sorted(wanted) if thinned))


def check_not_named(session: Session, state: RefState, commits: AbstractSet[ObjectId]) -> None:
    """Refuse to have `commits` be thinned, as `state` is about to say, if a ref names one or it stands in for another.

    Raises
    ------
    ConflictError
        If that is so.
    """
    named = (oid for name, oid in commits_of_refs(session, state).items() if not name.startswith(REMOTES))
    if held := commits & {*named, *state.thinned.values()}:
        raise ConflictError(
            f"commit {min(held)[:12]} would be thinned again, and something has come to name it since",
            hint="mvc tag and mvc branch say what; or thin anew, which keeps it",
        )


def _target(session: Session, oid: ObjectId) -> ObjectId:
    """Return the commit that a tag object names; anything else itself."""
    if oid not in session.records([oid]):
        with suppress(IntegrityError, NotFoundError):
            return session.tag(oid).target
    return oid


def reached(session: Session, state: RefState, wanted: set[ObjectId]) -> set[ObjectId]:
    """Return which of `wanted` are commits that refs reach: everything that these need is there."""
    positions = {oid: record.position for oid, record in session.records(wanted).items()}
    found: set[ObjectId] = set()
    if positions:
        for record in history(session, commits_of_refs(session, state).values()):
            found |= {record.id} & positions.keys()
            if found.issuperset(positions) or record.position < min(positions.values()):
                break
    return found


def _contradicts(segment: Segment, record: BlobRecord) -> bool:
    return (segment.kind, segment.length) != (record.kind, record.raw_bytes)


def _unpromised(session: Session, state: RefState, commits: Iterable[ObjectId]) -> AbstractSet[ObjectId]:
    """Return which contents of some commits no remote promises."""
    told = Liveness(session.store, session.absent)
    told.reach(roots_of_refs(replace(state, refs=refs_of_remotes(state.refs, session.promisors))), {})
    promised = {oid for oid, item in told.segments.items() if may_be_promised(item.kind, item.length)}
    return {oid for commit in commits for _, oid in session.manifest(commit).segments()} - promised


def _check_whole(
    session: Session,
    roots: Iterable[Root],
    state: RefState,
    complete: bool,  # noqa: FBT001 - of this module alone
    unpromised: AbstractSet[ObjectId] = frozenset(),
) -> None:
    session.store.packs.refresh()  # what this process still has open may be gone
    live = Liveness(session.store, frozenset() if complete else session.absent)
    live.reach(roots, state.thinned)
    session.refresh(force=True)
    chains = session.chains(live.contents)
    if missing := live.contents.keys() - chains.keys():  # or something that it needs; maybe only condemned
        session.store.rescue_all()
        session.refresh(force=True)
        chains = session.chains(live.contents)
        missing = live.contents.keys() - chains.keys()
    moved = {oid for oid, record in chains.items() if not session.store.holds(oid, record.location)}
    if not complete and is_partial(session.layout):
        missing &= unpromised  # the rest may be promised, and a remote may have it
    if wrong := live.disputed | {
        oid for oid in live.segments.keys() & chains if _contradicts(live.segments[oid], chains[oid])
    }:
        raise IntegrityError(f"content {min(wrong)} has not the kind and length that a manifest says")
    if gone := [*sorted(missing), *(oid for oid in sorted(moved) if session.store.find(oid) is None)]:
        raise IntegrityError(f"content {gone[0]}, or something that it needs, is missing")
