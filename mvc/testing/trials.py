"""Scenarios tried on a machine that crashes and on a disk that fails, and what must hold afterwards.

In every repository of the case: nothing that was committed is lost or changed; the refs are the old ones or the new
ones, or what they were between two operations; every file of a work tree has its old content or its new one; ``fsck``
finds nothing; and the same action, done again, succeeds.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Final, TypeVar

from mvc.errors import NotFoundError, RemoteError, StorageError
from mvc.index import Database, synchronise
from mvc.objects.refnames import HEAD
from mvc.repo.checkout import export_commit
from mvc.repo.fsck import fsck
from mvc.repo.layout import DIRECTORY
from mvc.repo.log import history
from mvc.repo.presence import check_contents
from mvc.repo.refs import SYMBOLIC, RefState
from mvc.repo.session import Session
from mvc.repo.tips import commits_of_refs
from mvc.store.local_fs import LocalFileSystem
from mvc.testing.crashes import CrashAt, CrashMode, SimulatedCrash, crash, restart
from mvc.testing.faults import FailingFileSystem
from mvc.testing.scenarios import REMOTE, Scenario, layouts
from mvc.types import ObjectId, object_id

__all__ = ["Trial", "Unflushed", "digests", "restart"]

_NEVER: Final = 1 << 62
"""A step that no scenario reaches; a number of commits that none makes."""

_DAMAGES_INDEX: Final = frozenset({"torn", "zero"})
"""Modes of a crash that leave an index that is none."""

Digests = Mapping[str, str]
"""Path -> SHA-256 of the file."""


class Unflushed(LocalFileSystem):
    """The local file system without waiting for the disk, for what is looked at and thrown away."""

    def _fsync(self, fd: int) -> None:
        pass


def digests(root: Path) -> Digests:
    """Return the SHA-256 of every file below a directory, those of repositories left out."""
    found = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.is_file() and DIRECTORY not in inside.parts and inside.parts[0] != REMOTE:
            with path.open("rb") as file:
                found[inside.as_posix()] = file_digest(file, "sha256").hexdigest()
    return found


Refs = Mapping[str, str]
"""Ref -> what it leads to: a branch, or a manifest. Ids of commits tell the time, so that they cannot be compared."""


@dataclass(frozen=True, slots=True)
class _Observed:
    """What a case holds.

    Parameters
    ----------
    refs : mapping of str to Refs
        Of every repository, by its directory.
    files : Digests
        All files outside of repositories.
    """

    refs: Mapping[str, Refs]
    files: Digests

    @classmethod
    def of(cls, case: Path) -> _Observed:
        """Look at a case."""
        refs = {name: _meanings(session, session.refs.state()) for name, session in _opened(case).items()}
        return cls(refs, digests(case))


def _opened(case: Path) -> dict[str, Session]:
    """Open the repositories of a case, by directory; one that is not finished is none."""
    places = {name: layout for name, layout in layouts(case).items() if layout.format.exists()}
    return {name: Session(layout, Unflushed()) for name, layout in places.items()}


def _meanings(session: Session, state: RefState) -> Refs:
    return {name: _meaning(session, name, value) for name, value in state.refs.items()}


def _meaning(session: Session, name: str, value: str) -> str:
    if name == HEAD and value.startswith(SYMBOLIC):
        return value
    oid = object_id(value)
    try:
        return session.record(oid).manifest
    except NotFoundError:
        tag = session.tag(oid)
        return f"{tag.message} {session.record(tag.target).manifest}"


class Trial:
    """A scenario, prepared once and tried many times on copies.

    Parameters
    ----------
    scenario : Scenario
        What to try.
    scratch : Path
        An existing directory; the trial has all its files below it.
    """

    def __init__(self, scenario: Scenario, scratch: Path) -> None:
        self.scenario = scenario
        self._scratch = scratch / scenario.name
        self._start = self._scratch / "start"
        self._start.mkdir(parents=True)
        scenario.prepare(self._start)
        self._before = _Observed.of(self._start)
        sessions = _opened(self._start)
        self._numbers = {name: session.refs.newest()[0] for name, session in sessions.items()}
        self._commits = {name: self._read_all(session) for name, session in sessions.items()}
        finished = self._copy()
        with CrashAt(_NEVER) as fs:
            scenario.act(finished, fs)
        self.steps = tuple(step.split()[0] for step in fs.steps)
        """Names of the steps of the action. There are four more where the stamps of the work tree had settled, so that
        they are noted: that depends on how long the copy has taken."""
        self._after = _Observed.of(finished)
        self._passed = {name: self._states(name, session) for name, session in _opened(finished).items()}
        self._check_finished(finished)

    def _states(self, name: str, session: Session) -> list[Refs]:
        """Return what the refs of a repository have been while the action ran, from its beginning on."""
        first = self._numbers.get(name, 0)
        walk = ((oid, operation.number) for oid, operation in session.refs.walk())
        return [_meanings(session, session.refs.state(oid)) for oid, number in walk if number >= first]

    def crash(self, step: int, mode: CrashMode) -> str | None:
        """Crash at a step of the action, and check what is left.

        Returns
        -------
        str or None
            The step; None if the action has fewer, and was crashed behind its last one.

        Raises
        ------
        AssertionError
            If something does not hold that must.
        """
        case = self._copy()
        crashed = crash(partial(self.scenario.act, case), step, mode)
        _restart(case)
        index_damaged = mode in _DAMAGES_INDEX
        observed = _twice(lambda: self._check_left(case), index_damaged)
        if crashed is None:
            assert observed.refs == self._after.refs, "what the action had promised is lost"
        _twice(lambda: self.scenario.act(case, Unflushed()), index_damaged)
        self._check_finished(case)
        return crashed

    def crash_after_a_restart(self, step: int) -> str | None:
        """Have the process die at a step, another one finish the action, and then the power fail; check what is left.

        What the first one has written may be relied on by the second, and was perhaps not flushed.

        Returns
        -------
        str or None
            The step; None if the action has fewer: then nothing is checked.

        Raises
        ------
        AssertionError
            If something does not hold that must.
        """
        case = self._copy()
        with CrashAt(step) as fs:
            with suppress(SimulatedCrash):
                self.scenario.act(case, fs)
            if not fs.crashed:
                return None
            _restart(case)
            fs.go_on("lose")
            self.scenario.act(case, fs)
            fs.crash()
        _restart(case)
        self._check_left(case)  # what the second one has only found done, it does not promise
        self.scenario.act(case, Unflushed())
        self._check_finished(case)
        return fs.steps[step - 1]

    def fail(self, calls: int, error: int) -> str | None:
        """Have the disk fail after some calls of the action, and check what it says and leaves.

        Returns
        -------
        str or None
            The call that failed; None if the action has no more than `calls`.

        Raises
        ------
        AssertionError
            If something does not hold that must. Errors other than those of the medium come through.
        """
        case = self._copy()
        with FailingFileSystem(calls, error) as fs:
            try:
                self.scenario.act(case, fs)
            except (StorageError, RemoteError) as failure:
                _check_failure(failure, fs.failed, full=error == errno.ENOSPC)
        _restart(case)
        self._check_left(case)
        assert fs.failed == "unlink" or not _temporaries(case), f"after {fs.failed}: {_temporaries(case)}"
        self.scenario.act(case, Unflushed())
        self._check_finished(case)
        return fs.failed

    def _copy(self) -> Path:
        """Return a copy of the start, in the place of the one before."""
        case = self._scratch / "case"
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(self._start, case, symlinks=True)
        return case

    def _check_left(self, case: Path) -> _Observed:
        """Assert that nothing is lost, whatever the action came to."""
        observed = _Observed.of(case)
        assert observed.refs.keys() >= self._before.refs.keys(), "a repository is gone"
        for name, refs in observed.refs.items():
            assert refs in self._passed[name], f"the refs of {name} are {refs}"
        for path, found in observed.files.items():
            known = self._before.files.get(path), self._after.files.get(path)
            assert found in known, f"{path} is neither the old file nor the new one"
        gone = self._before.files.keys() & self._after.files.keys() - observed.files.keys()
        assert not gone, f"{sorted(gone)} are gone"
        self._check_commits(_opened(case))
        return observed

    def _check_finished(self, case: Path) -> None:
        """Assert that the action has done what it was to do, and that the index is what a new one would be."""
        assert _Observed.of(case) == self._after
        sessions = _opened(case)
        self._check_commits(sessions)
        for session in sessions.values():
            session.refresh(
                force=True
            )  # what an interrupted action has stored is of no concern to it, and is not looked for
            assert _indexed(session.index) == _indexed(_new_index(session)), "the index differs from a new one"
            session.store.temporaries.sweep(-1.0)
        assert not _temporaries(case), "the sweep left something"

    def _check_commits(self, sessions: Mapping[str, Session]) -> None:
        """Assert that everything that was committed before comes back byte for byte, and that fsck finds nothing.

        Of what is thinned, everything must be there for the undoing, and what stands in for it.
        """
        for name, commits in self._commits.items():
            state = sessions[name].refs.state()
            check_contents(sessions[name], state, [oid for oid in commits if oid in state.thinned])
            for oid, files in commits.items():
                stand_in = state.thinned.get(oid)
                found = self._read(sessions[name], stand_in or oid)
                assert (found == files) == (stand_in is None), f"commit {oid} of {name} is another"
        for name, session in sessions.items():
            session.refresh(force=True)
            session.index.all_blobs()  # whoever first meets a damaged index drops it
            session.index.all_commits()
            report = fsck(session)
            assert report.clean, (name, report.faults)

    def _read_all(self, session: Session) -> dict[ObjectId, Digests]:
        """Return the files of every commit that refs reach."""
        tips = commits_of_refs(session, session.refs.state()).values()
        return {record.id: self._read(session, record.id) for record in history(session, tips)}

    def _read(self, session: Session, oid: ObjectId) -> Digests:
        target = self._scratch / "exported"
        export_commit(session, oid, target)
        try:
            return digests(target)
        finally:
            shutil.rmtree(target)


T = TypeVar("T")


def _twice(action: Callable[[], T], index_damaged: bool) -> T:  # noqa: FBT001 (said by the name at both calls)
    """Return what `action` returns; whoever first meets a damaged index drops it, and has to ask again."""
    try:
        return action()
    except StorageError as error:
        if not index_damaged or "index" not in error.message:
            raise
        return action()


def _check_failure(failure: StorageError | RemoteError, call: str | None, *, full: bool) -> None:
    """Assert that an error says what happened. SQLite does not tell whether trying again may help, so it always may."""
    assert call, f"nothing failed, but {failure.message}"
    assert ("full" in failure.message) == full, failure.message
    assert failure.transient == (full or call == "index"), failure.message


def _restart(case: Path) -> None:
    for layout in layouts(case).values():
        restart(layout.directory)


def _temporaries(case: Path) -> list[str]:
    return sorted(path.name for layout in layouts(case).values() for path in (layout.directory / "tmp").glob("*"))


def _new_index(session: Session) -> Database:
    database = Database(None)
    synchronise(database, session.store, session.refs.newest()[1])
    return database


def _indexed(database: Database) -> list[str]:
    return sorted(map(repr, [*database.all_blobs(), *database.commits_up_to(_NEVER, _NEVER)]))
