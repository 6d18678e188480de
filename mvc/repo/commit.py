"""``mvc commit``: record a tree as the next commit of a branch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Final

from mvc.errors import ConflictError, InvalidInputError, ReadOnlyError, StorageError
from mvc.index import Additions
from mvc.lossy import Precision
from mvc.objects.commit import Commit, Metadata
from mvc.objects.derivation import Derivation
from mvc.objects.manifest import Manifest, Segment
from mvc.objects.refnames import HEAD
from mvc.repo.candidates import Candidates, Task
from mvc.repo.clock import Actor, now
from mvc.repo.companions import companions, may_have_companion
from mvc.repo.encode import LOOSE_BYTES, Encoder, Stored
from mvc.repo.materialize import ContentReader
from mvc.repo.progress import Progress, Tick, silent
from mvc.repo.record import additions, move_ref, put_commit
from mvc.repo.refs import RefState
from mvc.repo.reliance import rely_on
from mvc.repo.rounded_source import Rounding
from mvc.repo.scan import Content, Reading, ScannedFile
from mvc.repo.session import Session
from mvc.repo.sources import FileSource
from mvc.repo.tree import (
    Selection,
    assemble,
    check_complete,
    check_matched,
    is_shard_index,
    paths_after,
    split_unchanged,
)
from mvc.repo.worktree import Tracked, WorkTree, settled
from mvc.settings import LEVELS, Level
from mvc.store.batch import WriteBatch
from mvc.store.leases import STALE_SECONDS
from mvc.types import ObjectId

__all__ = ["CommitRequest", "CommitResult", "Target", "commit"]

_LOGGER: Final = logging.getLogger(__name__)

_ATTEMPTS: Final = 100
"""Tries to move the branch; each failure means that another writer's commit has become the parent."""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What to say of a commit.

    Parameters
    ----------
    message : str
        Why.
    metadata : Metadata
        Metrics and other facts.
    level : Level
        How hard to try to be small.
    allow_empty : bool
        Record a commit even if its tree is that of the parent.
    allow_damaged : bool
        Record an incomplete sharded checkpoint.
    time : int, optional
        When it was, in microseconds since 1970-01-01T00:00:00Z; by default now.
    lossy : Precision, optional
        Round the tensors of files that are not as in the parent; what is exact is not stored.
    derivation : Derivation, optional
        What the commit is to say of tensors that were made from others before; what they take is filled in.
    """

    message: str
    metadata: Metadata = field(default_factory=dict)
    level: Level = "default"
    allow_empty: bool = False
    allow_damaged: bool = False
    time: int | None = None
    lossy: Precision | None = None
    derivation: Derivation | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a commit goes in history.

    Parameters
    ----------
    ref : str or None
        Full name of the ref that moves to it; None for a commit that no ref holds yet: whoever wants it must pin it by
        a lease, and have a ref hold it in the end.
    old : str or None
        What the ref holds until then; None if it does not exist.
    parents : tuple of ObjectId
        Its parents. The tree is recorded as changes of the first one's, and tensors as deltas of the first one's.
    """

    ref: str | None
    old: str | None
    parents: tuple[ObjectId, ...]

    @classmethod
    def head(cls, state: RefState) -> Target:
        """Return where the next commit of the work tree goes: on top of HEAD."""
        return cls(state.moving_ref, state.refs.get(state.moving_ref), (state.head,) if state.head else ())

    @property
    def parent(self) -> ObjectId | None:
        """The first parent."""
        return self.parents[0] if self.parents else None


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a commit recorded.

    Parameters
    ----------
    commit : ObjectId
        Its id.
    branch : str or None
        Full name of the branch that moved; None for a detached HEAD, or if no ref moved.
    tensors : int
        Names of tensors in the tree.
    new_tensors : int
        Tensors that were not stored before.
    logical_bytes : int
        Sizes of all files.
    stored_bytes : int
        Bytes by which the store grew, metadata included.
    derivation : Derivation or None
        What was lost; None if nothing was.
    """

    commit: ObjectId
    branch: str | None
    tensors: int
    new_tensors: int
    logical_bytes: int
    stored_bytes: int
    derivation: Derivation | None = None


def commit(
    session: Session,
    selection: Selection,
    request: CommitRequest,
    actor: Actor,
    progress: Progress = silent,
    *,
    target: Target | None = None,
    executor: Executor | None = None,
) -> CommitResult:
    """Record a tree as the next commit of the branch that HEAD follows, or as the commit that `target` asks for.

    Writes in this order: blobs, manifest, commit, then the operation that moves the branch; the index and the
    dirty-check cache follow. A crash before the operation leaves only unreachable objects. If another writer moves the
    branch meanwhile, its commit becomes the parent, and nothing is encoded again.

    Parameters
    ----------
    session : Session
        The repository.
    selection : Selection
        Which files.
    request : CommitRequest
        Message, metadata and options.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.
    target : Target, optional
        Parents, and the ref that moves. The work tree is left alone then, and so is HEAD, unless it follows that ref.
    executor : Executor, optional
        Encodes, as `mvc.repo.encode.Encoder` says.

    Raises
    ------
    InvalidInputError
        For an empty message, a tree without a change, or a file that cannot be recorded.
    ConflictError
        If a file changes while it is read; or another writer moved the ref of `target`.
    StorageError
        If the medium failed. The branch is where it was; or, if moving it was the last thing that could be done, at the
        new commit.
    """
    session.check_writable()
    if not request.message.strip():
        raise InvalidInputError("the commit message is empty", hint="say why: -m MESSAGE")
    _check_recordable(request, actor)
    session.store.temporaries.sweep(STALE_SECONDS)
    aim = target or Target.head(session.refs.state())
    with session.index.connected(), session.pool() as pool:
        changes = _Changes(session, aim.parent, selection, request.lossy, pool)
        for _ in range(_ATTEMPTS):
            done = _Attempt(session, aim, selection, request, actor, executor).run(changes, pool, progress)
            if done is not None:
                _follow(session, done, None if target else changes.seen())
                return done.result
            session.refresh(force=True)  # what was stored in vain is not to be stored again
            aim = _unmoved(session, target) if target else _on_top(session, aim)
    raise ConflictError(f"{_ATTEMPTS} other commits were faster", hint="commit again")


def _unmoved(session: Session, target: Target) -> Target:
    """Return a target for another try, unless another process has moved its ref."""
    if target.ref and session.refs.state().refs.get(target.ref) != target.old:
        raise ConflictError(f"another process moved {target.ref}; nothing was recorded", hint="try again")
    return target


def _on_top(session: Session, before: Target) -> Target:
    """Return where the next commit of the work tree goes, now that others have committed; the branch is the same."""
    state = session.refs.state()
    if state.moving_ref != before.ref:
        raise ConflictError(
            f"another process switched away from {before.ref}; nothing was recorded", hint="commit again"
        )
    return Target.head(state)


_Seen = dict[str, tuple[tuple[Segment, ...], Tracked]]
"""By path: the content that a file of the work tree had, and how to notice that it changed."""


def _check_recordable(request: CommitRequest, actor: Actor) -> None:
    """Refuse what a commit cannot say before anything is read or stored."""
    nothing = ObjectId("0" * 64)
    if request.level not in LEVELS:
        raise InvalidInputError(f"level {request.level!r} is unknown; there are {', '.join(LEVELS)}")
    _ = Commit(nothing, (), actor.author, request.time or 0, request.message.strip(), request.metadata).encoded


class _Changes:
    """The files of a selection: those that are what HEAD says by their stat, and those that must be read."""

    def __init__(
        self,
        session: Session,
        head: ObjectId | None,
        selection: Selection,
        lossy: Precision | None,
        pool: Executor,
    ) -> None:
        self._head = session.manifest(head) if head else None
        tree = session.load_worktree()
        self._tree = tree if tree and tree.commit == head else None
        self._sources, self._unchanged = split_unchanged(selection, self._tree, self._head)
        self._in_worktree = selection.in_worktree
        self._started = time.time_ns()
        self._rounding = Rounding(self._sources, lossy, self._head, pool) if lossy else None
        if self._rounding:
            self._unchanged += self._rounding.unchanged
        self.reading = Reading(self._rounding.sources if self._rounding else self._sources, pool, hold=True)

    def files(self) -> list[ScannedFile]:
        """Return every file of the selection, after all was read."""
        return self._unchanged + self.reading.files()

    def derivation(self, base: ObjectId | None) -> Derivation | None:
        """Return what rounding has changed, after all was read."""
        return self._rounding.derivation(self.reading.files(), base) if self._rounding else None

    def seen(self) -> _Seen:
        """Return what the work tree is known to hold, after all was read."""
        seen: _Seen = {}
        if self._tree and self._head:
            seen = {path: (self._head.by_path[path].segments, known) for path, known in self._tree.files.items()}
        found = self._rounding.exact if self._rounding else self.reading.files()
        for source, file in zip(self._sources, found, strict=True):
            if isinstance(source, FileSource) and self._in_worktree:
                stamp = settled(source.stamp, self._started)
                seen[file.path] = (file.segments, Tracked(file.mode, source.size, stamp))
        return seen


@dataclass(frozen=True, slots=True)
class _Done:
    """A commit that was recorded: its tree, the refs after it if one moved, and what it added to the store."""

    result: CommitResult
    manifest: Manifest
    state: RefState | None
    added: Additions


@dataclass(frozen=True)
class _Attempt:
    """One try to put a commit where `target` says."""

    session: Session
    target: Target
    selection: Selection
    request: CommitRequest
    actor: Actor
    executor: Executor | None

    def run(self, changes: _Changes, pool: Executor, progress: Progress) -> _Done | None:
        """Store everything and move the branch; None if another writer moved it first."""
        pins = self.target.parents
        with self.session.store.leases.take("commit", pins) as lease, self.session.store.begin() as batch:
            parent = self.session.manifest(self.target.parent) if self.target.parent else None
            self._check_paths(parent)
            with progress("storing", changes.reading.size) as tick:
                new = self._new_contents(changes.reading.runs(), parent, batch, tick)
                stored = self._encode(new, changes, parent, batch, pool, tick)
            manifest = assemble(parent, self.selection.replaces, changes.files())
            self._check_change(manifest, parent)
            recorded = self._record(manifest, self._derivation(changes, stored), batch)
            places = batch.commit()
            if not lease.renew():  # taken for dead: what this commit relies on may be gone
                return None
            ref, old = self.target.ref, self.target.old
            moved = move_ref(self.session, ref, old, recorded.id, self.actor) if ref else None
            if moved is None and ref:
                return None
        result = CommitResult(
            recorded.id,
            self.target.ref if self.target.ref and self.target.ref != HEAD else None,
            len(manifest.tensors),
            sum(item.content.kind == "tensor" for item in stored),
            manifest.size,
            batch.stored_bytes,
            recorded.derivation,
        )
        blobs = [item.record(places[item.content.id]) for item in stored]
        return _Done(result, manifest, moved, additions(recorded, manifest, places, blobs))

    def _check_paths(self, parent: Manifest | None) -> None:
        """Refuse a tree that cannot be, or is not complete, before anything is read or stored."""
        check_matched(self.selection, parent)
        paths = paths_after(parent, self.selection)
        if not self.request.allow_damaged:
            indexes = [source for source in self.selection.sources if is_shard_index(source.path)]
            check_complete(paths, {source.path: source.read_all() for source in indexes})

    def _check_change(self, manifest: Manifest, parent: Manifest | None) -> None:
        unchanged = parent is not None and manifest.id == parent.id
        if (unchanged or not (manifest.files or parent)) and not self.request.allow_empty:
            raise InvalidInputError(
                "nothing to commit: the tree is that of HEAD" if unchanged else "nothing to commit: there are no files",
                hint="mvc status, or --allow-empty",
            )

    def _new_contents(
        self, runs: Iterable[Sequence[Content]], parent: Manifest | None, batch: WriteBatch, tick: Tick
    ) -> Iterator[list[Content]]:
        """Yield those contents of each run that must be stored; have the batch protect those that are there already."""
        inherited = parent.segments() if parent else {}
        begun: set[ObjectId] = set()
        for run in runs:
            wanted = {
                content.id: content
                for content in run
                if (content.kind, content.id) not in inherited and content.id not in begun
            }
            begun |= wanted.keys()
            there = self.session.chains(wanted)
            new = [
                replace(content, damaged=True) if oid in there or self._is_in_the_way(content) else content
                for oid, content in wanted.items()
                if oid not in there or not rely_on(oid, there, batch)
            ]
            tick(sum(content.spec.nbytes for content in run) - sum(content.spec.nbytes for content in new))
            yield new

    def _is_in_the_way(self, content: Content) -> bool:
        """Return True if a file has the name of a blob that the index does not know: it cannot be read, or decoded."""
        is_loose = content.spec.nbytes >= LOOSE_BYTES
        return is_loose and self.session.store.loose.size(content.id) is not None

    def _encode(
        self,
        new: Iterable[Sequence[Content]],
        changes: _Changes,
        parent: Manifest | None,
        batch: WriteBatch,
        pool: Executor,
        tick: Tick,
    ) -> list[Stored]:
        """Store new contents as they come, and then those that wait for a companion among them."""
        names = changes.reading.names
        found = Candidates(self.session, parent, frozenset().union(*names.values()))
        reader = ContentReader(self.session, pool, found.locate)
        threads, bounds = self.session.threads, self.session.settings.delta
        encoder = Encoder(reader, pool, 2 * threads, self.request.level, bounds, self.executor)
        done: dict[ObjectId, Stored] = {}
        waiting: list[Content] = []

        def store(tasks: Iterable[Task]) -> None:
            """Store contents, and note each when it is done."""
            for stored in encoder.store(tasks, batch):
                done[stored.content.id] = stored
                tick(stored.content.spec.nbytes)

        store(self._first(new, names, found, reader, waiting))
        late = found.companions(waiting, companions(waiting, changes.files()), done)
        reader.prepare(side.id for _, sides in late for side in sides if side.id not in done)
        store(late)
        encoder.confirm(done.values())
        return [*done.values()]

    @staticmethod
    def _first(
        new: Iterable[Sequence[Content]],
        names: Mapping[str, frozenset[str]],
        found: Candidates,
        reader: ContentReader,
        waiting: list[Content],
    ) -> Iterator[Task]:
        """Yield the contents that need nothing of this commit, with their bases; keep the others in `waiting`."""
        for run in new:
            late = {content.id for content in run if may_have_companion(content, names[content.source.path])}
            waiting += [content.released() for content in run if content.id in late]
            tasks = found.bases([content for content in run if content.id not in late])
            reader.prepare(side.id for _, sides in tasks for side in sides)
            yield from tasks

    def _derivation(self, changes: _Changes, stored: Iterable[Stored]) -> Derivation | None:
        """Return what the commit says of its loss, with what the blobs take: these, those that were there, or 0."""
        found = self.request.derivation or changes.derivation(self.target.parent)
        if found is None:
            return None
        records = self.session.index.blobs({tensor.id for tensor in found.tensors})
        sizes = {oid: record.location.length for oid, record in records.items()}
        sizes |= {item.content.id: item.stored_bytes for item in stored}
        tensors = tuple(replace(tensor, stored_bytes=sizes.get(tensor.id, 0)) for tensor in found.tensors)
        return replace(found, tensors=tensors)

    def _record(self, manifest: Manifest, derivation: Derivation | None, batch: WriteBatch) -> Commit:
        request, time = self.request, now() if self.request.time is None else self.request.time
        message, parents = request.message.strip(), self.target.parents
        recorded = Commit(manifest.id, parents, self.actor.author, time, message, request.metadata, derivation)
        put_commit(batch, recorded, manifest)
        return recorded


def _follow(session: Session, done: _Done, seen: _Seen | None) -> None:
    """Bring the index and the dirty-check cache up to date. The commit stands whatever becomes of them."""
    try:
        if done.state:
            session.follow(done.state, done.added)
        else:
            session.follow_objects(done.added)
        if seen is not None:
            _remember(session, done.result.commit, done.manifest, seen)
    except (StorageError, ReadOnlyError) as error:
        _LOGGER.warning("commit %s is recorded, but what is derived from it is not yet: %s", done.result.commit, error)


def _remember(session: Session, oid: ObjectId, manifest: Manifest, seen: _Seen) -> None:
    """Have the dirty-check cache describe the new commit, with what is known of its files in the work tree."""
    files = {}
    for file in manifest.files:
        segments, tracked = seen.get(file.path, (None, None))
        same = tracked is not None and segments == file.segments and tracked.mode == file.mode
        files[file.path] = tracked if same and tracked else Tracked(file.mode, file.size, None)
    session.save_worktree(WorkTree(oid, files))
