"""Crashes to order, and the contract of object stores as a test suite.

`CrashAt` is a file system that stops at its n-th step and leaves behind what a crash could have left;
`crash_everywhere` runs an action once for every step that it has. `ObjectStoreTests` is subclassed by whoever changes
or replaces the store.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import RLock
from typing import Final, Literal, Self, get_args

import pytest

from mvc.errors import ConflictError, NotFoundError, StorageError
from mvc.objects.ids import LITERAL, digest
from mvc.store.fs import OBJECT_MODE, FileHandle, FileSystem
from mvc.store.layout import Buffer, EntryKind
from mvc.store.local_fs import LocalFileSystem
from mvc.store.metadata import wrap_metadata
from mvc.store.object_store import ObjectStore
from mvc.types import ObjectId

__all__ = [
    "CRASH_MODES",
    "CountingFileSystem",
    "CrashAt",
    "CrashMode",
    "ObjectStoreTests",
    "SimulatedCrash",
    "crash_everywhere",
]

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
"""

CRASH_MODES: Final[tuple[CrashMode, ...]] = get_args(CrashMode)


class SimulatedCrash(BaseException):
    """The machine stopped here. Not an `Exception`: no handler of the code under test may go on after it."""


class CountingFileSystem(LocalFileSystem):
    """The local file system, with a list of the steps that changed the disk."""

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


class CrashAt(CountingFileSystem):
    """A file system on which the n-th step that changes the disk, and all later ones, raise `SimulatedCrash`.

    Use it in a ``with`` block, and look at the disk through another file system afterwards.

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._unsynced.close()

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

    def replace(self, source: Path, target: Path) -> None:
        """See `FileSystem.replace`."""
        with self._lock:
            old = target.read_bytes() if target.exists() else None
            super().replace(source, target)
            if old is not None:
                self._unsynced.changing(target.parent, lambda: _restore(target, old))
            self._unsynced.changing(target.parent, lambda: os.replace(target, source))  # noqa: PTH105

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


def _restore(path: Path, content: bytes) -> None:
    if not path.exists():
        path.write_bytes(content)


def crash_everywhere(
    start: Path,
    action: Callable[[Path, FileSystem], None],
    check: Callable[[Path], None],
    finished: Callable[[Path], None],
    mode: CrashMode,
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

    Returns
    -------
    int
        Steps crashed at.
    """
    step = 0
    while True:
        step += 1
        root = start.with_name(f"{start.name}-{mode}-{step}")
        shutil.copytree(start, root)
        with CrashAt(step, mode, seed=step) as fs:
            with suppress(SimulatedCrash):
                action(root, fs)
            if not fs.crashed:
                fs.crash()
                finished(root)
                return step - 1
        check(root)
        shutil.rmtree(root)


class ObjectStoreTests:
    """What every object store promises. Subclass it, override `open` where the store is another."""

    def open(self, root: Path, fs: FileSystem | None = None) -> ObjectStore:
        """Return a store on the existing directory `root`."""
        return ObjectStore(root, fs)

    @pytest.fixture
    def root(self, tmp_path: Path) -> Iterator[Path]:
        """Make an initialized directory that holds one operation with its objects; no temporary may be left in it."""
        root = tmp_path / "store"
        self.open(root).initialize()
        self.record(root, LocalFileSystem(), 0)
        yield root
        assert not list((root / "tmp").iterdir())

    def record(self, root: Path, fs: FileSystem, number: int) -> None:
        """Store the objects of `contents(number)` and an operation, and make it the head."""
        store = self.open(root, fs)
        loose, packed, manifest = self.contents(number)
        with store.begin() as batch:
            with batch.loose(digest(LITERAL, loose)) as draft:
                draft.write(bytes(8))
                draft.write(loose[8:])
                draft.patch(loose[:8], 0)
            batch.put(EntryKind.LITERAL, digest(LITERAL, packed), [packed[:5], packed[5:]])
            batch.put(EntryKind.MANIFEST, digest(LITERAL, manifest), wrap_metadata(manifest))
            batch.commit()
        store.head.advance(number, store.operations.write(b"operation %d" % number), lambda _, __: False)

    @staticmethod
    def contents(number: int) -> tuple[bytes, bytes, bytes]:
        """Return the loose blob, the packed blob and the metadata object of an operation."""
        return b"loose blob %d" % number, b"packed blob %d" % number, b"manifest %d" % number

    def check(self, root: Path, numbers: tuple[int, ...]) -> None:
        """Assert that the head is one of `numbers`, and that everything up to it can be read."""
        store = self.open(root)
        head = store.head.read()
        assert head is not None
        assert head.number in numbers
        assert store.operations.read(head.oid) == b"operation %d" % head.number
        for number in range(head.number + 1):
            loose, packed, manifest = self.contents(number)
            assert store.load(digest(LITERAL, loose)) == loose
            assert store.load(digest(LITERAL, packed)) == packed
            assert store.load_metadata(digest(LITERAL, manifest)) == manifest
        for pack in store.pack_ids():
            store.packs.verify(pack)

    def test_stored_objects_are_found_by_another_store(self, root: Path) -> None:
        """What a batch committed is read back by a store that was opened later."""
        self.record(root, LocalFileSystem(), 1)
        self.check(root, (1,))

    def test_absent_objects_are_not_found(self, root: Path) -> None:
        """`find` returns None, `load` raises."""
        store, absent = self.open(root), ObjectId("0" * 64)
        assert store.find(absent) is None
        with pytest.raises(NotFoundError, match="not stored"):
            store.load(absent)

    def test_an_open_store_notices_what_others_store(self, root: Path) -> None:
        """A store that has its pack indexes loaded finds objects of packs written since."""
        store = self.open(root)
        oid = digest(LITERAL, self.contents(1)[1])
        assert store.find(oid) is None
        self.record(root, LocalFileSystem(), 1)
        assert store.load(oid) == self.contents(1)[1]

    def test_an_object_is_put_once(self, root: Path) -> None:
        """The second put of an id into a batch is a no-op, packed or loose."""
        store, oid = self.open(root), digest(LITERAL, b"once")
        with store.begin() as batch:
            assert batch.put(EntryKind.LITERAL, oid, b"once")
            assert not batch.put(EntryKind.LITERAL, oid, b"twice")
            with batch.loose(oid) as draft:
                draft.write(b"thrice")
            assert oid in batch
            assert not (batch.commit()[oid]).is_loose
        assert bytes(store.load(oid)) == b"once"

    def test_an_aborted_batch_leaves_nothing(self, root: Path) -> None:
        """Without `commit`, no pack appears and no temporary stays."""
        store, oid = self.open(root), digest(LITERAL, b"never")
        with store.begin() as batch:
            batch.put(EntryKind.LITERAL, oid, b"never")
        assert store.find(oid) is None

    def test_equal_batches_may_be_committed_by_many(self, root: Path) -> None:
        """Threads that store the same objects at the same time all succeed, and the objects are whole."""
        with ThreadPoolExecutor(8) as pool:
            outcomes = [pool.submit(self.record, root, LocalFileSystem(), 1) for _ in range(8)]
        assert sum(outcome.exception() is None for outcome in outcomes) == len(outcomes)  # the same operation, too
        self.check(root, (1,))

    def test_one_of_two_operations_wins(self, root: Path) -> None:
        """A head is moved from n to n+1 once; the other writer gets a ConflictError."""
        self.record(root, LocalFileSystem(), 1)
        store = self.open(root)
        with pytest.raises(ConflictError):
            store.head.advance(1, store.operations.write(b"another operation 1"), lambda _, __: False)
        self.check(root, (1,))

    def test_locations_lists_everything(self, root: Path) -> None:
        """Every object is listed once, at the place where `find` finds it."""
        store = self.open(root)
        listed = {found.oid: found.location for found in store.locations()}
        assert len(listed) == len(self.contents(0))
        assert all(store.find(oid) == location for oid, location in listed.items())

    @pytest.mark.parametrize("mode", CRASH_MODES)
    def test_a_crash_leaves_the_old_head_or_the_new(self, root: Path, mode: CrashMode) -> None:
        """After a crash at any step everything that the head reaches is whole, and the next try succeeds."""

        def check(copy: Path) -> None:
            """Expect the old head or the new one, and the new one after the next try."""
            self.check(copy, (0, 1))
            self.record(copy, LocalFileSystem(), 1)
            self.check(copy, (1,))

        steps = crash_everywhere(
            root, lambda copy, fs: self.record(copy, fs, 1), check, lambda copy: self.check(copy, (1,)), mode
        )
        assert steps > 20, "the scenario has lost most of its steps"

    def test_a_full_disk_changes_nothing(self, root: Path) -> None:
        """Whichever write finds the disk full: a StorageError, the old head, and no temporary."""
        for allowed in range(1 << 10):
            try:
                self.record(root, FullDisk(allowed), 1)
                break
            except StorageError as caught:
                error = caught
            assert (error.transient, "full" in error.message) == (True, True)
            self.check(root, (0,))
            assert not list((root / "tmp").iterdir())
        assert allowed > 2
        self.check(root, (1,))


class FullDisk(LocalFileSystem):
    """A local file system that is full after a number of writes."""

    def __init__(self, writes: int) -> None:
        self._writes = writes

    def _write(self, fd: int, data: memoryview) -> int:
        self._writes -= 1
        if self._writes < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super()._write(fd, data)
