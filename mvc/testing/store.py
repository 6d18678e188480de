"""The contract of object stores as a test suite, to be subclassed by whoever changes or replaces the store."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mvc.errors import ConflictError, NotFoundError, StorageError
from mvc.objects.ids import LITERAL, digest
from mvc.store.fs import FileSystem
from mvc.store.layout import EntryKind
from mvc.store.local_fs import LocalFileSystem
from mvc.store.metadata import wrap_metadata
from mvc.store.object_store import ObjectStore
from mvc.testing.crashes import CRASH_MODES, CrashMode, crash_everywhere
from mvc.testing.faults import FailingFileSystem
from mvc.types import ObjectId

__all__ = ["ObjectStoreTests"]


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
                self.record(root, FailingFileSystem(allowed, errno.ENOSPC), 1)
                break
            except StorageError as caught:
                error = caught
            assert (error.transient, "full" in error.message) == (True, True)
            self.check(root, (0,))
            assert not list((root / "tmp").iterdir())
        assert allowed > 2
        self.check(root, (1,))
