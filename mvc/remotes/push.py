"""``mvc push``: what a remote lacks goes there in packs, and its refs move last (remotes-v1, section 3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from mvc.errors import ConflictError, InvalidInputError, RemoteError, ThinnedError
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES
from mvc.remotes.dependence import Dependence
from mvc.remotes.engine import Engine
from mvc.remotes.holdings import Holdings, IndexCache, is_young
from mvc.remotes.keys import index_key, pack_key
from mvc.remotes.negotiation import Between, commits_between, contents_of, is_ancestor, new_contents
from mvc.remotes.outgoing import OutgoingPack, SendPlan, pack_up, plan_sending
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.shallow_push import between_shallow
from mvc.remotes.tracking import RefUpdate, check_moves, plan_push, tracking_ref
from mvc.repo.clock import Actor
from mvc.repo.materialize import ContentReader
from mvc.repo.presence import reached
from mvc.repo.progress import Progress, Tick, silent
from mvc.repo.refs import SYMBOLIC, RefState
from mvc.repo.session import Session
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata
from mvc.store.pack_index import encode_index
from mvc.types import ObjectId

__all__ = ["PushRequest", "PushResult", "push"]


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What to push.

    Parameters
    ----------
    refs : tuple of (str or None, str, ObjectId or None)
        Full name here, full name there, and the commit or tag object; None for both to delete.
    lease : mapping of str to ObjectId or None, optional
        As for `plan_push`.
    dry_run : bool
        Say what would be done, and write nothing.
    """

    refs: tuple[tuple[str | None, str, ObjectId | None], ...]
    lease: Mapping[str, ObjectId | None] | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PushResult:
    """What was pushed.

    Parameters
    ----------
    updates : tuple of RefUpdate
        Refs of the remote.
    commits, contents : int
        Sent.
    sent_bytes : int
        Bytes of packs and their indexes.
    logical_bytes : int
        Bytes of the files of the commits that were sent.
    """

    updates: tuple[RefUpdate, ...]
    commits: int = 0
    contents: int = 0
    sent_bytes: int = 0
    logical_bytes: int = 0


def push(
    session: Session,
    store: RemoteStore,
    name: str,
    request: PushRequest,
    actor: Actor,
    progress: Progress = silent,
) -> PushResult:
    """Bring commits to a remote, and move its refs.

    Packs come first, their indexes after them, then the operation, and the head last: whatever is cut off leaves the
    remote as it was, and what arrived is not sent again by the next try.

    Parameters
    ----------
    session : Session
        The repository.
    store : RemoteStore
        The remote.
    name : str
        Its name, by which its branches are kept track of.
    request : PushRequest
        What to push.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.

    Raises
    ------
    ConflictError
        If a ref of the remote may not be moved so: nothing was changed there.
    RemoteError
        If the remote, or the way to it, failed: the same command goes on where it stopped.
    IntegrityError
        If what is to be sent is damaged here.
    InvalidInputError
        If a branch is to hold what is no commit, or a ref is named twice.
    ThinnedError
        If the remote lacks contents of a commit that is thinned here: nothing was sent.
    """
    _check_branches(session, request)
    state = store.checked_state()
    known = _Known(session, state)
    updates = plan_push(request.refs, state.refs, request.lease, known.is_ancestor, name)
    moved = [update for update in updates if update.outcome != "up to date"]
    if not moved:
        if not request.dry_run:
            _track(session, name, updates, actor)
        return PushResult(tuple(updates))
    store.check_format("write")
    if store.engine.capabilities.worktree:
        check_moves(updates, state.branch, name)
    tips = [update.new for update in moved if update.new]
    with session.protected("push", *tips):
        sending = _Sending.of(
            session,
            store.engine,
            tips,
            known,
            IndexCache(session.layout.directory, name, session.fs),
            dry_run=request.dry_run,
        )
        sent = 0
        if not request.dry_run:
            sent = sending.run(progress)
            sending.confirm()
            _move(store, moved, actor, state)
    if not request.dry_run:
        _track(session, name, updates, actor)
    planned = sending.plan.stored_bytes if request.dry_run else sent
    return PushResult(
        tuple(updates),
        len(sending.between.commits),
        len(sending.plan.as_stored) + len(sending.plan.anew),
        planned,
        sum(record.logical_bytes for record in sending.between.commits),
    )


def _check_branches(session: Session, request: PushRequest) -> None:
    """Refuse to have a branch hold a tag object."""
    values = {target: value for _, target, value in request.refs if value and target.startswith(BRANCHES)}
    commits = session.records(values.values())
    if strange := [target for target, value in values.items() if value not in commits]:
        raise InvalidInputError(f"what {strange[0]} is to hold is no commit", hint="name a branch, or a plain tag")


class _Known:
    """What refs of the remote hold, as far as it is known here."""

    def __init__(self, session: Session, state: RefState) -> None:
        self.values = {ObjectId(value) for value in state.refs.values() if not value.startswith(SYMBOLIC)}
        self._session = session
        found = set(session.index.commits(self.values))
        self.haves = reached(session, session.refs.state(), found)  # others may lack what is below them by now

    def is_ancestor(self, old: ObjectId, new: ObjectId) -> bool:
        """Return whether what the remote has is known here, and is `new` or below it."""
        return old in self.haves and is_ancestor(self._session, old, new)


@dataclass(frozen=True)
class _Sending:
    """What goes to the remote."""

    session: Session
    engine: Engine
    between: Between
    plan: SendPlan
    metadata: Sequence[tuple[EntryKind, ObjectId]]
    there: Dependence | None

    @classmethod
    def of(
        cls,
        session: Session,
        engine: Engine,
        tips: Sequence[ObjectId],
        known: _Known,
        cache: IndexCache,
        *,
        dry_run: bool,
    ) -> _Sending:
        """Plan it. The remote is asked what it holds only if it lacks something."""
        commits = session.records(tips)
        tags = [oid for oid in tips if oid not in commits]
        targets = [oid if oid in commits else session.tag(oid).target for oid in tips]
        between = commits_between(session, targets, known.haves)
        if not between.commits and not tags:
            return cls(session, engine, between, SendPlan((), ()), (), None)
        there = Dependence(engine, Holdings(engine, cache), dry_run=dry_run)
        if any(record.absent for record in between.commits):
            between = between_shallow(session, engine, there.holdings, targets, known.values)
        boundary = contents_of(session.manifest(oid) for oid in sorted(between.boundary))
        named = new_contents((session.manifest(record.id) for record in between.commits), boundary)
        relied = there.on_contents(oid for oid in named if oid in there.holdings)
        wanted = [oid for oid in named if oid not in relied]
        _check_filled(session, between, {*wanted})
        session.supply({(named[oid][0], oid): named[oid][1] for oid in wanted})
        chains = session.chains(wanted)
        sides = {side.id for record in chains.values() for side in record.references} - set(wanted)
        held = sides & boundary.keys()  # by refs of the remote
        there_too = held | there.on_contents(oid for oid in sides - held if oid in there.holdings)
        plan = plan_sending(wanted, chains, there_too)
        objects = [(EntryKind.MANIFEST, record.manifest) for record in between.commits]
        objects += [(EntryKind.COMMIT, record.id) for record in between.commits]
        objects += [(EntryKind.TAG, oid) for oid in tags]
        missing = [(kind, oid) for kind, oid in dict.fromkeys(objects) if not there.on_metadata(oid)]
        return cls(session, engine, between, plan, missing, there)

    def confirm(self) -> None:
        """Check that the remote still has what refs are about to need; see `Dependence.confirm`."""
        if self.there is not None:
            self.there.confirm()

    def run(self, progress: Progress) -> int:
        """Send it; return the bytes."""
        if self.there is None or not (self.plan.as_stored or self.plan.anew or self.metadata):
            return 0
        with self.session.pool() as pool, progress("sending", self.plan.stored_bytes) as tick:
            reader = ContentReader(self.session, pool)
            with closing(pack_up(self.session, self.plan, self._bodies(), reader, pool)) as packs:
                return _upload(self.engine, packs, self.there, tick)

    def _bodies(self) -> Iterator[tuple[EntryKind, ObjectId, bytes]]:
        for kind, oid in self.metadata:
            yield kind, oid, wrap_metadata(self.session.store.load_metadata(oid))


def _check_filled(session: Session, between: Between, wanted: AbstractSet[ObjectId]) -> None:
    """Refuse to send contents that nothing but commits which are thinned here names: they may go at any time."""
    thinned = session.refs.state().thinned
    emptied = [record.id for record in between.commits if record.id in thinned]
    if not emptied:
        return
    filled = contents_of(session.manifest(record.id) for record in between.commits if record.id not in thinned)
    lacking = wanted - filled.keys()
    for oid in emptied:
        if not lacking.isdisjoint(contents_of([session.manifest(oid)])):
            raise ThinnedError(
                f"commit {oid[:12]} was thinned here, and the remote lacks what it holds: nothing was sent",
                hint="push from where it is whole, or push what stands in for it: mvc branch NAME ID, mvc push NAME",
            )


def _upload(engine: Engine, packs: Iterator[OutgoingPack], there: Dependence, tick: Tick) -> int:
    """Send packs as they come, several at once, and return the bytes.

    Their indexes, by which packs are found, are sent in order: whoever finds a blob finds what it needs, wherever this
    is cut off. A remote that checks what it is given must have what a pack needs before the pack.
    """
    most = 1 if engine.capabilities.checked else engine.capabilities.connections
    running: deque[tuple[OutgoingPack, Future[None]]] = deque()
    sent = 0
    with ThreadPoolExecutor(most) as pool:
        try:
            for pack in packs:
                running.append((pack, pool.submit(_send, engine, pack, tick)))
                there.on_sent(pack_key(pack.id))
                if len(running) >= most:
                    sent += _index(engine, *running.popleft())
            while running:
                sent += _index(engine, *running.popleft())
        finally:
            for pack, future in running:
                if future.cancel():
                    pack.draft.discard()
    return sent


def _send(engine: Engine, pack: OutgoingPack, tick: Tick) -> None:
    """Send a pack. One that is there already holds the same bytes."""
    with pack.draft as draft:
        if not engine.create(pack_key(pack.id), draft.path):
            _check_there(engine, pack, draft.size)
    tick(pack.draft.size)


def _index(engine: Engine, pack: OutgoingPack, sending: Future[None]) -> int:
    """Have a pack be found, once it is there; return its bytes and those of its index."""
    sending.result()
    index = encode_index(pack.id, pack.entries)
    engine.create(index_key(pack.id), index)
    return pack.draft.size + len(index)


def _check_there(engine: Engine, pack: OutgoingPack, size: int) -> None:
    """Refuse to rely on a pack of the same name that is cut short, or so old that it may be collected."""
    key = pack_key(pack.id)
    there = engine.info(key)
    if there is None or there.size != size:
        raise RemoteError(
            f"{key} of {engine.url} is not what was to be stored there: it is damaged, or was just removed",
            hint="push again; if that does not help, mvc fsck --remote",
        )
    if not engine.touch(key) and not is_young(there.modified):
        raise RemoteError(
            f"{key} is left at {engine.url} by an earlier push, and may be collected at any time",
            hint="mvc remote gc, then push again",
        )


def _move(store: RemoteStore, moved: Sequence[RefUpdate], actor: Actor, state: RefState) -> None:
    def decide(current: RefState) -> tuple[RefChange, ...]:
        """Return the moves, unless somebody else has moved one of these refs, or thinned commits there, meanwhile."""
        if current.thinned:
            raise ConflictError(
                f"{store.url} was thinned meanwhile, and may lack what was not sent: nothing was pushed",
                hint="mvc push says more",
            )
        for update in moved:
            if current.refs.get(update.target) not in {update.old, update.new}:
                raise ConflictError(
                    f"{update.target} of {store.url} was moved meanwhile: nothing was pushed",
                    hint="mvc pull, then push",
                )
        return tuple(RefChange(update.target, current.refs.get(update.target), update.new) for update in moved)

    store.update(decide, actor, state)


def _track(session: Session, name: str, updates: Sequence[RefUpdate], actor: Actor) -> None:
    """Keep what branches of the remote are now."""
    targets = {
        tracking_ref(name, update.target): update.new for update in updates if update.target.startswith(BRANCHES)
    }
    _keep_track(session, targets, actor)


def _keep_track(session: Session, targets: Mapping[str, ObjectId | None], actor: Actor) -> None:
    decide: Callable[[RefState], tuple[RefChange, ...]] = partial(_changes, targets)
    session.refs.update(decide, actor)
    session.refresh()


def _changes(targets: Mapping[str, ObjectId | None], current: RefState) -> tuple[RefChange, ...]:
    return tuple(RefChange(ref, current.refs.get(ref), value) for ref, value in targets.items())
