"""Doing things to a repository, its remote and their model, comparing what comes of it, and crashing on the way."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from hypothesis.stateful import RuleBasedStateMachine

from mvc.errors import IntegrityError, MvcError, NotFoundError, StorageError
from mvc.objects.refnames import THINNED
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.session import Session
from mvc.store.fs import FileSystem
from mvc.testing.crashes import LOSING, CrashAt, CrashMode, SimulatedCrash, restart
from mvc.testing.invariants import (
    commits_come_back,
    files_below,
    fsck_finds_nothing,
    index_is_as_rebuilt,
    log_is_history,
    notes_are_those_of_the_model,
    operations_are_those_of_the_model,
    refs_are_those_of_the_model,
    remote_is_whole,
)
from mvc.testing.model import NEW, Model
from mvc.testing.remote_scenarios import remote_store
from mvc.testing.scenarios import REMOTE, layouts, open_case
from mvc.testing.trials import Unflushed
from mvc.types import ObjectId

__all__ = ["Beside"]

_DAMAGES_INDEX: Final = frozenset({"torn", "zero"})
"""Modes of a crash that leave an index that is none."""


class _Excuses(NamedTuple):
    """Why an action may be refused, as in `Beside.act`."""

    needed: Iterable[ObjectId | None]
    or_else: type[MvcError] | None


class Beside(RuleBasedStateMachine):
    """A repository and a bare one, its remote, beside their model; subclasses say what is done to them.

    Attributes
    ----------
    scratch, case : Path
        A directory of this machine, and in it the case with the work tree; see `mvc.testing.scenarios`.
    model : Model
        What must be.
    known : list of ObjectId
        All commits, oldest first.
    compared, compared_there : set of ObjectId
        Commits that were found byte for byte as they were made, here and at the remote, since anything was last removed
        or damaged.
    session, other : Session
        What is worked with, and perhaps one that was left open.
    danger : tuple of (int, CrashMode, int), optional
        Step, mode and seed of the crash in the next action.
    """

    check_every: ClassVar[int] = 50
    """Steps between two checks of everything; at the end of a history everything is checked in any case."""
    tally: ClassVar[Counter[str]] = Counter()
    """Of all machines of this process: examples, steps, and actions that were done, refused or crashed in."""

    def __init__(self) -> None:
        super().__init__()
        self.tally["examples"] += 1
        self.scratch = Path(tempfile.mkdtemp(prefix="mvc-model-", dir=_memory_disk()))
        self.case = self.scratch / "case"
        self.model = Model()
        self.known: list[ObjectId] = []
        self.compared: set[ObjectId] = set()
        self.compared_there: set[ObjectId] = set()
        self.other: Session | None = None
        self.danger: tuple[int, CrashMode, int] | None = None
        self.steps = 0

    def teardown(self) -> None:
        """Check everything once more, and clean up."""
        try:
            if self.case.exists():
                self.compared.clear()
                self.compared_there.clear()
                self.check_everything()
        finally:
            shutil.rmtree(self.scratch)

    def check_everything(self) -> None:
        """Check every promise, in a session of its own."""
        session = self.opened()
        refs_are_those_of_the_model(session, self.model)
        operations_are_those_of_the_model(session, self.model)
        log_is_history(session, self.model)
        notes_are_those_of_the_model(session, self.model, self.known)
        whole = self.model.whole()
        with session.index.connected():
            commits_come_back(session, self.model, sorted(whole - self.compared), self.scratch)
        self.compared |= whole
        fsck_finds_nothing(session)
        index_is_as_rebuilt(session)
        remote_is_whole(self.opened_remote(), self.model, self.compared_there, self.scratch)

    def act(
        self,
        action: Callable[[Session], object],
        predict: Callable[[Model], None],
        *needed: ObjectId | None,
        or_else: type[MvcError] | None = None,
    ) -> bool:
        """Do something to both, and compare what comes of it.

        Parameters
        ----------
        action : callable
            Does it to a session.
        predict : callable
            Does it to a model; raises what `action` must raise.
        *needed : ObjectId or None
            Commits without which it cannot be done: if something of them may have been collected, it may be refused.
        or_else : type, optional
            How it may be refused although the model does not: then nothing has changed.

        Returns
        -------
        bool
            True if it was done, and nothing crashed.
        """
        after = self.model.copy()
        refusal = _raised(predict, after)
        danger, self.danger = self.danger, None
        if danger:
            self._act_in_danger(action, after, refusal, danger, _Excuses(needed, or_else))
            return False
        try:
            action(self.session)
        except MvcError as error:
            self._become(self._check_refusal(error, refusal, after, _Excuses(needed, or_else)))
            self.tally["refused"] += 1
            return False
        self.tally["done"] += 1
        assert refusal is None, f"it was done, where {refusal!r} was expected"
        self._become(after)
        return True

    def _check_refusal(self, error: MvcError, refusal: MvcError | None, after: Model, excuses: _Excuses) -> Model:
        """Assert that an error is the one that was expected, or says that something was collected.

        Returns the model that it leaves: what a refused action had done before, as a pull that has fetched, stays.
        """
        if type(error) is type(refusal):
            return after
        if refusal is None and type(error) is excuses.or_else:
            return self.model
        collected = not all(self.model.is_safe(oid) for oid in excuses.needed)
        if not (collected and isinstance(error, NotFoundError | IntegrityError)):
            raise error
        return self.model

    def _act_in_danger(
        self,
        action: Callable[[Session], object],
        after: Model,
        refusal: MvcError | None,
        danger: tuple[int, CrashMode, int],
        excuses: _Excuses,
    ) -> None:
        """Do something while the machine crashes: what is left is the old state, or the new one."""
        step, mode, seed = danger
        finished = False
        with CrashAt(step, mode, seed) as fs:
            try:
                action(self.opened(fs))
                finished = True
            except SimulatedCrash:
                pass
            except MvcError as error:
                after = self._check_refusal(error, refusal, after, excuses)
            finished = finished and not fs.crashed
            if not fs.crashed:
                fs.crash()
        self.tally[f"crashed ({mode})"] += 1
        self.tally["promises kept through a loss"] += finished and mode in LOSING
        self.compared.clear()
        self.compared_there.clear()
        for layout in layouts(self.case).values():
            restart(layout.directory)
        self.other = self.other if mode == "stop" else None
        self._reopen_after(mode)
        self._follow(after, finished=finished)

    def _reopen_after(self, mode: CrashMode) -> None:
        """Open the repository; whoever first meets a damaged index drops it, and has to ask again."""
        with suppress(*((StorageError,) if mode in _DAMAGES_INDEX else ())):
            self._look_around()
            return
        self._look_around()

    def _look_around(self) -> None:
        self.session = self.opened()
        self.session.refresh(force=True)
        self.session.index.all_blobs()
        self.session.index.all_commits()

    def _follow(self, after: Model, *, finished: bool) -> None:
        """Let the model become what it was before, after, or between two operations, as the repository has.

        The remote has its old refs or the new ones, and each file of the work tree its old content or the new one.
        """
        before = self.model
        undone = len(after.operations) - self.session.refs.newest()[0]
        assert undone in range(len(after.operations) - len(before.operations) + 1), "operations were lost"
        theirs = self.remote().state()
        assert dict(theirs.refs) in (before.remote, after.remote), f"the refs of the remote are {theirs.refs}"
        assert not finished or (undone, theirs.refs) == (0, after.remote), "what the action had promised is lost"
        left = files_below(self.session.layout.root)
        for path in left.keys() | before.worktree.keys() | after.worktree.keys():
            assert left.get(path) in {before.worktree.get(path), after.worktree.get(path)}, f"{path} is another"
        state = after.rewound(undone)
        state.remote, state.remote_operations = dict(theirs.refs), theirs.number
        state.worktree = dict(left)
        self._become(state)

    def _become(self, after: Model) -> None:
        """Take over a state, with the id of what is new in it."""
        found = dict(self.session.refs.state().refs)
        wanted = {name: value for name, value in after.refs.items() if value.startswith(NEW) and name in found}
        if wanted:
            after = after.named({value: ObjectId(found[name]) for name, value in wanted.items()})
        for oid in [ObjectId(found[name]) for name in wanted if name.startswith(THINNED)]:
            after.set_parents(oid, self.session.commit(oid).parents)
        self.model = after
        self.model.settle()
        made = (oid for oid, commit in after.commits.items() if not commit.is_note)
        self.known += [oid for oid in made if oid not in self.known]

    def opened(self, fs: FileSystem | None = None) -> Session:
        """Open the repository once more."""
        return open_case(self.case, fs or Unflushed())

    def remote(self, fs: FileSystem | None = None) -> RemoteStore:
        """Return the remote."""
        return remote_store(self.case, fs or Unflushed())

    def opened_remote(self, fs: FileSystem | None = None) -> Session:
        """Open the remote as the bare repository that it is."""
        return Session(layouts(self.case)[REMOTE], fs or Unflushed())

    def forget_sessions(self) -> None:
        """Go on in a new session, and in no other."""
        self.session, self.other = self.opened(), None

    def recent(self, which: int) -> ObjectId:
        """Return a commit, the newest ones more often."""
        return self.known[-1 - which % len(self.known)]

    def write(self, path: str, content: bytes) -> None:
        """Write a file in place, as often within one tick of the clock as it happens to be."""
        target = self.case / "work" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.model.worktree[path] = content


def _raised(predict: Callable[[Model], None], model: Model) -> MvcError | None:
    """Return the error with which a model refuses."""
    try:
        predict(model)
    except MvcError as error:
        return error
    return None


def _memory_disk() -> Path | None:
    """Return where simulated crashes are quick: they need no real disk."""
    found = Path("/dev/shm")  # noqa: S108
    return found if os.access(found, os.W_OK) else None
