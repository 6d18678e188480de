"""Zip archives, good and bad: every offset is compared before it is believed."""

import io
import struct
import warnings
import zipfile

import pytest

from mvc.errors import DamagedFileError
from mvc.formats import zip_directory
from mvc.formats.zip_directory import read_directory

MEMBERS = {"a/one": b"first", "a/two": b"", "a/three": b"x" * 300}


def archive(members=MEMBERS, comment=b"", compression=zipfile.ZIP_STORED, zip64=False):
    """Return an archive as Python writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        target.comment = comment
        for name, data in members.items():
            with target.open(name, "w", force_zip64=zip64) as member:
                member.write(data)
    return file.getvalue()


def contents(data):
    """Return the stored members and their bytes."""
    entries = read_directory(memoryview(data)) or {}
    return {name.decode(): data[item.offset : item.offset + item.size] for name, item in entries.items() if item.stored}


def patched(data, at, fmt, *values):
    """Return the archive with a few bytes replaced."""
    out = bytearray(data)
    struct.pack_into(fmt, out, at, *values)
    return bytes(out)


@pytest.mark.parametrize("comment", [b"", b"comment", b"PK\x05\x06"[:3] * 20])
def test_members(comment):
    """Every stored member is found, whatever the comment."""
    assert contents(archive(comment=comment)) == MEMBERS


def test_local_headers_of_64_bits():
    """Sizes in the local header may stand in its extra field."""
    assert contents(archive(zip64=True)) == MEMBERS


def test_compressed_and_encrypted_members_are_not_stored():
    """They are found, but are not their own bytes."""
    entries = read_directory(memoryview(archive(compression=zipfile.ZIP_DEFLATED))) or {}
    assert [entry.stored for entry in entries.values()] == [False] * 3
    data = archive({"a": b"secret"})
    central = data.index(b"PK\x01\x02")
    assert contents(patched(data, central + 8, "<H", 1)) == {}


def with_end64(data, *, size=None, offset=None):
    """Return an archive whose directory is described in 64 bits, its first member too."""
    central, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    count = struct.unpack_from("<H", data, end + 10)[0]
    directory = bytearray(data[central:end])
    name_bytes = struct.unpack_from("<H", directory, 28)[0]
    sizes = struct.unpack_from("<2I", directory, 20)
    extra = struct.pack("<2H", 0xCAFE, 2) + b"zz" + struct.pack("<2H3Q", 1, 24, sizes[1], sizes[0], 0)
    struct.pack_into("<2I", directory, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", directory, 30, len(extra))
    struct.pack_into("<I", directory, 42, 0xFFFFFFFF)
    directory[46 + name_bytes : 46 + name_bytes] = extra
    place = central + len(directory)
    here = (len(directory) if size is None else size, central if offset is None else offset)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, *here)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1)
    last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:central] + bytes(directory) + end64 + locator + last


def test_directories_of_64_bits():
    """Archives of more than 4 GiB have them; PyTorch always writes them."""
    assert contents(with_end64(archive())) == MEMBERS
    assert read_directory(memoryview(with_end64(archive(), offset=5))) is None


BASE = archive()
CENTRAL = BASE.index(b"PK\x01\x02")
SECOND = BASE.index(b"PK\x01\x02", CENTRAL + 4)
END = BASE.rindex(b"PK\x05\x06")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"PK\x03\x04", "cut off", id="only magic"),
        pytest.param(BASE[:-1], "cut off", id="short end record"),
        pytest.param(BASE[:CENTRAL], "cut off", id="no directory"),
        pytest.param(BASE[:4] + BASE[40:], "should lie at", id="bytes lost"),
        pytest.param(patched(BASE, END + 8, "<2H", 99, 99), "99 members do not fit", id="too many members"),
        pytest.param(patched(BASE, END + 8, "<2H", 2, 2), "longer than its entries", id="too few members"),
        pytest.param(patched(BASE, END + 8, "<2H", 0, 0), "longer than its entries", id="no members"),
        pytest.param(patched(BASE, CENTRAL, "<I", 0), "garbled", id="bad entry"),
        pytest.param(patched(BASE, SECOND + 30, "<H", 60_000), "garbled", id="entry too long"),
        pytest.param(patched(BASE, SECOND + 32, "<H", 50), "ends within an entry", id="entry eats the next"),
        pytest.param(patched(BASE, CENTRAL + 42, "<I", 3), "lies inside another|not where", id="offset moved"),
        pytest.param(patched(BASE, CENTRAL + 42, "<I", END), "outside of the archive", id="offset outside"),
        pytest.param(patched(BASE, SECOND + 42, "<I", 0), "lies inside another", id="two members in one place"),
        pytest.param(patched(BASE, CENTRAL + 42, "<I", 0xFFFFFFFF), "is missing", id="no 64-bit offset"),
        pytest.param(patched(BASE, CENTRAL + 20, "<2I", 6, 6), "different sizes", id="sizes differ"),
        pytest.param(patched(BASE, CENTRAL + 20, "<I", 4), "different sizes|two lengths", id="packed size differs"),
        pytest.param(patched(BASE, CENTRAL + 10, "<H", 8), "not where the directory says", id="method differs"),
        pytest.param(patched(BASE, 30, "<B", 66), "not where the directory says", id="name differs"),
        pytest.param(patched(BASE, 0, "<B", 66), "not where the directory says", id="no local header"),
        pytest.param(patched(BASE, 28, "<H", 60_000), "behind the start of the directory", id="long extra field"),
        pytest.param(patched(BASE, 18, "<2I", 0, 0), "different sizes", id="no sizes"),
        pytest.param(with_end64(archive(), size=10_000), "should lie at", id="64-bit size"),
    ],
)
def test_contradictions_are_damage(data, message):
    """They are refused with a hint."""
    with pytest.raises(DamagedFileError, match=message) as caught:
        read_directory(memoryview(data))
    assert caught.value.hint


def test_sizes_behind_the_data():
    """PyTorch writes zeros into the local header, sets bit 3, and appends the sizes."""
    data = archive({"a": b"12345"})
    data = patched(patched(data, 6, "<H", 8), 14, "<3I", 0, 0, 0)
    assert contents(data) == {"a": b"12345"}


def test_two_lengths_of_a_stored_member():
    """Local header and directory agree with each other, but not the two lengths."""
    data = archive({"a": b"12345"})
    data = patched(patched(data, 22, "<I", 6), data.index(b"PK\x01\x02") + 24, "<I", 6)
    with pytest.raises(DamagedFileError, match="two lengths, 5 and 6"):
        read_directory(memoryview(data))


def test_unusual_archives(monkeypatch):
    """Several volumes, something in front, equal names, very many members: nothing is taken apart."""
    assert read_directory(memoryview(patched(BASE, END + 4, "<H", 1))) is None
    assert read_directory(memoryview(b"something" + BASE)) is None
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as target:
        warnings.simplefilter("ignore")
        target.writestr("a", b"1")
        target.writestr("a", b"2")
    assert read_directory(memoryview(file.getvalue())) is None
    monkeypatch.setattr(zip_directory, "_MAX_ENTRIES", 2)
    assert read_directory(memoryview(BASE)) is None


def test_trailing_bytes_are_allowed():
    """They belong to nobody, so they stay literal."""
    assert contents(BASE + b"trailing") == MEMBERS
