"""Files written once, by other code than ours, are read and written the same for ever."""

from pathlib import Path

import pytest

from mvc.errors import MvcError
from mvc.objects.ids import COMMIT, LITERAL, digest
from mvc.store.layout import EntryKind, Location, PackEntry
from mvc.store.local_fs import LocalFileSystem
from mvc.store.metadata import unwrap_metadata
from mvc.store.object_store import ObjectStore
from mvc.store.op_head import Head
from mvc.store.pack_index import PackIndex, encode_index
from mvc.store.pack_scan import salvage_pack, verify_pack
from mvc.store.packs import PackWriter
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId, object_id

GOLDEN = Path(__file__).parent.parent / "golden" / "store"
PACK = object_id("66f8cdf0a9593c370c6bd1acbd0420796862883088bf2530f8e5da11de8a64fc")
OPERATION = object_id("cb27be1baf85069da15b9167850e564049737addd5df2fe60191b0dbe29f08bd")
COMMIT_VALUE = bytes.fromhex("a1676d657373616765") + b"\x66golden"
ENTRIES = [
    PackEntry(digest(LITERAL, b"golden literal"), EntryKind.LITERAL, 72, 14),
    PackEntry(object_id(bytes(range(32))), EntryKind.TENSOR, 142, 0),
    PackEntry(digest(COMMIT, COMMIT_VALUE), EntryKind.COMMIT, 198, 33),
]


def golden(suffix: str) -> bytes:
    """Return the golden file with this suffix."""
    (path,) = GOLDEN.glob(f"*{suffix}")
    return path.read_bytes()


def golden_store(root: Path) -> ObjectStore:
    """Return a store that holds the golden files."""
    store = ObjectStore(root / "store")
    store.initialize()
    (store.packs.directory / f"{PACK}.pack").write_bytes(golden(".pack"))
    (store.packs.directory / f"{PACK}.idx").write_bytes(golden(".idx"))
    store.operations.path(OPERATION).parent.mkdir()
    store.operations.path(OPERATION).write_bytes(golden(".operation"))
    (store.head.directory / ("0" * 20)).write_bytes((GOLDEN / ("0" * 20)).read_bytes())
    return store


def test_golden_pack_is_read() -> None:
    """The entries are those that the script wrote, and the bodies are theirs."""
    data = memoryview(golden(".pack"))
    assert verify_pack(data, PACK, "golden") == ENTRIES
    bodies = [bytes(data[entry.offset : entry.offset + entry.length]) for entry in ENTRIES]
    assert bodies[:2] == [b"golden literal", b""]
    assert unwrap_metadata(bodies[2]) == COMMIT_VALUE


def test_golden_pack_is_written(tmp_path: Path) -> None:
    """The same entries give the same pack and index, byte for byte."""
    (tmp_path / "tmp").mkdir()
    temporaries = Temporaries(tmp_path, LocalFileSystem())
    data = golden(".pack")
    with temporaries.draft() as draft:
        writer = PackWriter(draft)
        for entry in ENTRIES:
            writer.add(entry.kind, entry.oid, data[entry.offset : entry.offset + entry.length])
        assert writer.publish(tmp_path, temporaries) == PACK
    assert (tmp_path / f"{PACK}.pack").read_bytes() == data
    assert (tmp_path / f"{PACK}.idx").read_bytes() == golden(".idx")


def test_golden_index_is_read() -> None:
    """All entries are listed by id and found one by one."""
    index = PackIndex(golden(".idx"), PACK)
    assert len(index) == len(ENTRIES)
    assert list(index) == sorted(ENTRIES)
    assert [index.find(entry.oid) for entry in ENTRIES] == ENTRIES
    assert encode_index(PACK, ENTRIES) == golden(".idx")


def test_golden_store_is_read(tmp_path: Path) -> None:
    """Pack, index, operation and head work together."""
    store = golden_store(tmp_path)
    assert store.head.read() == Head(0, OPERATION)
    assert store.operations.read(OPERATION) == b"\xa1\x66number\x00"
    assert store.load_metadata(ENTRIES[2].oid) == COMMIT_VALUE


def test_golden_operation_and_head_are_written(tmp_path: Path) -> None:
    """The same operation gives the same files."""
    store = ObjectStore(tmp_path / "store")
    store.initialize()
    assert store.operations.write(b"\xa1\x66number\x00") == OPERATION
    store.head.advance(0, OPERATION, lambda _, __: False)
    assert store.operations.path(OPERATION).read_bytes() == golden(".operation")
    assert (store.head.directory / ("0" * 20)).read_bytes() == (GOLDEN / ("0" * 20)).read_bytes()


def flips(data: bytes) -> list[bytes]:
    """Return `data` with each of its bits flipped in turn."""
    whole = int.from_bytes(data, "big")
    return [(whole ^ (1 << bit)).to_bytes(len(data), "big") for bit in range(8 * len(data))]


def cuts(data: bytes) -> list[bytes]:
    """Return all shorter beginnings of `data`, and `data` with a byte too many."""
    return [data[:end] for end in range(len(data))] + [data + b"\0"]


DAMAGED_PACKS = flips(golden(".pack")) + cuts(golden(".pack"))


def test_every_damage_of_a_pack_is_detected() -> None:
    """Whichever bit flips, wherever the file ends: `verify_pack` raises an error of ours."""
    for data in DAMAGED_PACKS:
        with pytest.raises(MvcError):
            verify_pack(memoryview(data), PACK, "damaged")


def test_salvage_finds_what_the_damage_spared() -> None:
    """One flipped bit costs at most one entry; a truncation costs the entries behind it."""
    for data in flips(golden(".pack")):
        found = salvage_pack(memoryview(data), "damaged").entries
        assert set(found) <= set(ENTRIES)
        assert len(found) >= len(ENTRIES) - 1
    for data in cuts(golden(".pack"))[:-1]:
        whole = [entry for entry in ENTRIES if entry.offset + entry.length < len(data) - 40]
        found = salvage_pack(memoryview(data), "cut").entries
        assert set(whole) <= set(found) <= set(ENTRIES)


def test_every_damage_of_a_header_is_detected_by_a_read(tmp_path: Path) -> None:
    """A read through an undamaged index never returns the bytes of another object, and never a damaged commit."""
    store = golden_store(tmp_path)
    path = store.packs.directory / f"{PACK}.pack"
    for data in flips(golden(".pack")):
        path.write_bytes(data)
        for entry in ENTRIES:
            try:
                body = store.packs.read(entry.oid, Location(PACK, entry.offset, entry.length))
                value = unwrap_metadata(body) if entry.kind.is_metadata else bytes(body)
            except MvcError:
                continue
            assert value != COMMIT_VALUE[::-1]
            if entry.kind.is_metadata:
                assert value == COMMIT_VALUE
            else:  # a flip in a blob is for the blob's own checksums to find
                assert len(value) == entry.length


def test_every_damage_of_an_index_is_detected_and_made_good(tmp_path: Path) -> None:
    """An index with a flipped bit or a missing end is refused; the store reads the pack instead."""
    for data in flips(golden(".idx")) + cuts(golden(".idx")):
        with pytest.raises(MvcError):
            PackIndex(data, PACK)
    store = golden_store(tmp_path)
    (store.packs.directory / f"{PACK}.idx").write_bytes(golden(".idx")[:-1])
    assert store.load_metadata(ENTRIES[2].oid) == COMMIT_VALUE
    assert store.packs.damages(PACK) == ()


def test_every_damage_of_an_operation_is_detected(tmp_path: Path) -> None:
    """No other bytes are ever returned for an operation."""
    store = golden_store(tmp_path)
    for data in flips(golden(".operation")) + cuts(golden(".operation")):
        store.operations.path(OPERATION).write_bytes(data)
        with pytest.raises(MvcError):
            store.operations.read(OPERATION)


def test_damage_of_the_head_is_detected_or_names_no_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head file with a flipped bit either is refused or names an operation that is not there."""
    monkeypatch.setattr("mvc.store.op_head._PAUSE", 0)
    store = golden_store(tmp_path)
    path = store.head.directory / ("0" * 20)
    content = path.read_bytes()
    for data in flips(content) + cuts(content):
        path.write_bytes(data)
        with pytest.raises(MvcError):
            store.operations.read(ObjectId("") if (head := store.head.read()) is None else head.oid)
