"""Packs and their indexes, beyond the golden files."""

import struct
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from mvc.errors import FormatError, IntegrityError, InvalidInputError, MalformedError, NotFoundError
from mvc.store import packs as packs_module
from mvc.store.layout import EntryKind, Location, PackEntry
from mvc.store.local_fs import LocalFileSystem
from mvc.store.metadata import unwrap_metadata, wrap_metadata
from mvc.store.object_store import ObjectStore
from mvc.store.pack_index import PackIndex, encode_index
from mvc.store.pack_scan import salvage_pack, scan_pack, verify_pack
from mvc.store.packs import PackWriter, index_path, pack_path
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId, object_id

Contents = dict[ObjectId, tuple[EntryKind, bytes]]

IDS = st.binary(min_size=32, max_size=32).map(object_id)
BLOBS = st.tuples(st.sampled_from([EntryKind.LITERAL, EntryKind.TENSOR]), st.binary(max_size=300))
METADATA = st.tuples(
    st.sampled_from([EntryKind.MANIFEST, EntryKind.COMMIT, EntryKind.TAG]),
    st.binary(min_size=1, max_size=300).map(wrap_metadata),
)
CONTENTS = st.dictionaries(IDS, BLOBS | METADATA, min_size=1, max_size=20)


def oid(number: int) -> ObjectId:
    """Return an id that holds `number`."""
    return object_id(number.to_bytes(32, "big"))


def write_pack(root: Path, contents: Contents) -> ObjectId:
    """Write a pack of `contents` and return its id."""
    (root / "tmp").mkdir(exist_ok=True)
    temporaries = Temporaries(root, LocalFileSystem())
    with temporaries.draft() as draft:
        writer = PackWriter(draft)
        for key, (kind, body) in contents.items():
            assert writer.add(kind, key, body)
        return writer.publish(root, temporaries)


def packed(root: Path, contents: Contents) -> bytearray:
    """Return the bytes of a pack of `contents`."""
    return bytearray(pack_path(root, write_pack(root, contents)).read_bytes())


@pytest.fixture
def three() -> Contents:
    """Three entries, of 10, 20 and 30 bytes."""
    return {oid(i): (EntryKind.TENSOR, bytes([i]) * 10 * i) for i in (1, 2, 3)}


@given(contents=CONTENTS)
def test_packs_round_trip(tmp_path_factory: pytest.TempPathFactory, contents: Contents) -> None:
    """What was added is found by scanning and through the index, and verifies."""
    root = tmp_path_factory.mktemp("packs")
    pack = write_pack(root, contents)
    data = memoryview(pack_path(root, pack).read_bytes())
    entries = verify_pack(data, pack, "pack")
    assert {e.oid: (e.kind, bytes(data[e.offset : e.offset + e.length])) for e in entries} == contents
    index = PackIndex(index_path(root, pack).read_bytes(), pack)
    assert list(index) == sorted(entries)
    assert [index.find(e.oid) for e in entries] == entries
    assert salvage_pack(data, "pack").entries == tuple(entries)
    assert salvage_pack(data, "pack").damages == ()


@given(contents=CONTENTS, absent=IDS)
def test_index_does_not_find_what_is_not_there(contents: Contents, absent: ObjectId) -> None:
    """An id that was not added is not found, whatever its neighbours are."""
    entries = [PackEntry(key, kind, 72, len(body)) for key, (kind, body) in contents.items()]
    index = PackIndex(encode_index(oid(1), entries), oid(1))
    assert (index.find(absent) is not None) == (absent in contents)


@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    """Bytes that are no pack, index or metadata raise our errors and nothing else."""
    with pytest.raises((IntegrityError, FormatError)):
        verify_pack(memoryview(data), oid(1), "pack")
    with pytest.raises((IntegrityError, FormatError)):
        PackIndex(data, oid(1))
    with pytest.raises(IntegrityError):
        unwrap_metadata(data)
    with pytest.raises(IntegrityError):
        unwrap_metadata(struct.pack("<Q", xxh3_64_intdigest(data)) + data)
    assert salvage_pack(memoryview(data), "pack").entries == ()


def test_large_and_many_bodies_are_written_whole(tmp_path: Path) -> None:
    """Bodies around the size of the write buffer, alone and summed up, arrive in order."""
    flush = packs_module._FLUSH
    sizes = [flush - 1, flush, flush + 1, 3 * flush, *([flush // 10] * 25), 0]
    contents = {oid(i): (EntryKind.TENSOR, bytes([i]) * size) for i, size in enumerate(sizes)}
    pack = write_pack(tmp_path, contents)
    data = memoryview(pack_path(tmp_path, pack).read_bytes())
    found = {entry.oid: bytes(data[entry.offset :][: entry.length]) for entry in verify_pack(data, pack, "pack")}
    assert found == {key: body for key, (_, body) in contents.items()}


def test_body_in_pieces_equals_body_in_one(tmp_path: Path) -> None:
    """The pieces of a body, of whatever buffer type and item size, are joined."""
    temporaries = Temporaries(tmp_path, LocalFileSystem())
    whole = write_pack(tmp_path, {oid(1): (EntryKind.TENSOR, b"abcdefgh")})
    with temporaries.draft() as draft:
        writer = PackWriter(draft)
        writer.add(EntryKind.TENSOR, oid(1), [b"ab", bytearray(b"cd"), memoryview(b"efgh").cast("I"), b""])
        assert writer.publish(tmp_path, temporaries) == whole


def test_a_pack_takes_an_id_once_and_is_never_empty(tmp_path: Path) -> None:
    """The second entry of an id is not written; a pack without entries is refused."""
    (tmp_path / "tmp").mkdir()
    temporaries = Temporaries(tmp_path, LocalFileSystem())
    with temporaries.draft() as draft:
        writer = PackWriter(draft)
        with pytest.raises(InvalidInputError, match="without entries"):
            writer.publish(tmp_path, temporaries)
        assert writer.add(EntryKind.TENSOR, oid(1), b"one")
        size = writer.size
        assert not writer.add(EntryKind.TENSOR, oid(1), b"two")
        assert writer.size == size


def test_torn_pack_yields_its_whole_entries(tmp_path: Path, three: Contents) -> None:
    """A scan of a pack that ends too early yields what is whole, then says where the rest should be."""
    data = packed(tmp_path, three)
    entries = list(scan_pack(memoryview(data), "pack"))
    for end in range(16, len(data)):
        scan = scan_pack(memoryview(data[:end]), "torn")
        found: list[PackEntry] = []
        with pytest.raises(MalformedError, match="torn"):
            found.extend(scan)
        assert found == [entry for entry in entries if entry.offset + entry.length <= end][: len(found)]
        assert len(found) >= sum(entry.offset + entry.length < end - 40 for entry in entries)


def test_scan_names_the_damaged_byte(tmp_path: Path, three: Contents) -> None:
    """The error holds the offset of the entry and both checksums."""
    data = packed(tmp_path, three)
    data[16 + 56 + 10 + 20] ^= 1
    with pytest.raises(
        IntegrityError, match=r"entry at byte 82: the stored checksum is [0-9a-f]{16}, but the bytes give"
    ):
        list(scan_pack(memoryview(data), "pack"))


def test_salvage_goes_on_behind_the_damage(tmp_path: Path, three: Contents) -> None:
    """A damaged header costs its own entry only, and the lost range is reported."""
    data = packed(tmp_path, three)
    data[82] ^= 1  # the magic of the second entry
    found = salvage_pack(memoryview(data), "pack")
    assert [entry.oid for entry in found.entries] == [oid(1), oid(3)]
    ((offset, length),) = [(damage.offset, damage.length) for damage in found.damages]
    assert (offset, length) == (82, 56 + 20)


def test_salvage_of_a_stray_magic(tmp_path: Path, three: Contents) -> None:
    """Bytes that look like the beginning of an entry, and are none, are passed over."""
    contents = three | {oid(2): (EntryKind.TENSOR, b"OBJ1" * 20)}
    data = packed(tmp_path, contents)
    data[82] ^= 1
    assert [entry.oid for entry in salvage_pack(memoryview(data), "pack").entries] == [oid(1), oid(3)]


def entry_bytes(key: ObjectId, body: bytes, kind: int = 1, reserved: bytes = bytes(3)) -> bytes:
    """Return an entry as the specification says, with freely chosen fields."""
    prefix = b"OBJ1" + bytes([kind]) + reserved + struct.pack("<Q", len(body)) + bytes.fromhex(key)
    return prefix + struct.pack("<Q", xxh3_64_intdigest(prefix)) + body


def hostile(
    *entries: bytes, header: bytes = b"\x89MVCP\r\n\x1a\1\0" + bytes(6), count: int | None = None
) -> memoryview:
    """Return a pack of arbitrary parts, with a trailer."""
    number = len(entries) if count is None else count
    return memoryview(header + b"".join(entries) + struct.pack("<Q", number) + bytes(32))


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (memoryview(b"\x89MVCP"), MalformedError, "the header of a pack has 16"),
        (hostile(header=b"\x89MVCP\n\x1a\0\1\0" + bytes(6)), MalformedError, "begins with"),
        (hostile(header=b"\x89MVCP\r\n\x1a\2\0" + bytes(6)), FormatError, "version 2 is unknown"),
        (hostile(header=b"\x89MVCP\r\n\x1a\1\0" + b"\0\0\0\0\0\1"), MalformedError, "reserved"),
        (hostile(entry_bytes(oid(1), b"", kind=5)), MalformedError, "kind 5"),
        (hostile(entry_bytes(oid(1), b"", reserved=b"\0\1\0")), MalformedError, "reserved bytes 000100"),
        (hostile(), MalformedError, "no entries"),
        (hostile(entry_bytes(oid(1), b""), count=2), MalformedError, "promises 2"),
        (hostile(entry_bytes(oid(1), b""), entry_bytes(oid(1), b"")), MalformedError, "two of one id"),
        (hostile(entry_bytes(oid(1), b"")), IntegrityError, "have id"),
        (hostile(entry_bytes(oid(1), bytes(100))[:-90]), MalformedError, "the last 50 of 100 bytes are missing"),
    ],
)
def test_hostile_packs_are_refused(data: memoryview, error: type[Exception], reason: str) -> None:
    """Each rule of the format has its own refusal."""
    with pytest.raises(error, match=reason):
        verify_pack(data, oid(1), "pack")


def test_entries_are_counted(tmp_path: Path, three: Contents) -> None:
    """One more than a pack may have is not read, and a writer knows when to begin another pack."""
    data = memoryview(packed(tmp_path, three))
    assert len(list(scan_pack(data, "pack", most=len(three)))) == len(three)
    found: list[ObjectId] = []
    with pytest.raises(MalformedError, match="more than 2 entries"):
        found.extend(entry.oid for entry in scan_pack(data, "pack", most=2))
    assert len(found) <= 2
    with Temporaries(tmp_path, LocalFileSystem()).draft() as draft:
        writer = PackWriter(draft)
        for oid_, (kind, body) in three.items():
            assert not writer.is_full(1 << 30, len(three))
            writer.add(kind, oid_, body)
        assert writer.is_full(1 << 30, len(three))
        assert writer.is_full(writer.size)
        assert not writer.is_full(writer.size + 1)


@pytest.mark.parametrize("length", [0, 8])
def test_metadata_without_a_frame_is_refused(tmp_path: Path, length: int) -> None:
    """Nothing is noted of entries that are a header and no more."""
    pack = write_pack(tmp_path, {oid(1): (EntryKind.COMMIT, bytes(length))})
    with pytest.raises(MalformedError, match=f"{length} bytes hold no checksum and frame"):
        verify_pack(memoryview(pack_path(tmp_path, pack).read_bytes()), pack, "pack")


def test_a_pack_under_another_name_is_refused(tmp_path: Path, three: Contents) -> None:
    """A whole pack is not the pack that its name promises."""
    with pytest.raises(IntegrityError, match="the name 0000"):
        verify_pack(memoryview(packed(tmp_path, three)), oid(1), "pack")


def test_verify_looks_into_metadata(tmp_path: Path) -> None:
    """A pack with the right id whose commit does not have its checksum is refused."""
    pack = write_pack(tmp_path, {oid(1): (EntryKind.COMMIT, bytes(20))})
    with pytest.raises(IntegrityError, match="object 000000000000"):
        verify_pack(memoryview(pack_path(tmp_path, pack).read_bytes()), pack, "pack")


def index_bytes(*records: bytes, count: int | None = None) -> bytes:
    """Return an index of pack 1 of arbitrary records, with the right checksum."""
    number = len(records) if count is None else count
    head = b"\x89MVCI\r\n\x1a\1\0" + bytes(6) + bytes.fromhex(oid(1)) + struct.pack("<Q", number)
    content = head + b"".join(records)
    return content + struct.pack("<Q", xxh3_64_intdigest(content))


def record(key: ObjectId, kind: int = 0, reserved: bytes = bytes(7)) -> bytes:
    """Return a record of an index."""
    return bytes.fromhex(key) + struct.pack("<QQB", 72, 1, kind) + reserved


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (index_bytes(record(oid(2)), record(oid(1))), "out of order"),
        (index_bytes(record(oid(1)), record(oid(1))), "out of order"),
        (index_bytes(record(oid(1), kind=9)), "kind 9"),
        (index_bytes(record(oid(1), reserved=b"\1" + bytes(6))), "01000000000000"),
        (index_bytes(record(oid(1)), count=1 << 60), "do not fit"),
        (encode_index(oid(2), []), "index of pack 000000000000"),
    ],
)
def test_hostile_indexes_are_refused(data: bytes, reason: str) -> None:
    """An index with the right checksum is still checked by whoever lists it."""
    with pytest.raises(MalformedError, match=reason):
        list(PackIndex(data, oid(1)))


def framed(frame: bytes) -> bytes:
    """Return a metadata body of an arbitrary frame, with the right checksum."""
    return struct.pack("<Q", xxh3_64_intdigest(frame)) + frame


def frame_header(size: int, window_log: int | None = None) -> bytes:
    """Return a zstd frame that promises `size` bytes and ends there; with a window, or single-segment."""
    if window_log is None:
        return bytes.fromhex("28b52ffd") + b"\xe0" + struct.pack("<Q", size)
    return bytes.fromhex("28b52ffd") + b"\xc0" + bytes([(window_log - 10) << 3]) + struct.pack("<Q", size)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"1234567", "cannot hold"),
        (framed(b""), "not a zstd frame"),
        (framed(b"\x50\x2a\x4d\x18\0\0\0\0"), "not a zstd frame"),
        (framed(bytes.fromhex("28b52ffd")), "object"),
        (framed(zstandard.ZstdCompressor(write_content_size=False).compress(b"abc")), "promises"),
        (framed(zstandard.compress(b"")), "promises 0 bytes"),
        (framed(frame_header((256 << 20) + 1)), r"promises 268,435,457 bytes"),
        (framed(frame_header(1 << 62)), "promises"),
        (framed(frame_header(1 << 20, window_log=28)), "window of 268,435,456"),
        (framed(frame_header(1 << 20)), "object"),
        (framed(zstandard.compress(b"abc") + b"\0"), "object"),
        (framed(zstandard.compress(b"abc") * 2), "object"),
        (framed(zstandard.compress(b"abc")[:-1]), "object"),
        (framed(bytes.fromhex("28b52ffd 21 07 03") + bytes(4)), "dictionary 7"),
    ],
)
def test_hostile_metadata_is_refused(body: bytes, reason: str) -> None:
    """Every promise of a frame is checked before memory is asked for."""
    with pytest.raises(MalformedError, match=reason):
        unwrap_metadata(body, "object")


def test_metadata_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing and too much are refused by the writer."""
    monkeypatch.setattr("mvc.store.metadata.MAX_METADATA_BYTES", 10)
    assert unwrap_metadata(wrap_metadata(bytes(10))) == bytes(10)
    for value in (b"", bytes(11)):
        with pytest.raises(InvalidInputError):
            wrap_metadata(value)


@pytest.fixture
def store(tmp_path: Path, three: Contents) -> ObjectStore:
    """A store with a pack of three entries and junk beside it."""
    store = ObjectStore(tmp_path / "store")
    store.initialize()
    with store.begin() as batch:
        for key, (kind, body) in three.items():
            batch.put(kind, key, body)
        batch.commit()
    for junk in ("x.pack", "README", f"{oid(9)}.idx", f"{oid(9)}.pack.tmp"):
        (store.packs.directory / junk).write_bytes(b"junk")
    return store


def test_missing_index_is_made_good_and_rebuilt(store: ObjectStore) -> None:
    """Without its index a pack is scanned; `rebuild_index` writes the same bytes again."""
    (pack,) = store.pack_ids()
    path = index_path(store.packs.directory, pack)
    content = path.read_bytes()
    path.unlink()
    assert store.load(oid(2)) == bytes([2]) * 20
    assert store.packs.verify(pack)
    store.packs.rebuild_index(pack)
    assert path.read_bytes() == content


def test_damages_of_an_unindexed_pack_are_reported(store: ObjectStore) -> None:
    """What a scan had to leave out is said; the rest stays readable."""
    (pack,) = store.pack_ids()
    index_path(store.packs.directory, pack).unlink()
    path = pack_path(store.packs.directory, pack)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(82)
        file.write(b"x")
    fresh = ObjectStore(store.root)
    assert fresh.find(oid(2)) is None
    assert fresh.load(oid(3)) == bytes([3]) * 30
    assert [damage.offset for damage in fresh.packs.damages(pack)] == [82]


def test_wrong_locations_are_refused(store: ObjectStore) -> None:
    """A location of another object, another length or beyond the end never gives bytes."""
    location = store.find(oid(1))
    other = store.find(oid(2))
    assert location is not None
    assert other is not None
    for wrong in (other, Location(location.pack, location.offset, 9), Location(location.pack, location.offset + 1, 10)):
        with pytest.raises(IntegrityError):
            store.read(oid(1), wrong)
    for offset, length in ((1 << 61, 10), (72, 1 << 61), (10, 10)):
        with pytest.raises(MalformedError, match="were asked for"):
            store.read(oid(1), Location(location.pack, offset, length))


def test_index_that_lists_something_else_fails_verification(store: ObjectStore) -> None:
    """An index of the right pack with the right checksum must also agree with the pack."""
    (pack,) = store.pack_ids()
    path = index_path(store.packs.directory, pack)
    path.unlink()
    path.write_bytes(encode_index(pack, [PackEntry(oid(1), EntryKind.TENSOR, 72, 11)]))
    with pytest.raises(IntegrityError, match="does not list"):
        store.packs.verify(pack)


def test_deleted_packs_are_forgotten(store: ObjectStore) -> None:
    """After `delete` nothing is found here, and another open store gets NotFoundError instead of old bytes."""
    other = ObjectStore(store.root)
    location = other.find(oid(1))
    assert location is not None
    (pack,) = store.pack_ids()
    store.packs.delete(pack)
    assert store.find(oid(1)) is None
    assert store.pack_ids() == []
    with pytest.raises(NotFoundError):
        other.read(oid(1), location)
    with pytest.raises(NotFoundError):
        other.load(oid(1))
    with pytest.raises(NotFoundError):
        store.packs.delete(pack)
