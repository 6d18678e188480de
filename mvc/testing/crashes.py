"""Crashes to order: a file system that stops at its n-th step, and leaves behind what a crash could have left.

`crash_everywhere` runs an action once for every step that it has.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from threading import RLock
from typing import Final, Literal, Self, get_args

from mvc.errors import MvcError
from mvc.store.fs import OBJECT_MODE, FileHandle, FileSystem
from mvc.store.layout import Buffer
from mvc.store.leases import LeaseRecord
from mvc.store.local_fs import LocalFileSystem
from mvc.testing.index_commits import watched

__all__ = [
    "CRASH_MODES",
    "LOSING",
    "CountingFileSystem",
    "CrashAt",
    "CrashMode",
    "SimulatedCrash",
    "crash",
    "crash_everywhere",
    "restart",
]

_NEVER: Final = 1 << 62
"""A step that nothing reaches."""
_NOBODY: Final = (1 << 22) + 1
"""A number that Linux gives to no process."""

CrashMode = Literal["stop", "torn", "lose", "lose-some", "zero"]
"""What is left of the steps before the crash.

stop
    Everything: the process died, the machine lives.
torn
    The same, and half of the write at which it died.
lose
    Only what was fsynced: contents are cut back, names that no fsync of their directory covers are undone.
lose-some
    As ``lose``, but each name that was not fsynced is undone or kept at random.
zero
    All names, but zeros where contents were not fsynced.

The index is written by SQLite, so that its single writes are not seen; a commit of it is one step. What is left of it
is taken to be worse than what SQLite promises, since it is derived data that may be made again whatever it holds. A
commit that was stopped at has not happened. ``torn`` cuts the file in half if a commit was stopped at, and with
``zero`` the second half is zeros if any was begun. With ``lose`` the file is what it was before the first commit that
no fsync has followed, or gone if there was none; with ``lose-some`` this happens at random.
"""

CRASH_MODES: Final[tuple[CrashMode, ...]] = get_args(CrashMode)
LOSING: Final[frozenset[CrashMode]] = frozenset({"lose", "lose-some", "zero"})
"""Modes in which something that was not fsynced is lost."""

_INDEX: Final = "index"
"""The step that is a commit of SQLite."""


class SimulatedCrash(BaseException):
    """The machine stopped here. Not an `Exception`: no handler of the code under test may go on after it."""


class CountingFileSystem(LocalFileSystem):
    """The local file system, with a list of the steps that changed the disk.

    It does not wait for the real disk: a crash that is simulated forgets what was not flushed by itself.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self._lock = RLock()  # one step at a time, so that "the n-th step" means something

    def create(self, path: Path, mode: int = OBJECT_MODE) -> FileHandle:
        """Count, then do it."""
        with self._lock:
            self._step("create", path)
            return super().create(path, mode)

    def write(self, handle: FileHandle, data: Buffer) -> None:
        """Count, then do it."""
        with self._lock:
            self._step("write", handle.path)
            super().write(handle, data)

    def pwrite(self, handle: FileHandle, data: Buffer, offset: int) -> None:
        """Count, then do it."""
        with self._lock:
            self._step("pwrite", handle.path)
            super().pwrite(handle, data, offset)

    def fsync(self, handle: FileHandle) -> None:
        """Count, then do it."""
        with self._lock:
            self._step("fsync", handle.path)
            super().fsync(handle)

    def replace(self, source: Path, target: Path) -> None:
        """Count, then do it."""
        with self._lock:
            self._step("replace", target)
            super().replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Count, then do it."""
        with self._lock:
            self._step("link", target)
            super().link(source, target)

    def unlink(self, path: Path) -> None:
        """Count, then do it."""
        with self._lock:
            self._step("unlink", path)
            super().unlink(path)

    def touch(self, path: Path) -> None:
        """Count, then do it."""
        with self._lock:
            self._step("touch", path)
            super().touch(path)

    def mkdir(self, path: Path) -> None:
        """Count, then do it."""
        with self._lock:
            self._step("mkdir", path)
            super().mkdir(path)

    def fsync_dir(self, path: Path) -> None:
        """Count, then do it."""
        with self._lock:
            self._step("fsync_dir", path)
            super().fsync_dir(path)

    def _fsync(self, fd: int) -> None:
        pass

    def _step(self, name: str, path: Path) -> None:
        """Note a step before it is done."""
        self.steps.append(f"{name} {path}")


class _Unsynced:
    """What a power failure would undo: the changes of contents and of names that no fsync has covered."""

    def __init__(self) -> None:
        self._contents: dict[Path, tuple[int, list[tuple[int, int, bytes]]]] = {}
        self._names: list[tuple[Path, Callable[[], None]]] = []

    def writing(self, handle: FileHandle, offset: int, length: int) -> None:
        """Note the size, and the bytes that a write of `length` bytes at `offset` is about to replace."""
        fd, undo = self._contents.get(handle.path) or (os.dup(handle.fd), [])
        self._contents[handle.path] = fd, undo
        undo.append((os.fstat(fd).st_size, offset, os.pread(fd, length, offset)))

    def changing(self, directory: Path, undo: Callable[[], None]) -> None:
        """Note that a name in `directory` is about to change, and how to undo it."""
        self._names.append((directory, undo))

    def synced(self, path: Path) -> None:
        """Forget the writes to a file."""
        fd, _ = self._contents.pop(path, (None, None))
        if fd is not None:
            os.close(fd)

    def synced_names(self, directory: Path) -> None:
        """Forget the changes of names in a directory."""
        self._names = [(where, undo) for where, undo in self._names if where != directory]

    def lose_names(self, lost: Callable[[], bool]) -> None:
        """Undo, last first, each change of a name for which `lost` is true."""
        for _, undo in reversed(self._names):
            if lost():
                with suppress(FileNotFoundError):
                    undo()

    def lose_contents(self, *, zero: bool) -> None:
        """Undo all writes, or put zeros where they went."""
        for fd, undo in self._contents.values():
            written = os.fstat(fd).st_size
            for size, offset, old in reversed(undo):
                os.pwrite(fd, old, offset)
                os.ftruncate(fd, size)
            if zero:
                os.ftruncate(fd, written)  # the system fills a file that grows with zeros

    def close(self) -> None:
        """Let go of all files."""
        for path in list(self._contents):
            self.synced(path)


class _Indexes:
    """Database files that were committed to, and what they held before."""

    def __init__(self) -> None:
        self._before: dict[Path, bytes] = {}

    def committing(self, path: Path) -> None:
        """Keep what a file holds before its first commit."""
        if path not in self._before:
            self._before[path] = path.read_bytes()

    def synced(self, path: Path) -> None:
        """Note that what was committed to a file so far is on the medium."""
        self._before.pop(path, None)

    def undo(self) -> None:
        """Bring all files back to what they held; those that were new disappear."""
        for path, content in self._before.items():
            if content:
                path.write_bytes(content)
            else:
                path.unlink(missing_ok=True)

    def halve(self, *, zero: bool) -> None:
        """Cut all files in half; if `zero`, replace their second halves by zeros."""
        for path in self._before:
            if path.exists():
                size = path.stat().st_size
                os.truncate(path, size // 2)
                os.truncate(path, size if zero else size // 2)


class CrashAt(CountingFileSystem):
    """A file system on which the n-th step that changes the disk, and all later ones, raise `SimulatedCrash`.

    Use it in a ``with`` block, in which commits of SQLite are steps as well, and look at the disk through another file
    system afterwards.

    Parameters
    ----------
    step : int
        The step to stop at, counted from 1, before it is done.
    mode : CrashMode
        What is left of the steps before.
    seed : int
        For ``lose-some``.
    """

    def __init__(self, step: int, mode: CrashMode = "stop", seed: int = 0) -> None:
        super().__init__()
        self.crashed = False
        self._stop = step
        self._mode = mode
        self._random = Random(seed)  # noqa: S311 (repeatable, not secret)
        self._unsynced = _Unsynced()
        self._indexes = _Indexes()
        self._block = ExitStack()

    def __enter__(self) -> Self:
        self._block.enter_context(watched(self._commit_index))
        return self

    def __exit__(self, *_: object) -> None:
        self._block.close()
        self._unsynced.close()
        if self.crashed:
            self._damage_indexes()

    def create(self, path: Path, mode: int = OBJECT_MODE) -> FileHandle:
        """See `FileSystem.create`."""
        with self._lock:
            handle = super().create(path, mode)
            self._unsynced.changing(path.parent, path.unlink)
            return handle

    def write(self, handle: FileHandle, data: Buffer) -> None:
        """See `FileSystem.write`."""
        with self._lock:
            if self._mode == "torn" and len(self.steps) + 1 == self._stop:
                LocalFileSystem.write(self, handle, memoryview(data)[: memoryview(data).nbytes // 2])
            elif not self.crashed:
                self._unsynced.writing(handle, os.fstat(handle.fd).st_size, 0)
            super().write(handle, data)

    def pwrite(self, handle: FileHandle, data: Buffer, offset: int) -> None:
        """See `FileSystem.pwrite`."""
        with self._lock:
            if self._mode == "torn" and len(self.steps) + 1 == self._stop:
                LocalFileSystem.pwrite(self, handle, memoryview(data)[: memoryview(data).nbytes // 2], offset)
            elif not self.crashed:
                self._unsynced.writing(handle, offset, memoryview(data).nbytes)
            super().pwrite(handle, data, offset)

    def fsync(self, handle: FileHandle) -> None:
        """See `FileSystem.fsync`."""
        with self._lock:
            super().fsync(handle)
            self._unsynced.synced(handle.path)
            self._indexes.synced(handle.path)

    def replace(self, source: Path, target: Path) -> None:
        """See `FileSystem.replace`."""
        with self._lock:
            old = target.read_bytes() if target.exists() else None
            super().replace(source, target)
            self._unsynced.changing(target.parent, lambda: _rename_back(source, target, old))

    def link(self, source: Path, target: Path) -> None:
        """See `FileSystem.link`."""
        with self._lock:
            super().link(source, target)
            self._unsynced.changing(target.parent, target.unlink)

    def unlink(self, path: Path) -> None:
        """See `FileSystem.unlink`."""
        with self._lock:
            old = path.read_bytes() if path.exists() else b""
            super().unlink(path)
            self._unsynced.changing(path.parent, lambda: _restore(path, old))

    def mkdir(self, path: Path) -> None:
        """See `FileSystem.mkdir`."""
        with self._lock:
            new = not path.exists()
            super().mkdir(path)
            if new:
                self._unsynced.changing(path.parent, lambda: shutil.rmtree(path))

    def fsync_dir(self, path: Path) -> None:
        """See `FileSystem.fsync_dir`."""
        with self._lock:
            super().fsync_dir(path)
            self._unsynced.synced_names(path)

    def _commit_index(self, path: Path) -> None:
        with self._lock:
            if not self.crashed:
                self._indexes.committing(path)
            self._step(_INDEX, path)

    def _step(self, name: str, path: Path) -> None:
        if self.crashed:
            raise SimulatedCrash
        super()._step(name, path)
        if len(self.steps) == self._stop:
            self.crash()
            raise SimulatedCrash(self.steps[-1])

    def crash(self) -> None:
        """Crash here and now: between two steps, or behind the last one."""
        self.crashed = True
        if self._mode in {"lose", "lose-some"}:
            self._unsynced.lose_contents(zero=False)
            self._unsynced.lose_names(lambda: self._mode == "lose" or self._random.random() < 1 / 2)
        elif self._mode == "zero":
            self._unsynced.lose_contents(zero=True)

    def go_on(self, mode: CrashMode) -> None:
        """Go on after the process died, as another one on the same machine, which crashes later and in another mode."""
        assert self._mode == "stop", "the machine is to live on"
        self.crashed, self._stop, self._mode = False, _NEVER, mode

    def _damage_indexes(self) -> None:
        """Leave of the index what the mode says; not before the transaction at which it crashed was rolled back."""
        if self._mode == "lose" or (self._mode == "lose-some" and self._random.random() < 1 / 2):
            self._indexes.undo()
        elif self._mode == "zero" or (self._mode == "torn" and self.steps and self.steps[-1].startswith(_INDEX)):
            self._indexes.halve(zero=self._mode == "zero")


def restart(directory: Path) -> None:
    """Have all leases of a store be of processes that exist no more: this one, which held them, outlived its crash.

    Parameters
    ----------
    directory : Path
        The ``.mvc`` directory.
    """
    for path in (directory / "leases").glob("*.lease"):
        with suppress(MvcError):
            lease = LeaseRecord.decode(path.read_bytes())
            path.unlink()
            path.write_bytes(replace(lease, process=_NOBODY).encoded)


def _rename_back(source: Path, target: Path, old: bytes | None) -> None:
    """Undo a rename, which is atomic: where there was a file, there is one at every moment."""
    with suppress(FileNotFoundError):
        target.rename(source)
    if old is not None:
        _restore(target, old)


def _restore(path: Path, content: bytes) -> None:
    if not path.exists():
        path.write_bytes(content)


def crash(action: Callable[[FileSystem], None], step: int, mode: CrashMode) -> str | None:
    """Run `action`, crashing at `step`, or right behind it if it has fewer steps.

    Returns
    -------
    str or None
        The step that was crashed at; None if it was behind the last.
    """
    with CrashAt(step, mode, seed=step) as fs:
        with suppress(SimulatedCrash):
            action(fs)
        if fs.crashed:
            return fs.steps[-1]
        fs.crash()
        return None


def crash_everywhere(
    start: Path,
    action: Callable[[Path, FileSystem], None],
    check: Callable[[Path], None],
    finished: Callable[[Path], None],
    mode: CrashMode,
    every: int = 1,
) -> int:
    """Run `action` on copies of the directory `start`, crashing at step 1, 2, ... and at last when it has returned.

    Parameters
    ----------
    start : Path
        What the disk holds before; not changed. Copies are made beside it.
    action : callable
        ``action(root, fs)`` changes the copy `root` through `fs` only.
    check : callable
        ``check(root)`` asserts what must hold after a crash inside of `action`.
    finished : callable
        ``finished(root)`` asserts what must hold after a crash behind it: what it promised is durable.
    mode : CrashMode
        What a crash leaves.
    every : int
        Of so many steps, one is crashed at.

    Returns
    -------
    int
        Steps that there are, or up to ``every - 1`` more.
    """
    step = 1
    while True:
        root = start.with_name(f"{start.name}-{mode}-{step}")
        shutil.copytree(start, root)
        if not crash(partial(action, root), step, mode):
            finished(root)
            return step - 1
        check(root)
        shutil.rmtree(root)
        step += every
