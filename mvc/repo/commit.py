"""``mvc commit``: record a tree as the next commit of a branch."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Final

from mvc.errors import ConflictError, InvalidInputError, ReadOnlyError, StorageError
from mvc.objects.commit import Commit, Metadata
from mvc.objects.manifest import Manifest, Segment
from mvc.objects.operation import RefChange
from mvc.repo.candidates import candidates
from mvc.repo.clock import Actor, now
from mvc.repo.encode import Encoder, Stored
from mvc.repo.materialize import ContentReader
from mvc.repo.parallel import ordered_map
from mvc.repo.progress import Progress, silent
from mvc.repo.refs import RefState
from mvc.repo.scan import Content, ScannedFile, scan
from mvc.repo.session import Session
from mvc.repo.sources import FileSource
from mvc.repo.tree import Selection, assemble, check_complete, check_matched, is_shard_index, split_unchanged
from mvc.repo.worktree import Tracked, WorkTree, settled
from mvc.settings import LEVELS, Level
from mvc.store.batch import WriteBatch
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata
from mvc.types import ObjectId

__all__ = ["CommitRequest", "CommitResult", "commit"]

_LOGGER: Final = logging.getLogger(__name__)

_ATTEMPTS: Final = 100
"""Tries to move the branch; each failure means that another writer's commit has become the parent."""
_STALE_SECONDS: Final = 86_400
"""Age at which a temporary file belongs to nobody: no live writer pauses for a day between two writes."""


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
    """

    message: str
    metadata: Metadata = field(default_factory=dict)
    level: Level = "default"
    allow_empty: bool = False
    allow_damaged: bool = False


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a commit recorded.

    Parameters
    ----------
    commit : ObjectId
        Its id.
    branch : str or None
        Full name of the branch that moved; None for a detached HEAD.
    tensors : int
        Names of tensors in the tree.
    new_tensors : int
        Tensors that were not stored before.
    logical_bytes : int
        Sizes of all files.
    stored_bytes : int
        Bytes by which the store grew, metadata included.
    """

    commit: ObjectId
    branch: str | None
    tensors: int
    new_tensors: int
    logical_bytes: int
    stored_bytes: int


def commit(
    session: Session, selection: Selection, request: CommitRequest, actor: Actor, progress: Progress = silent
) -> CommitResult:
    """Record a tree as the next commit of the branch that HEAD follows.

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

    Raises
    ------
    InvalidInputError
        For an empty message, a tree without a change, or a file that cannot be recorded.
    ConflictError
        If a file changes while it is read.
    StorageError
        If the medium failed. The branch is where it was; or, if moving it was the last thing that could be done, at the
        new commit.
    """
    session.check_writable()
    if not request.message.strip():
        raise InvalidInputError("the commit message is empty", hint="say why: -m MESSAGE")
    _check_recordable(request, actor)
    session.store.temporaries.sweep(_STALE_SECONDS)
    state = session.refs.state()
    with session.pool() as pool:
        seen, scanned = _scan(session, state, selection, pool, progress)
        for _ in range(_ATTEMPTS):
            result = _Attempt(session, state, selection, request, actor).run(scanned, pool, progress)
            if result is not None:
                _follow(session, result.commit, seen)
                return result
            session.refresh()
            ref, state = state.moving_ref, session.refs.state()
            if state.moving_ref != ref:
                raise ConflictError(
                    f"another process switched away from {ref}; nothing was recorded", hint="commit again"
                )
    raise ConflictError(f"{_ATTEMPTS} other commits were faster", hint="commit again")


_Seen = dict[str, tuple[tuple[Segment, ...], Tracked]]
"""By path: the content that a file of the work tree had, and how to notice that it changed."""


def _check_recordable(request: CommitRequest, actor: Actor) -> None:
    """Refuse what a commit cannot say before anything is read or stored."""
    nothing = ObjectId("0" * 64)
    if request.level not in LEVELS:
        raise InvalidInputError(f"level {request.level!r} is unknown; there are {', '.join(LEVELS)}")
    _ = Commit(nothing, (), actor.author, now(), request.message.strip(), request.metadata).encoded


def _scan(
    session: Session, state: RefState, selection: Selection, pool: Executor, progress: Progress
) -> tuple[_Seen, list[ScannedFile]]:
    """Return what the work tree is known to hold, and every file of the selection."""
    head = session.manifest(state.head) if state.head else None
    tree = session.load_worktree()
    tree = tree if tree and tree.commit == state.head else None
    sources, unchanged = split_unchanged(selection, tree, head)
    started = time.time_ns()
    with progress("reading", sum(source.size for source in sources)) as tick:
        found = list(ordered_map(pool, lambda source: scan(source, tick), sources, 2 * session.threads))
    seen: _Seen = {}
    if tree and head:
        seen = {path: (head.by_path[path].segments, known) for path, known in tree.files.items()}
    for source, file in zip(sources, found, strict=True):
        if isinstance(source, FileSource) and selection.in_worktree:
            stamp = settled(source.stamp, started)
            seen[file.path] = (file.segments, Tracked(file.mode, source.size, file.checksum, stamp))
    return seen, unchanged + found


@dataclass(frozen=True)
class _Attempt:
    """One try to put a commit on top of `state`."""

    session: Session
    state: RefState
    selection: Selection
    request: CommitRequest
    actor: Actor

    def run(self, scanned: Sequence[ScannedFile], pool: Executor, progress: Progress) -> CommitResult | None:
        """Store everything and move the branch; None if another writer moved it first."""
        parent = self.session.manifest(self.state.head) if self.state.head else None
        check_matched(self.selection, parent)
        manifest = assemble(parent, self.selection.replaces, scanned)
        self._check(manifest, parent)
        with self.session.store.begin() as batch:
            new = self._new_contents(scanned, parent, batch)
            stored = self._encode(new, scanned, parent, batch, pool, progress)
            recorded = self._record(manifest, batch)
            batch.commit()
            if not self._move(recorded.id):
                return None
        return CommitResult(
            recorded.id,
            self.state.branch,
            len(manifest.tensors),
            sum(item.content.kind == "tensor" for item in stored),
            manifest.size,
            batch.stored_bytes,
        )

    def _check(self, manifest: Manifest, parent: Manifest | None) -> None:
        if not self.request.allow_damaged:
            indexes = [source for source in self.selection.sources if is_shard_index(source.path)]
            check_complete(manifest, {source.path: source.read_all() for source in indexes})
        unchanged = parent is not None and manifest.id == parent.id
        if (unchanged or not (manifest.files or parent)) and not self.request.allow_empty:
            raise InvalidInputError(
                "nothing to commit: the tree is that of HEAD" if unchanged else "nothing to commit: there are no files",
                hint="mvc status, or --allow-empty",
            )

    def _new_contents(
        self, scanned: Sequence[ScannedFile], parent: Manifest | None, batch: WriteBatch
    ) -> list[Content]:
        """Return the contents that must be stored, each once; have the batch protect those that are there already."""
        inherited = parent.segments() if parent else {}
        wanted = {
            content.id: content
            for file in scanned
            for content in file.contents
            if (content.kind, content.id) not in inherited
        }
        there = self.session.index.blobs(wanted)
        return [
            content if oid not in there else replace(content, damaged=True)
            for oid, content in wanted.items()
            if oid not in there or not batch.rely_on(oid, there[oid].location)
        ]

    def _encode(
        self,
        new: Sequence[Content],
        scanned: Sequence[ScannedFile],
        parent: Manifest | None,
        batch: WriteBatch,
        pool: Executor,
        progress: Progress,
    ) -> list[Stored]:
        found = candidates(self.session, new, parent, scanned)
        reader = ContentReader(self.session, pool)
        reader.prepare(side.id for sides in found.sides.values() for side in sides)
        encoder = Encoder(reader, pool, 2 * self.session.threads, self.request.level, self.session.settings.delta)
        done: dict[ObjectId, Stored] = {}
        with progress("storing", sum(content.spec.nbytes for content in new)) as tick:
            for tasks in (found.early(new), found.late(new, done)):
                for stored in encoder.store(tasks, batch):
                    done[stored.content.id] = stored
                    tick(stored.content.spec.nbytes)
        encoder.confirm(done.values())
        return [*done.values()]

    def _record(self, manifest: Manifest, batch: WriteBatch) -> Commit:
        parents = (self.state.head,) if self.state.head else ()
        recorded = Commit(
            manifest.id, parents, self.actor.author, now(), self.request.message.strip(), self.request.metadata
        )
        batch.put(EntryKind.MANIFEST, manifest.id, wrap_metadata(manifest.encoded))
        batch.put(EntryKind.COMMIT, recorded.id, wrap_metadata(recorded.encoded))
        return recorded

    def _move(self, oid: ObjectId) -> bool:
        ref, old = self.state.moving_ref, self.state.refs.get(self.state.moving_ref)

        def decide(current: RefState) -> tuple[RefChange, ...]:
            if current.refs.get(ref) != old:
                raise ConflictError(f"{ref} moved", hint="commit again")
            return (RefChange(ref, old, oid),)

        try:
            self.session.refs.update(decide, self.actor)
        except ConflictError:
            return False
        return True


def _follow(session: Session, oid: ObjectId, seen: _Seen) -> None:
    """Bring the index and the dirty-check cache up to date. The commit stands whatever becomes of them."""
    try:
        session.refresh()
        _remember(session, oid, seen)
    except (StorageError, ReadOnlyError) as error:
        _LOGGER.warning("commit %s is recorded, but what is derived from it is not yet: %s", oid, error)


def _remember(session: Session, oid: ObjectId, seen: _Seen) -> None:
    """Have the dirty-check cache describe the new commit, with what is known of its files in the work tree."""
    files = {}
    for file in session.manifest(oid).files:
        segments, tracked = seen.get(file.path, (None, None))
        same = tracked is not None and segments == file.segments and tracked.mode == file.mode
        files[file.path] = tracked if same and tracked else Tracked(file.mode, file.size, None, None)
    session.save_worktree(WorkTree(oid, files))
