"""The object store keeps its contract, and what the contract leaves open is as documented."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mvc.errors import IntegrityError, InvalidInputError, MalformedError, NotFoundError, ReadOnlyError, StorageError
from mvc.store import operations
from mvc.store.fs import FileHandle, Placer
from mvc.store.layout import Buffer, EntryKind, Location
from mvc.store.local_fs import LocalFileSystem
from mvc.store.object_store import ObjectStore, StoredBytes
from mvc.store.tmp import Temporaries
from mvc.testing.store import ObjectStoreTests
from mvc.types import ObjectId, object_id


class TestObjectStore(ObjectStoreTests):
    """The store on a local disk."""


def oid(number: int) -> ObjectId:
    """Return an id that holds `number`, in its first and last bytes."""
    return object_id(number.to_bytes(1, "big") + number.to_bytes(31, "big"))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty store."""
    store = ObjectStore(tmp_path / "store")
    store.initialize()
    return store


def put_loose(store: ObjectStore, key: ObjectId, data: bytes) -> None:
    """Store a loose blob."""
    with store.begin() as batch:
        with batch.loose(key) as draft:
            draft.write(data)
        batch.commit()


def put_packed(store: ObjectStore, *keys: ObjectId) -> ObjectId:
    """Store a pack of small blobs and return its id."""
    with store.begin() as batch:
        for key in keys:
            batch.put(EntryKind.TENSOR, key, b"packed")
        pack = batch.commit()[keys[0]].pack
    assert pack is not None
    return pack


def test_initialize_may_be_repeated(store: ObjectStore) -> None:
    """A second process that initializes changes nothing."""
    put_loose(store, oid(1), b"loose")
    store.initialize()
    assert sorted(LocalFileSystem().names(store.root)) == ["leases", "objects", "op_head", "ops", "packs", "tmp"]
    assert bytes(store.load(oid(1))) == b"loose"


def test_junk_is_ignored(store: ObjectStore) -> None:
    """Files that are no objects are not listed, whatever their names resemble."""
    put_loose(store, oid(0x11), b"loose")
    operation = store.operations.write(b"operation")
    for place, name in (("objects", f"{oid(2)}.blob"), ("ops", oid(2))):
        for path in (name, f"02/{name[:-6]}", f"02/{name}.tmp", f"03/{name}", "02/README", f"02/{'0' * 6}"):
            target = store.root / place / path
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(b"junk")
    (store.root / "objects" / "02" / ("02" + "g" * 62 + ".blob")).write_bytes(b"junk")
    assert list(store.loose.ids()) == [oid(0x11)]
    assert list(store.operations.ids()) == [operation]
    assert [found.oid for found in store.locations()] == [oid(0x11)]


def test_stored_bytes_are_those_of_the_files(store: ObjectStore) -> None:
    """The totals by place add up to what the directories hold."""
    assert store.stored_bytes().total == 0
    put_loose(store, oid(1), b"loose")
    pack = put_packed(store, oid(2), oid(3))
    store.operations.write(b"operation")
    sizes = {suffix: (store.packs.directory / f"{pack}{suffix}").stat().st_size for suffix in (".pack", ".idx")}
    found = store.stored_bytes()
    assert found == StoredBytes(loose=5, packs=sizes[".pack"], indexes=sizes[".idx"], operations=8 + 9)
    assert found.total == 5 + sizes[".pack"] + sizes[".idx"] + 17


def test_a_batch_counts_its_bytes(store: ObjectStore) -> None:
    """`stored_bytes` is the size of the loose blobs and packs that the batch made."""
    with store.begin() as batch:
        batch.put(EntryKind.TENSOR, oid(1), b"12345")
        batch.put(EntryKind.TENSOR, oid(1), b"12345")
        with batch.loose(oid(2)) as draft:
            draft.write(b"123")
        assert batch.stored_bytes == 3
        batch.commit()
        assert batch.stored_bytes == 3 + (16 + 56 + 5 + 40)
    found = store.stored_bytes()
    assert batch.stored_bytes == found.loose + found.packs


def test_a_full_pack_is_followed_by_another(store: ObjectStore) -> None:
    """Packs end near the limit; all objects are found."""
    with store.begin(pack_limit=1000) as batch:
        for i in range(10):
            assert batch.put(EntryKind.TENSOR, oid(i), bytes([i]) * 400)
            assert not batch.put(EntryKind.TENSOR, oid(0), b"again, though its pack is finished")
        locations = batch.commit()
    assert len(store.pack_ids()) == 4
    assert all(store.read(oid(i), locations[oid(i)]) == bytes([i]) * 400 for i in range(10))
    for pack in store.pack_ids():
        store.packs.verify(pack)


def test_many_threads_fill_one_batch(store: ObjectStore) -> None:
    """Loose and packed objects from many threads all arrive, each id once."""

    def put(i: int) -> None:
        key = oid(i % 100)
        if i % 2:
            with batch.loose(key) as draft:
                draft.write(bytes([i % 100]) * 50)
        else:
            batch.put(EntryKind.TENSOR, key, bytes([i % 100]) * 50)

    with store.begin(pack_limit=2000) as batch:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(300)))
        locations = batch.commit()
    assert len(locations) == 100
    assert all(store.load(oid(i)) == bytes([i]) * 50 for i in range(100))
    assert len(list(store.locations())) == 100


def test_a_loose_blob_that_is_there_stays(store: ObjectStore) -> None:
    """What others may be reading, or building on, is not replaced by the way."""
    put_loose(store, oid(1), b"first encoding")
    put_loose(store, oid(1), b"another")
    assert bytes(store.load(oid(1))) == b"first encoding"


def test_a_loose_blob_may_be_replaced_under_its_readers(store: ObjectStore) -> None:
    """If that is asked for, the new encoding takes the name; who has the old one mapped keeps it."""
    put_loose(store, oid(1), b"first encoding")
    old = store.load(oid(1))
    with store.begin() as batch:
        with batch.loose(oid(1), replace=True) as draft:
            draft.write(b"better")
        batch.commit()
    assert bytes(old) == b"first encoding"
    assert bytes(store.load(oid(1))) == b"better"
    store.loose.delete(oid(1))
    assert store.find(oid(1)) is None


def test_an_error_in_the_block_drops_the_blob_only(store: ObjectStore) -> None:
    """What an encoder raises costs its own blob; the batch goes on."""
    with store.begin() as batch:
        with pytest.raises(InvalidInputError), batch.loose(oid(1)):
            raise InvalidInputError("cannot encode")
        assert oid(1) not in batch
        batch.put(EntryKind.TENSOR, oid(2), b"fine")
        assert set(batch.commit()) == {oid(2)}
    assert store.find(oid(1)) is None


def test_a_batch_is_over_after_commit_abort_or_failure(store: ObjectStore) -> None:
    """Whatever is put later is refused."""
    committed, aborted = store.begin(), store.begin()
    committed.commit()
    aborted.abort()
    for batch in (committed, aborted):
        with pytest.raises(InvalidInputError, match="over"):
            batch.put(EntryKind.TENSOR, oid(1), b"late")
        with pytest.raises(InvalidInputError, match="over"), batch.loose(oid(1)) as draft:
            draft.write(b"late")
        with pytest.raises(InvalidInputError, match="over"):
            batch.commit()
    assert list(store.locations()) == []


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_failed_write_ends_the_batch(store: ObjectStore, step: str) -> None:
    """A batch of which a blob could not be made durable cannot be committed, even if somebody caught the error."""

    class Failing(LocalFileSystem):
        def fsync(self, handle: FileHandle) -> None:
            if step == "fsync":
                raise StorageError("no")
            super().fsync(handle)

        def link(self, source: Path, target: Path) -> None:
            raise StorageError("no")

    with ObjectStore(store.root, Failing()).begin() as batch:
        with batch.loose(oid(1)) as draft:
            draft.write(b"data")
        for _ in range(2):
            with pytest.raises(StorageError, match="no"):
                batch.commit()
        with pytest.raises(StorageError, match="no"):
            batch.put(EntryKind.TENSOR, oid(2), b"late")
    assert list(store.locations()) == []
    assert LocalFileSystem().names(store.root / "tmp") == []


def test_a_failed_put_ends_the_batch(store: ObjectStore) -> None:
    """A pack of which a write failed is never published."""

    class Full(LocalFileSystem):
        def write(self, handle: FileHandle, data: Buffer) -> None:
            raise StorageError("full")

    with ObjectStore(store.root, Full()).begin() as batch:
        with pytest.raises(StorageError):
            batch.put(EntryKind.TENSOR, oid(1), bytes(2 << 20))
        with pytest.raises(InvalidInputError, match="failed"):
            batch.commit()
    assert store.pack_ids() == []
    assert LocalFileSystem().names(store.root / "tmp") == []


def test_relying_on_an_object_keeps_it_young_and_durable(store: ObjectStore) -> None:
    """The file's time is now, and its directories are flushed by the commit."""
    put_loose(store, oid(1), b"loose")
    put_packed(store, oid(2))
    flushed = []

    class Watching(LocalFileSystem):
        def fsync_dir(self, path: Path) -> None:
            flushed.append(path)
            super().fsync_dir(path)

    watched = ObjectStore(store.root, Watching())
    with watched.begin() as batch:
        for key in (oid(1), oid(2)):
            location = store.find(key)
            assert location is not None
            path = store.path(key, location.pack)
            os.utime(path, (0, 0))
            assert store.fs.modified(path) == 0
            assert batch.rely_on(key, location)
            assert (store.fs.modified(path) or 0) > 1e9
        assert batch.commit() == {}
    assert set(flushed) == {store.loose.directory, store.loose.path(oid(1)).parent, store.packs.directory}


def test_what_is_gone_or_untouchable_is_put_again(store: ObjectStore) -> None:
    """`rely_on` returns False where the caller must store its own copy: also if it cannot keep another user's."""

    class Foreign(LocalFileSystem):
        def touch(self, path: Path) -> None:
            raise ReadOnlyError("not yours")

    put_loose(store, oid(1), b"loose")
    location = store.find(oid(1))
    assert location is not None
    assert not ObjectStore(store.root, Foreign()).begin().rely_on(oid(1), location)
    store.loose.delete(oid(1))
    assert not store.begin().rely_on(oid(1), location)


def test_loose_blobs_of_another_size_are_refused(store: ObjectStore) -> None:
    """A location that does not fit the file is an IntegrityError; so is an empty blob."""
    put_loose(store, oid(1), b"loose")
    for location in (Location(None, 0, 4), Location(None, 1, 4), Location(None, 0, 6)):
        with pytest.raises(IntegrityError, match="has 5 bytes"):
            store.read(oid(1), location)
    path = store.loose.path(oid(1))
    path.unlink()
    path.touch()
    with pytest.raises(IntegrityError):
        store.load(oid(1))


def test_an_object_that_moves_while_it_is_read_is_found_again(store: ObjectStore) -> None:
    """A repack between finding and reading goes unnoticed."""
    old = put_packed(store, oid(1), oid(2))
    reader = ObjectStore(store.root)
    assert reader.find(oid(1)) is not None
    put_packed(store, oid(1))
    store.packs.delete(old)
    assert bytes(reader.load(oid(1))) == b"packed"
    with pytest.raises(NotFoundError):
        reader.load(oid(2))


def test_packs_that_vanish_while_they_are_listed_are_left_out(store: ObjectStore) -> None:
    """Listing everything does not fail because a repack removes a pack."""
    put_packed(store, oid(1))
    gone = put_packed(store, oid(2))

    class Slow(LocalFileSystem):
        def names(self, directory: Path) -> list[str]:
            names = super().names(directory)
            if directory.name == "packs" and gone in store.pack_ids():
                store.packs.delete(gone)
            return names

    slow = ObjectStore(store.root, Slow())
    assert [found.oid for found in slow.locations()] == [oid(1)]
    gone = put_packed(store, oid(3))
    assert ObjectStore(store.root, Slow()).find(oid(3)) is None


def test_operations_are_written_once_and_checked(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing again is no error; a missing, short, exchanged or oversized operation is refused."""
    first, second = store.operations.write(b"first"), store.operations.write(b"second")
    assert store.operations.write(b"first") == first
    store.operations.path(first).unlink()
    store.operations.path(first).write_bytes(store.operations.path(second).read_bytes())
    with pytest.raises(IntegrityError, match="have id"):
        store.operations.read(first)
    store.operations.delete(first)
    with pytest.raises(NotFoundError):
        store.operations.read(first)
    assert store.operations.size(first) is None
    monkeypatch.setattr(operations, "MAX_METADATA_BYTES", 5)
    for value in (b"", b"second"):
        with pytest.raises(InvalidInputError):
            store.operations.write(value)
    with pytest.raises(MalformedError, match="at most 13"):
        store.operations.read(second)


def test_a_read_only_disk_is_read(store: ObjectStore) -> None:
    """Nothing is written by reading; writing is a ReadOnlyError."""
    put_loose(store, oid(1), b"loose")
    pack = put_packed(store, oid(2))
    (store.packs.directory / f"{pack}.idx").unlink()

    class ReadOnly(LocalFileSystem):
        def create(self, path: Path, mode: int = 0) -> FileHandle:
            raise ReadOnlyError(os.strerror(errno.EROFS))

    frozen = ObjectStore(store.root, ReadOnly())
    assert [bytes(frozen.load(key)) for key in (oid(1), oid(2))] == [b"loose", b"packed"]
    assert frozen.head.read() is None
    with pytest.raises(ReadOnlyError), frozen.begin() as batch:
        batch.put(EntryKind.TENSOR, oid(3), b"")


def test_a_blob_that_is_replaced_while_it_is_read(store: ObjectStore) -> None:
    """Whoever has opened it reads the old bytes to the end; whoever opens it anew reads the new ones."""
    with store.begin() as batch:
        with batch.loose(oid(1)) as draft:
            draft.write(b"old bytes")
        location = batch.commit()[oid(1)]
    opened = store.open(oid(1), location)
    with store.begin() as batch:
        with batch.loose(oid(1), replace=True) as draft:
            draft.write(b"new bytes")
        batch.commit()
    assert bytes(opened.read(0, 9)) == b"old bytes"
    assert bytes(store.open(oid(1), location).read(4, 5)) == b"bytes"
    assert bytes(store.read(oid(1), location)) == b"new bytes"
    store.loose.delete(oid(1))
    assert bytes(opened.read(0, 3)) == b"old"
    with pytest.raises(MalformedError, match="9 bytes; 5 at 5"):
        opened.read(5, 5)


def test_of_a_large_entry_of_a_pack_only_what_is_wanted_is_read(store: ObjectStore) -> None:
    """Ranges of it are read, also after the pack is gone; a place that it is not at, or beyond its end, is refused."""
    read: list[int] = []

    class Watched(LocalFileSystem):
        def _pread(self, fd: int, length: int, offset: int) -> bytes:
            read.append(length)
            return super()._pread(fd, length, offset)

    large = bytes(range(256)) * 1024
    with store.begin() as batch:
        batch.put(EntryKind.TENSOR, oid(1), large)
        batch.put(EntryKind.TENSOR, oid(2), b"small")
        places = batch.commit()
    watched = ObjectStore(store.root, Watched())
    watched.packs.refresh()
    read.clear()
    opened = watched.open(oid(1), places[oid(1)])
    assert bytes(opened.read(1000, 500)) == large[1000:1500]
    assert sum(read) < 1000
    assert opened.length == len(large)
    for offset, length in ((-1, 2), (len(large), 1), (1, len(large))):
        with pytest.raises(MalformedError, match="has 262,144 bytes"):
            opened.read(offset, length)
    with pytest.raises(IntegrityError, match="not"):
        watched.open(oid(2), places[oid(1)])
    pack = places[oid(1)].pack
    with pytest.raises(MalformedError, match="are missing"):
        watched.open(oid(1), Location(pack, places[oid(1)].offset, 1 << 40))
    assert pack is not None
    store.packs.delete(pack)
    watched.packs.refresh()
    assert bytes(opened.read(0, len(large))) == large
    with pytest.raises(NotFoundError):
        watched.open(oid(1), places[oid(1)])


def test_long_files_are_flushed_while_they_are_written(tmp_path: Path) -> None:
    """Every part once, and nothing behind the last full one: that is left to the fsync."""

    class Watched(LocalFileSystem):
        def start_flush(self, handle: FileHandle, offset: int, length: int) -> None:
            ranges.append((offset, offset + length))
            super().start_flush(handle, offset, length)

    ranges: list[tuple[int, int]] = []
    (tmp_path / "tmp").mkdir()
    part = bytes(20 << 20)
    with Temporaries(tmp_path, Watched()).draft() as draft:
        for _ in range(5):
            draft.write(part)
        assert draft.size == 100 << 20
        draft.publish(tmp_path / "file")
    assert ranges == [(0, 40 << 20), (40 << 20, 80 << 20)]
    assert (tmp_path / "file").stat().st_size == 100 << 20


def test_placed_pieces_are_flushed_once_everything_before_them_is_there(tmp_path: Path) -> None:
    """Whatever the order in which they come."""

    class Watched(LocalFileSystem):
        def start_flush(self, handle: FileHandle, offset: int, length: int) -> None:
            ranges.append((offset, offset + length))
            super().start_flush(handle, offset, length)

    ranges: list[tuple[int, int]] = []
    fs, size = Watched(), 20 << 20
    handle = fs.create(tmp_path / "file")
    placer = Placer(fs, handle)
    placer.put(size, b"b" * size)
    assert ranges == []
    placer.put(0, b"a" * size)
    placer.advance(size)
    assert ranges == []
    placer.advance(size)
    fs.close(handle)
    assert ranges == [(0, 2 * size)]
    assert (tmp_path / "file").read_bytes() == b"a" * size + b"b" * size
