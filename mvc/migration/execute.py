"""Do what a plan says: record commits, then have branches and tags hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final, Self

from mvc.errors import AlreadyExistsError, ConflictError, InvalidInputError
from mvc.index import CommitRecord
from mvc.migration.plan import ORIGIN, Branch, ImportPlan, PlannedCommit, PlannedTag
from mvc.migration.recorded import unrecorded
from mvc.migration.sources import Sources
from mvc.objects.commit import Tag
from mvc.objects.operation import RefChange
from mvc.objects.refnames import branch_ref, tag_ref
from mvc.repo.checkout import move_refs
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, Target, commit
from mvc.repo.log import history
from mvc.repo.progress import Progress
from mvc.repo.session import Session
from mvc.repo.tips import commits_of_refs
from mvc.repo.tree import Selection
from mvc.settings import Level
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata
from mvc.types import ObjectId, object_id

__all__ = ["Import", "ImportResult", "check_refs", "recorded"]

_ATTEMPTS: Final = 100
"""Tries to move refs; each failure means that another writer moved one of them."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did.

    Parameters
    ----------
    branches : mapping of str to ObjectId
        Where each of its branches is now.
    tags : tuple of str
        Its tags.
    imported : int
        Commits that were recorded.
    skipped : int
        Commits that were there already, with every file that they would have now.
    logical_bytes : int
        Sizes of all files of the commits that were recorded, added up.
    stored_bytes : int
        Bytes by which the store grew for them.
    """

    branches: Mapping[str, ObjectId]
    tags: tuple[str, ...]
    imported: int
    skipped: int
    logical_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class _Line:
    """What is new of a branch, and what its ref, `ref`, held when that was found out."""

    ref: str
    old: str | None
    commits: tuple[PlannedCommit, ...]


@dataclass
class Import:
    """An import under way.

    Parameters
    ----------
    session : Session
        The repository.
    plan : ImportPlan
        What to do.
    actor : Actor
        Who imports.
    level : Level
        How hard to try to be small.
    allow_damaged : bool
        Record damaged and incomplete checkpoints as they are. What git holds is recorded as it is in any case.
    executor : Executor or None
        Encodes.
    progress : callable
        Told how far each commit is.
    """

    session: Session
    plan: ImportPlan
    actor: Actor
    level: Level
    allow_damaged: bool
    executor: Executor | None
    progress: Progress
    imported: int = 0
    skipped: int = 0
    logical_bytes: int = 0
    stored_bytes: int = 0

    def run(self) -> ImportResult:
        """Do it."""
        self.session.check_writable()
        check_refs(self.session, self.plan)
        git = self.plan.kind == "git-lfs"
        spool = self.session.layout.directory / "tmp"
        with Sources.of(self.plan.source, spool, git=git, opaque=self.allow_damaged or git) as sources:
            if git:
                self._graph(sources)
            else:
                for line in self._lines():
                    self._extend(line, sources)
        refs = self.session.refs.state().refs
        return ImportResult(
            {branch.name: object_id(refs[branch_ref(branch.name)]) for branch in self.plan.branches},
            tuple(tag.name for tag in self.plan.tags),
            self.imported,
            self.skipped,
            self.logical_bytes,
            self.stored_bytes,
        )

    def _lines(self) -> list[_Line]:
        """Return what is new of every branch: before anything is recorded, since one of them may be refused."""
        # Whoever allows damaged files now, or did before: the comparison takes them as they are.
        files = Sources(None, self.session.layout.directory / "tmp", opaque=True)
        with self.session.index.connected(), self.session.pool() as pool:
            return [self._line(branch, files, pool) for branch in self.plan.branches]

    def _line(self, branch: Branch, files: Sources, pool: Executor) -> _Line:
        ref = branch_ref(branch.name)
        old = self.session.refs.state().refs.get(ref)
        there: dict[object, list[CommitRecord]] = {}
        for record in history(self.session, [object_id(old)]) if old else ():
            there.setdefault(record.metadata.get(ORIGIN), []).append(record)
        new = []
        for planned in branch.commits:
            records = there.get(planned.origin)
            if records is None or not self._is_there(planned, records, branch, files, pool):
                new.append(planned)
        self.skipped += len(branch.commits) - len(new)
        return _Line(ref, old, tuple(new))

    def _is_there(
        self, planned: PlannedCommit, records: Iterable[CommitRecord], branch: Branch, files: Sources, pool: Executor
    ) -> bool:
        """Return True if one of the commits of the same origin holds what is planned; refuse another checkpoint."""
        manifests = [self.session.manifest(record.id) for record in records]
        with files.open(planned.files) as opened:
            path = unrecorded(opened, manifests, pool)
        if path is not None and self.plan.kind == "checkpoints":
            raise InvalidInputError(
                f"{planned.message} on branch {branch.name!r} is another checkpoint: {path!r} differs or is not there; "
                "nothing was imported",
                hint="--branch NAME, with the directory of one run, imports it as another line",
            )
        return path is None

    def _extend(self, line: _Line, sources: Sources) -> None:
        """Put what is new of a branch on top of it, commit by commit: whenever it ends, what is there is whole."""
        old = line.old
        for planned in line.commits:
            target = Target(line.ref, old, (object_id(old),) if old else ())
            old = self._record(planned, target, sources)

    def _graph(self, sources: Sources) -> None:
        """Record a history that branches and merges, and in the end move all refs at once: it is there whole, or not.

        Commits that an import has recorded before it was stopped are found again.
        """
        commits = self.plan.commits
        known = recorded(commits, self.session.index.all_commits())
        self.skipped = len(known)
        tips = {known[origin] for origin in known} - {known[up] for o in known for up in commits[o].parents or ()}
        with _Pins(self.session) as pins:
            pins.hold(tips)
            for origin, planned in commits.items():
                if origin not in known:
                    parents = tuple(known[parent] for parent in planned.parents or ())
                    known[origin] = oid = self._record(planned, Target(None, None, parents), sources)
                    tips = tips - {*parents} | {oid}
                    pins.hold(tips)
            self._move_refs(known)

    def _move_refs(self, known: Mapping[str, ObjectId]) -> None:
        """Have branches and tags hold what was recorded."""
        wanted = {branch_ref(branch.name): known[branch.tip] for branch in self.plan.branches}
        wanted |= {tag_ref(tag.name): self._tag(tag, known[tag.target]) for tag in self.plan.tags}
        for _ in range(_ATTEMPTS):
            check_refs(self.session, self.plan)
            refs = self.session.refs.state().refs
            changes = [RefChange(ref, refs.get(ref), oid) for ref, oid in wanted.items() if refs.get(ref) != oid]
            with suppress(ConflictError):  # another shard has made the same tag
                move_refs(self.session, changes, self.actor)
                self.session.refresh()
                return
        raise ConflictError(f"{_ATTEMPTS} times another process moved what is imported", hint="run mvc import again")

    def _tag(self, planned: PlannedTag, target: ObjectId) -> ObjectId:
        """Return what a tag is to hold: an object, which is stored, if it has a message."""
        if planned.message is None:
            return target
        tag = Tag(target, planned.message, planned.author, planned.time)
        with self.session.store.begin() as batch:
            batch.put(EntryKind.TAG, tag.id, wrap_metadata(tag.encoded))
            batch.commit()
        return tag.id

    def _record(self, planned: PlannedCommit, target: Target, sources: Sources) -> ObjectId:
        request = CommitRequest(
            planned.message,
            {**planned.metadata, ORIGIN: planned.origin},
            self.level,
            allow_empty=True,
            allow_damaged=self.allow_damaged or self.plan.kind == "git-lfs",
            time=planned.time,
        )
        actor = Actor(planned.author or self.actor.author, self.actor.command)
        with sources.open(planned.files) as opened:
            selection = Selection(opened, planned.replaces, in_worktree=False)
            done = commit(self.session, selection, request, actor, self.progress, target=target, executor=self.executor)
        self.imported += 1
        self.logical_bytes += done.logical_bytes
        self.stored_bytes += done.stored_bytes
        return done.commit


class _Pins:
    """A lease on commits that no ref holds yet, taken again whenever there are others."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def hold(self, commits: Iterable[ObjectId]) -> None:
        """Pin `commits`, with all that they reach, in the place of those before."""
        taken = ExitStack()
        taken.enter_context(self._session.store.leases.take("import", commits))
        self._held.close()
        self._held = taken


def recorded(commits: Mapping[str, PlannedCommit], stored: Iterable[CommitRecord]) -> dict[str, ObjectId]:
    """Return which of `commits` are among `stored`, with the parents that they are to have."""
    candidates: dict[object, list[CommitRecord]] = {}
    for record in stored:
        candidates.setdefault(record.metadata.get(ORIGIN), []).append(record)
    known: dict[str, ObjectId] = {}
    for origin, planned in commits.items():
        parents = tuple(known.get(parent) for parent in planned.parents or ())
        found = [record.id for record in candidates.get(origin, ()) if record.parents == parents]
        if found:
            known[origin] = min(found)
    return known


def check_refs(session: Session, plan: ImportPlan) -> None:
    """Refuse names that are taken by something else than an earlier import of the same.

    Raises
    ------
    AlreadyExistsError
        With the first of them.
    """
    state = session.refs.state()
    commits = commits_of_refs(session, state)
    branches, tags = {branch.name for branch in plan.branches}, {tag.name for tag in plan.tags}
    both = {name for name in branches if name in tags or tag_ref(name) in state.refs}
    both |= {name for name in tags if branch_ref(name) in state.refs}
    if both:
        raise AlreadyExistsError(f"{min(both)!r} would name a branch and a tag", hint="rename one of them")

    def origin(ref: str) -> object:
        """Return what the commit that a ref holds was imported from."""
        return session.record(commits[ref]).metadata.get(ORIGIN)

    for branch in plan.branches if plan.kind == "git-lfs" else ():
        ref = branch_ref(branch.name)
        if ref in commits and origin(ref) not in {commit.origin for commit in branch.commits}:
            raise AlreadyExistsError(
                f"branch {branch.name!r} exists and holds what git's does not", hint="mvc branch -m NAME OTHER"
            )
    for tag in plan.tags:
        if tag_ref(tag.name) in commits and origin(tag_ref(tag.name)) != tag.target:
            raise AlreadyExistsError(f"tag {tag.name!r} exists and names something else", hint="mvc tag -d NAME")
