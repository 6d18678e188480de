"""``mvc fetch``: what this repository lacks comes in, is checked, and refs follow last (remotes-v1, section 4)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mvc.errors import ConflictError, IntegrityError, InvalidInputError
from mvc.index import Additions, CommitRecord
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES, TAGS, thinned_ref
from mvc.remotes.bringing import Bringing
from mvc.remotes.holdings import Holdings, IndexCache
from mvc.remotes.metadata_walk import MetadataWalk
from mvc.remotes.negotiation import commits_between, is_ancestor
from mvc.remotes.relisting import with_holdings
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.tag_following import followed_tags, tags_of, targets_of, without_thinned
from mvc.remotes.tracking import RefUpdate, check_tracking, plan_fetch
from mvc.repo.clock import Actor
from mvc.repo.features import is_partial, set_feature
from mvc.repo.partial import parse_filter
from mvc.repo.presence import reached
from mvc.repo.progress import Progress, silent
from mvc.repo.refs import RefState
from mvc.repo.renewing import renewing
from mvc.repo.session import Session
from mvc.repo.shallow import write_shallow
from mvc.types import ObjectId

_Counts = tuple[int, int, int, int, int]
"""Commits, contents, received bytes, logical bytes, and contents that are promised."""

Tags = Literal["follow", "all", "none"]
"""Which tags come: those of commits that come or are here, as in git; every one; or none."""

__all__ = ["FetchRequest", "FetchResult", "Tags", "fetch"]


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What to fetch.

    Parameters
    ----------
    branches : tuple of str
        Short names; all if empty.
    prune : bool
        Forget branches that the remote has no more.
    depth : int or None
        Bring no commit that is so many steps or more from all tips; the tips are 0 steps away. None: bring all.
    unshallow : bool
        Bring also what was left out because of a depth.
    tags : Tags
        Which tags come along; with ``all``, what they hold counts as a tip.
    """

    branches: tuple[str, ...] = ()
    prune: bool = False
    depth: int | None = None
    unshallow: bool = False
    tags: Tags = "follow"


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What was fetched.

    Parameters
    ----------
    updates : tuple of RefUpdate
        Refs here.
    head : str or None
        Full name of the branch that HEAD of the remote follows.
    commits, contents : int
        Received.
    received_bytes : int
        Stored bytes of them.
    logical_bytes : int
        Bytes of the files of the commits that were received.
    promised : int
        Contents of these that were left out.
    """

    updates: tuple[RefUpdate, ...]
    head: str | None
    commits: int = 0
    contents: int = 0
    received_bytes: int = 0
    logical_bytes: int = 0
    promised: int = 0


def fetch(
    session: Session,
    store: RemoteStore,
    name: str,
    request: FetchRequest,
    actor: Actor,
    progress: Progress = silent,
) -> FetchResult:
    """Bring commits of a remote here, and note where its branches are.

    Every object is checked before it is part of the store, and refs move when all that they reach is there. What
    arrived before a cut is not asked for again.

    Parameters
    ----------
    session : Session
        The repository.
    store : RemoteStore
        The remote.
    name : str
        Its name: its branches become ``refs/remotes/NAME/BRANCH``.
    request : FetchRequest
        What to fetch.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.

    Raises
    ------
    NotFoundError
        If the remote has no such branch, or there is no repository.
    RemoteError
        If the remote, or the way to it, failed.
    IntegrityError
        If the remote is damaged or lies; nothing of that is part of this repository.
    InvalidInputError
        If the depth is none.
    ConflictError
        If another process collects garbage, and what is absent by design changes; or if one has deleted what this fetch
        relied on. What has arrived stays. Or if a branch there cannot stand beside one that is only known here, and
        `prune` is not set.
    """
    session.check_writable()
    if request.depth is not None and (request.depth < 1 or request.unshallow):
        raise InvalidInputError("a depth is at least 1, and excludes unshallow", hint="--depth 1: the tips only")
    theirs = store.checked_state()
    if not request.prune:
        check_tracking(theirs.refs, session.refs.state().refs, name, request.branches)
    with session.store.leases.take("fetch") as lease:
        cache = IndexCache(session.layout.directory, name, session.fs)
        work = _Fetch(session, store, name, cache)
        fetched = work.run(theirs, request, renewing(lease, progress))
        updates = _plan(session, theirs, name, request)
        _check_branches(session, store, updates)
        with session.store.leases.take("fetch", {update.new for update in updates if update.new}):
            _check_reached(session, updates, work.brought)
            if not lease.renew():
                raise ConflictError(
                    "this fetch was taken for dead, and what it has brought may be gone: no ref was moved",
                    hint="fetch again",
                )
            _move(session, updates, work, actor)
    session.refresh()
    return FetchResult(tuple(updates), theirs.branch, *fetched)


def _plan(session: Session, theirs: RefState, name: str, request: FetchRequest) -> list[RefUpdate]:
    def below(old: ObjectId, new: ObjectId) -> bool:
        """Return whether a branch went on from where it was."""
        return is_ancestor(session, old, new)

    offered = without_thinned(session, tags_of(theirs.refs)) if request.tags != "none" else {}
    tags = [*offered] if request.tags == "all" else followed_tags(session, offered, _tips(theirs, request))
    return plan_fetch(
        theirs.refs,
        session.refs.state().refs,
        name,
        branches=request.branches,
        tags=tags,
        prune=request.prune,
        is_ancestor=below,
    )


def _tips(theirs: RefState, request: FetchRequest) -> list[ObjectId]:
    """Return what the branches hold that are to come."""
    names = {BRANCHES + name for name in request.branches}
    return [
        ObjectId(value)
        for name, value in sorted(theirs.refs.items())
        if name.startswith(BRANCHES) and (not names or name in names)
    ]


def _check_branches(session: Session, store: RemoteStore, updates: Sequence[RefUpdate]) -> None:
    """Refuse branches that hold a tag object."""
    tips = {update.new: update.source for update in updates if update.new and not update.target.startswith(TAGS)}
    if strange := tips.keys() - session.records(tips).keys():
        raise IntegrityError(f"{tips[min(strange)]} of {store.url} holds what is no commit", hint="mvc fsck there")


def _check_reached(session: Session, updates: Sequence[RefUpdate], brought: frozenset[ObjectId]) -> None:
    """Refuse what hangs on commits that refs reached when they were not asked for, and do not reach any more.

    To be called while a lease pins what refs are to hold: what is there now then stays.
    """
    state = session.refs.state()
    held = {*state.naming.values()} | ({state.head} if state.head else set())
    new = {update.new for update in updates if update.new and update.outcome != "kept"}
    targets = targets_of(session, held | new)
    tips = {targets.get(oid, oid) for oid in new}
    haves = session.index.commits(targets[oid] for oid in held if oid in targets)  # others may be damaged
    try:
        lost = {record.id for record in commits_between(session, tips, haves).commits} - brought
    except IntegrityError:  # a commit is gone already
        lost = tips
    if lost:
        raise ConflictError(
            "another process has deleted refs to what this fetch has not asked for since it was here: no ref was moved",
            hint="fetch again; if that does not help: mvc fsck",
        )


def _move(session: Session, updates: Sequence[RefUpdate], work: _Fetch, actor: Actor) -> None:
    values = {update.target: update.new for update in updates if update.outcome != "kept"}
    targets = targets_of(session, {value for name, value in values.items() if value and name.startswith(TAGS)})

    def decide(current: RefState) -> tuple[RefChange, ...]:
        """Return the moves; a tag that another process has made meanwhile stays, and none is made of what is thinned.

        What has come whole, since nothing reached it any more, is not thinned any more.
        """
        if not work.relied.isdisjoint(current.thinned):
            raise ConflictError(
                "another process has thinned what this fetch has not asked for since it was here: no ref was moved",
                hint="fetch again",
            )
        thinned = current.thinned.keys() - work.brought
        moves = [
            RefChange(ref, current.refs.get(ref), value)
            for ref, value in values.items()
            if not ref.startswith(TAGS) or (ref not in current.refs and value and targets.get(value) not in thinned)
        ]
        refilled = (thinned_ref(oid) for oid in current.thinned.keys() & work.brought)
        return (*moves, *(RefChange(ref, current.refs[ref], None) for ref in refilled))

    session.refs.update(decide, actor)


class _Fetch:
    """One fetch under way.

    Attributes
    ----------
    brought : frozenset of ObjectId
        Commits that have come, with all that they need.
    relied : frozenset of ObjectId
        Commits whose contents were not asked for, since they were here.
    """

    def __init__(self, session: Session, store: RemoteStore, name: str, cache: IndexCache) -> None:
        self._session = session
        self._store = store
        self._cache = cache
        self._remote = session.settings.remotes.get(name)
        self.brought: frozenset[ObjectId] = frozenset()
        self.relied: frozenset[ObjectId] = frozenset()

    def run(self, theirs: RefState, request: FetchRequest, progress: Progress) -> _Counts:
        """Bring everything here; return what `FetchResult` counts."""
        tags = [*tags_of(theirs.refs).values()]
        tips = [*_tips(theirs, request), *(tags if request.tags == "all" else ())]
        unknown = self._unknown(tips)
        beside = self._unknown(tags) if request.tags == "follow" else []
        if not (unknown or beside or request.depth or (request.unshallow and self._session.absent)):
            return 0, 0, 0, 0, 0
        self._store.check_format()
        engine = self._store.engine
        return with_holdings(
            engine, self._cache, lambda found: self._bring(found, tips, unknown, beside, request, progress)
        )

    def _bring(
        self,
        holdings: Holdings,
        tips: Sequence[ObjectId],
        unknown: Sequence[ObjectId],
        beside: Sequence[ObjectId],
        request: FetchRequest,
        progress: Progress,
    ) -> _Counts:
        """Bring everything below `tips` here; NotFoundError if something of the remote goes meanwhile."""
        self._session.refresh(force=True)  # what an earlier try has brought counts as stored
        walk = MetadataWalk(self._store.engine, holdings, self._whole, self._session.index.objects)
        if request.depth:
            walk.follow_down_to(self._peeled(tips, unknown), request.depth, self._below)
        else:
            deeper = [oid for oid in self._session.absent if oid in holdings] if request.unshallow else []
            walk.follow([*unknown, *deeper])
        walk.follow_tags(beside)
        bringing = Bringing(self._session, self._store.engine, holdings, self._patterns(), progress)
        self.relied = frozenset(walk.boundary - self._session.refs.state().thinned.keys())
        bringing.run(walk.manifests(), (self._session.manifest(oid) for oid in sorted(self.relied)))
        stored, added = self._store_metadata(walk, bringing.sizes)
        received = bringing.received_bytes + stored
        self._list_absent(walk)
        self._session.follow_objects(added)
        self.brought = frozenset(walk.commits)
        logical = sum(bringing.sizes[commit.manifest] for commit in walk.commits.values())
        return len(walk.commits), bringing.contents, received, logical, bringing.promised

    def _peeled(self, tips: Iterable[ObjectId], unknown: Collection[ObjectId]) -> list[ObjectId]:
        """Return `tips`, the commits of tags that are here in their places."""
        known = [oid for oid in tips if oid not in unknown]
        commits = self._session.records(known)
        return [*unknown, *(oid if oid in commits else self._session.tag(oid).target for oid in known)]

    def _below(self, ids: Iterable[ObjectId]) -> set[ObjectId]:
        return {parent for record in self._session.records(ids).values() for parent in record.named}

    def _patterns(self) -> tuple[str, ...] | None:
        """Return the names of tensors that are to come, if the remote promises the others; None if it does not."""
        if self._remote is None or not self._remote.promisor:
            return None
        if not is_partial(self._session.layout):
            with self._session.store.leases.take_maintenance("fetch"):
                set_feature(self._session, "partial", present=True)
        return parse_filter(self._remote.filter)

    def _list_absent(self, walk: MetadataWalk) -> None:
        """Say durably which commits are absent by design now: before a ref leads there, and after they have arrived."""
        if walk.absent or not self._session.absent.isdisjoint(walk.commits):
            self._session.forget_index()  # it may not know what has arrived, and no operation may tell of it
            with self._session.store.leases.take_maintenance("fetch"):
                write_shallow(self._session, self._session.absent - walk.commits.keys() | walk.absent)

    def _unknown(self, tips: Iterable[ObjectId]) -> list[ObjectId]:
        """Return the tips that no ref here reaches."""
        held = {*self._session.refs.state().naming.values()} & {*tips}
        there = self._session.index.objects(held)  # a ref may hold what was lost: then it is brought again
        new = [oid for oid in dict.fromkeys(tips) if oid not in there]
        whole = self._whole(new)
        return [oid for oid in new if oid not in whole]

    def _whole(self, ids: Iterable[ObjectId]) -> set[ObjectId]:
        """Return those of the commits `ids` that refs here reach: all that they need is here."""
        found = set(self._session.index.commits(ids))
        return reached(self._session, self._session.refs.state(), found) if found else set()

    def _store_metadata(self, walk: MetadataWalk, sizes: Mapping[ObjectId, int]) -> tuple[int, Additions]:
        """Store commits and tags, with files of these `sizes`; return the bytes, and what to tell the index."""
        with self._session.store.begin() as batch:
            kinds = {oid: kind for kind, oid, body in walk.bodies() if batch.put(kind, oid, body)}
            places = batch.commit()
            objects = [(oid, kind.name.lower(), places[oid]) for oid, kind in kinds.items()]
            commits = [CommitRecord.of(commit, sizes[commit.manifest]) for commit in walk.commits.values()]
            return batch.stored_bytes, Additions((), objects, commits)
