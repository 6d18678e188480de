"""``mvc merge``: join another line of history with the branch that HEAD follows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from mvc.errors import ConflictError, InvalidInputError, ReadOnlyError, StorageError
from mvc.index import Additions
from mvc.objects.commit import Commit
from mvc.objects.manifest import Manifest
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES, REMOTES, TAGS
from mvc.repo.checkout import bring_worktree, plan_worktree, remember_worktree, session_status, write_worktree
from mvc.repo.clock import Actor, now
from mvc.repo.log import CommitPages
from mvc.repo.merge_base import merge_bases
from mvc.repo.merge_plan import MergeConflict, MergedFile, MergePlan, Side, plan_merge
from mvc.repo.presence import check_present
from mvc.repo.progress import Progress, silent
from mvc.repo.record import additions, move_ref, put_commit
from mvc.repo.refs import RefState
from mvc.repo.revisions import Revision, resolve
from mvc.repo.session import Session
from mvc.repo.status import Status
from mvc.store.leases import Lease
from mvc.types import ObjectId

__all__ = ["FastForward", "MergeRequest", "MergeResult", "merge"]

FastForward = Literal["auto", "only", "never"]
"""Whether a branch that the other one descends from just moves there: if possible, or else not at all, or never."""

_SHOWN: Final = 5
"""Conflicts that an error names: what fits into a few lines."""
_NOUNS: Final = {BRANCHES: "branch", TAGS: "tag", REMOTES: "remote-tracking branch"}
"""By where a ref stands: what a merge calls it."""


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """How to merge.

    Parameters
    ----------
    message : str, optional
        Of the merge commit; by default what was merged, in git's words.
    fast_forward : {"auto", "only", "never"}
        Whether to move the branch without a commit where that is possible.
    favour : {"ours", "theirs"}, optional
        The side to take where both changed the same tensor or file, each in another way.
    allow_unrelated : bool
        Merge also what has no history in common: what is not the same on both sides then conflicts.
    """

    message: str | None = None
    fast_forward: FastForward = "auto"
    favour: Side | None = None
    allow_unrelated: bool = False


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge came to.

    Parameters
    ----------
    kind : {"up-to-date", "fast-forward", "merge"}
        Whether nothing was to be done, the branch just moved, or a commit with two parents was made.
    commit : ObjectId
        Where the branch is now.
    branch : str or None
        Full name of the branch that HEAD follows; None if it is detached.
    bases : tuple of ObjectId
        The best common ancestors; the first is the one that both sides were compared with.
    written, removed : int
        Files of the work tree.
    files : tuple of MergedFile
        Of a commit with two parents: the files that were not the same on both sides.
    resolved : tuple of MergeConflict
        What was taken from the favoured side.
    """

    kind: Literal["up-to-date", "fast-forward", "merge"]
    commit: ObjectId
    branch: str | None
    bases: tuple[ObjectId, ...]
    written: int = 0
    removed: int = 0
    files: tuple[MergedFile, ...] = ()
    resolved: tuple[MergeConflict, ...] = ()


def merge(session: Session, ref: str, request: MergeRequest, actor: Actor, progress: Progress = silent) -> MergeResult:
    """Join the history of `ref` with that of HEAD, and bring the work tree there.

    The merged tree is put together of contents that are stored (`plan_merge`); nothing is decoded or encoded. Writes in
    this order: manifest and commit, the work tree, then the operation that moves the branch. A crash in between leaves
    files that ``mvc status`` shows as modified, and the same command completes it.

    Parameters
    ----------
    session : Session
        The repository.
    ref : str
        What to merge, as a user names it.
    request : MergeRequest
        How.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.

    Raises
    ------
    NotFoundError
        If there is no such revision.
    InvalidInputError
        If the histories have nothing in common, or the message is empty.
    ConflictError
        If both sides changed something, each in another way, and none is favoured: nothing was changed. Or if only a
        fast-forward was allowed, or another process moved the branch meanwhile.
    DirtyWorkTreeError
        If a changed or unknown file of the work tree would be overwritten or removed.
    """
    session.check_writable()
    if request.message is not None and not request.message.strip():
        raise InvalidInputError("the commit message is empty", hint="say why: -m MESSAGE")
    with session.index.connected():
        revision = resolve(session, ref)
        task = _Merge(session, session_status(session), ref, revision, request, actor, progress)
        return task.run()


@dataclass(frozen=True)
class _Merge:
    """One merge of `revision`, which the user called `ref`, into the HEAD of `before`."""

    session: Session
    before: Status
    ref: str
    revision: Revision
    request: MergeRequest
    actor: Actor
    progress: Progress

    def run(self) -> MergeResult:
        """Find out which kind of merge it is, and do it."""
        ours, theirs, allowed = self.before.refs.head, self.revision.commit, self.request.fast_forward
        bases = merge_bases(CommitPages(self.session).get, ours, theirs) if ours else ()
        if bases == (theirs,):
            return MergeResult("up-to-date", ours or theirs, self.before.refs.branch, bases)
        if ours is None or bases == (ours,):
            if allowed != "never":
                return self._fast_forward(bases)
        elif allowed == "only":
            raise ConflictError(
                f"{self.ref} does not descend from HEAD, so a fast-forward is not possible",
                hint=f"mvc merge {self.ref}",
            )
        if ours is None:
            raise InvalidInputError(
                "HEAD has no commit yet, so there is nothing to merge with",
                hint=f"mvc merge {self.ref}, without --no-ff",
            )
        if not bases and not self.request.allow_unrelated:
            raise InvalidInputError(
                f"{self.ref} has no history in common with HEAD", hint="pass --allow-unrelated-histories to merge it"
            )
        return self._three_way(ours, bases)

    def _fast_forward(self, bases: tuple[ObjectId, ...]) -> MergeResult:
        refs, theirs = self.before.refs, self.revision.commit
        changes = [RefChange(refs.moving_ref, refs.head, theirs)]
        written, removed, state = bring_worktree(
            self.session, self.before, theirs, changes, self.actor, force=False, progress=self.progress
        )
        self._follow(state)
        return MergeResult("fast-forward", theirs, refs.branch, bases, written, removed)

    def _three_way(self, ours: ObjectId, bases: tuple[ObjectId, ...]) -> MergeResult:
        theirs, session = self.revision.commit, self.session
        with session.store.leases.take("merge", [ours, theirs]) as lease:
            check_present(session, self.before.refs, [theirs])
            plan = self._plan(ours, bases)
            manifest = self._resolved(plan)
            change = plan_worktree(session, self.before, manifest)  # refused before anything is stored
            commit, added = self._store(manifest, ours)
            self._check_unmoved(session.refs.state())
            written = write_worktree(session, change, self.progress)
            state = self._move(commit, lease)
        self._follow(state, added)
        remember_worktree(session, commit, manifest, self.before.refs, written)
        return MergeResult(
            "merge",
            commit,
            self.before.refs.branch,
            bases,
            len(change.write),
            len(change.remove),
            plan.files,
            plan.conflicts,
        )

    def _plan(self, ours: ObjectId, bases: Sequence[ObjectId]) -> MergePlan:
        base = self.session.manifest(bases[0]) if bases else Manifest((), ())
        sides = self.session.manifest(ours), self.session.manifest(self.revision.commit)
        return plan_merge(base, *sides, self.request.favour)

    def _resolved(self, plan: MergePlan) -> Manifest:
        """Return the merged tree; refuse one with conflicts."""
        if plan.manifest is not None:
            return plan.manifest
        count = len(plan.conflicts)
        listed = "; ".join(map(_shown, plan.conflicts[:_SHOWN])) + ("; ..." if count > _SHOWN else "")
        raise ConflictError(
            f"{count} {'conflict' if count == 1 else 'conflicts'}, and nothing was changed: {listed}",
            hint=f"mvc merge -X theirs {self.ref} takes it from there; -X ours keeps what HEAD has: "
            "to resolve it by hand, commit what you want it to be, then merge with -X ours",
        )

    def _store(self, manifest: Manifest, ours: ObjectId) -> tuple[ObjectId, Additions]:
        """Make the merge commit durable. Its parents name every content that it does, so that these are too."""
        message = self.request.message or _default_message(self.revision, self.ref)
        parents = ours, self.revision.commit
        commit = Commit(manifest.id, parents, self.actor.author, now(), message.strip())
        with self.session.store.begin() as batch:
            put_commit(batch, commit, manifest)
            return commit.id, additions(commit, manifest, batch.commit())

    def _move(self, commit: ObjectId, lease: Lease) -> RefState:
        if not lease.renew():  # taken for dead: what this merge relies on may be gone
            raise ConflictError("this process was taken for dead, and what it merged may be gone", hint="merge again")
        refs = self.before.refs
        state = move_ref(self.session, refs.moving_ref, refs.refs.get(refs.moving_ref), commit, self.actor)
        if state is None:
            raise self._moved()
        return state

    def _check_unmoved(self, current: RefState) -> None:
        """Refuse to touch the work tree where it is sure already that the branch cannot be moved."""
        name = self.before.refs.moving_ref
        if current.refs.get(name) != self.before.refs.refs.get(name):
            raise self._moved()

    def _moved(self) -> ConflictError:
        return ConflictError(
            f"{self.before.refs.moving_ref} was moved by another process, and the merge is not recorded",
            hint="mvc status, then merge again",
        )

    def _follow(self, state: RefState, added: Additions | None = None) -> None:
        with suppress(StorageError, ReadOnlyError):  # derived: the next command will see to it
            self.session.follow(state, added)


def _shown(conflict: MergeConflict) -> str:
    place = f"{conflict.path}: {conflict.tensor}" if conflict.tensor is not None else conflict.path
    return f"{place} ({conflict.problem})"


def _default_message(revision: Revision, text: str) -> str:
    """Return what git would write."""
    for prefix, noun in _NOUNS.items():
        if revision.ref and revision.ref.startswith(prefix):
            return f"Merge {noun} '{revision.ref.removeprefix(prefix)}'"
    return f"Merge commit '{text}'"
