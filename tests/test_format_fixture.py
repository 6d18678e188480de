"""A repository that the first release of the format wrote is read, checked, continued and collected by every later one.

The second half reads it without mvc, by what ``docs/reference/spec-v1.md`` says, so that the page is what is true.
"""

import hashlib
import json
import os
import struct
import tarfile
from pathlib import Path

import pytest
from blake3 import blake3
from click.testing import CliRunner
from xxhash import xxh3_64_intdigest
from zstandard import ZstdDecompressor

from mvc.cli.failures import exit_code
from mvc.cli.main import cli
from mvc.errors import FormatError
from mvc.repo.checkout import export_commit
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.fsck import fsck
from mvc.repo.gc import gc
from mvc.repo.layout import Layout
from mvc.repo.log import history
from mvc.repo.reindex import reindex
from mvc.repo.repack import repack
from mvc.repo.session import Session
from mvc.repo.tips import commits_of_refs
from mvc.repo.tree import from_directory
from mvc.settings import Gc

FIXTURE = Path(__file__).parent / "golden" / "repositories" / "v1"
EXPECTED = json.loads((FIXTURE / "expected.json").read_text(encoding="utf-8"))
DIGEST = "63bf890c80e100a582d5e7e6a650825d2e1cd8f3f8f13beb7c045f3e0e48f72a"
ACTOR = Actor("Grace", "test")
NOTHING_KEPT = Gc(grace_hours=0.0, retention_days=0.0, dead_share=0.0)
LONG_AGO = 1_000_000_000


@pytest.fixture
def root(tmp_path):
    """Return a work tree with a copy of the repository, and no files."""
    with tarfile.open(FIXTURE / "repository.tar") as tar:
        tar.extractall(tmp_path, filter="fully_trusted")
    (tmp_path / "work").mkdir()
    (tmp_path / "dot-mvc").rename(tmp_path / "work" / ".mvc")
    return tmp_path / "work"


def opened(root):
    """Return a new session."""
    return Session(Layout(root))


def digests(directory):
    """Return the SHA-256 of every file by its path."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def exported(root, to):
    """Return the digests of the files of every commit."""
    session, found = opened(root), {}
    for oid in EXPECTED["commits"]:
        export_commit(session, oid, to / oid)
        found[oid] = digests(to / oid)
    return found


def expected_files():
    """Return what `exported` must return."""
    return {oid: known["files"] for oid, known in EXPECTED["commits"].items()}


class TestWithMvc:
    """What a user of a later release does."""

    def test_the_fixture_is_what_it_was(self):
        """Nobody has written it again."""
        assert hashlib.sha256((FIXTURE / "repository.tar").read_bytes()).hexdigest() == DIGEST

    @pytest.mark.parametrize("quick", [True, False])
    def test_it_is_sound(self, root, quick):
        """Every byte is looked at."""
        report = fsck(opened(root), quick=quick)
        assert report.faults == ()
        assert (report.operations, report.commits) == (EXPECTED["operations"], len(EXPECTED["commits"]))
        assert quick or report.checked_bytes > 8 << 20

    def test_every_commit_comes_back(self, root, tmp_path):
        """Byte for byte, with the mode of each file."""
        assert exported(root, tmp_path / "out") == expected_files()
        assert all((tmp_path / "out" / oid / "config.json").stat().st_mode & 0o100 for oid in EXPECTED["commits"])

    def test_history(self, root):
        """Refs, parents, authors, times, messages and metadata."""
        session = opened(root)
        state = session.refs.state()
        assert dict(state.refs) == EXPECTED["refs"]
        assert state.number == EXPECTED["operations"] - 1
        found = {
            record.id: {
                "parents": list(record.parents),
                "author": record.author,
                "time": record.time,
                "message": record.message,
                "metadata": {key: repr(value) for key, value in sorted(record.metadata.items())},
                "manifest": record.manifest,
                "files": expected_files()[record.id],
            }
            for record in history(session, commits_of_refs(session, state).values())
        }
        assert found == EXPECTED["commits"]
        assert list(found) == list(EXPECTED["commits"]), "the order is another"

    def test_derived_data_is_made_again(self, root, tmp_path):
        """The indexes of the packs are the same, byte for byte."""
        before = {path.name: path.read_bytes() for path in (root / ".mvc" / "packs").glob("*.idx")}
        for name in before:
            (root / ".mvc" / "packs" / name).unlink()
        reindex(opened(root))
        assert {path.name: path.read_bytes() for path in (root / ".mvc" / "packs").glob("*.idx")} == before
        assert len(before) > 5
        assert exported(root, tmp_path / "out") == expected_files()

    def test_it_goes_on(self, root, tmp_path):
        """A commit on top, of what was there and something new."""
        session = opened(root)
        head = session.refs.state().head
        export_commit(session, head, tmp_path / "run")
        (tmp_path / "run" / "new.txt").write_bytes(b"new")
        done = commit(session, from_directory(tmp_path / "run"), CommitRequest("go on"), ACTOR)
        assert done.new_tensors == 0
        export_commit(opened(root), done.commit, tmp_path / "again")
        new = {"new.txt": hashlib.sha256(b"new").hexdigest()}
        assert digests(tmp_path / "again") == expected_files()[head] | new
        assert exported(root, tmp_path / "out") == expected_files()
        assert fsck(opened(root)).clean

    @pytest.mark.parametrize("act", [gc, repack])
    def test_nothing_is_removed_that_is_needed(self, root, tmp_path, act):
        """However old it is."""
        for path in (root / ".mvc").rglob("*"):
            if path.suffix in {".pack", ".blob"}:
                os.utime(path, (LONG_AGO, LONG_AGO))
        act(opened(root), NOTHING_KEPT)
        assert exported(root, tmp_path / "out") == expected_files()
        assert fsck(opened(root)).clean


class TestRefusal:
    """What a release does with a repository of a later one."""

    @staticmethod
    def run(root, *arguments):
        """Run a command; return its exit code and what it says."""
        result = CliRunner().invoke(cli, ["-C", str(root), *arguments])
        return result.exit_code, result.output

    @pytest.mark.parametrize(
        ("old", "new", "refused"),
        [
            ("version = 1", "version = 2", {"log", "fsck", "tag", "gc", "repack"}),
            ("read = []", 'read = ["zones"]', {"log", "fsck", "tag", "gc", "repack"}),
            ("write = []", 'write = ["zones"]', {"tag", "gc", "repack"}),
            ("gc = []", 'gc = ["zones"]', {"gc", "repack"}),
            ("version = 1", "version = 1", set()),
        ],
    )
    def test_per_access(self, root, old, new, refused):
        """Refused is what the file says, and nothing else; the message says what is needed, and what to do."""
        place = root / ".mvc" / "format.toml"
        text = place.read_text(encoding="utf-8")
        assert old in text
        place.unlink()
        place.write_text(text.replace(old, new), encoding="utf-8")
        before = digests(root / ".mvc")
        for command in (["log"], ["fsck", "--quick"], ["tag", "next"], ["gc"], ["repack"]):
            code, output = self.run(root, *command)
            if command[0] in refused:
                assert code == exit_code(FormatError("")), output
                assert "version 2" in output if "2" in new else "zones" in output, output
                assert "upgrade mvc" in output
            else:
                assert code == 0, output
        if refused >= {"log"}:
            assert digests(root / ".mvc") == before


# Without mvc.


def cbor(data):
    """Return the value of canonical bytes: what section 3 of the specification lists, and nothing else."""
    value, end = _item(data, 0)
    assert end == len(data), "trailing bytes"
    return value


def _item(data, at):
    major, short = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        if short == 27:
            return struct.unpack_from(">d", data, at)[0], at + 8
        return {20: False, 21: True, 22: None}[short], at
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(short, 0)
    assert short < 28
    number = int.from_bytes(data[at : at + size], "big") if size else short
    assert not size or number >= (24 if size == 1 else 1 << (4 * size)), "not the shortest form"
    at += size
    if major < 2:
        return (-1 - number if major else number), at
    if major < 4:
        found = bytes(data[at : at + number])
        assert len(found) == number
        return (found.decode() if major == 3 else found), at + number
    items, starts = [], []
    for _ in range(number * (2 if major == 5 else 1)):
        starts.append(at)
        item, at = _item(data, at)
        items.append(item)
    if major == 4:
        return items, at
    assert major == 5
    keys = [bytes(data[starts[i] : starts[i + 1]]) for i in range(0, len(items), 2)]
    assert keys == sorted(set(keys)), "keys are not sorted"
    return dict(zip(items[::2], items[1::2], strict=True)), at


def digest(domain, data):
    """Return an id: section 2."""
    return blake3(b"mvc1." + domain.encode() + b"\0" + data).digest()


def guarded(data):
    """Return what follows a checksum: sections 7 and 9."""
    assert xxh3_64_intdigest(data[8:]) == int.from_bytes(data[:8], "little")
    return data[8:]


def envelope(data):
    """Return the header of a blob and the stored frames: section 5."""
    magic, version, flags, length, check = struct.unpack_from("<8sHHIQ", data)
    assert (magic, version, flags) == (b"\x89MVCB\r\n\x1a", 1, 0)
    assert xxh3_64_intdigest(data[:16] + data[24 : 24 + length]) == check
    names = ("kind", "id", "dtype", "shape", "size", "codec", "parameters", "references", "frame_words", "table")
    header = dict(zip(names, cbor(data[24 : 24 + length]), strict=True))
    at, frames = 24 + length, []
    for stored, checksum in struct.iter_unpack("<IQ", header["table"]):
        frames.append(data[at : at + stored])
        assert xxh3_64_intdigest(frames[-1]) == checksum
        at += stored
    assert at == len(data), "trailing bytes"
    return header, frames


def entries(data, name):
    """Yield kind, id and body of what a pack holds: section 7."""
    magic, version, reserved = struct.unpack_from("<8sH6s", data)
    assert (magic, version, reserved) == (b"\x89MVCP\r\n\x1a", 1, bytes(6))
    count, oid = struct.unpack("<Q32s", data[-40:])
    assert oid == digest("pack", data[:-32])
    assert oid.hex() == name
    at, found = 16, 0
    while at < len(data) - 40:
        mark, kind, reserved, length, oid, check = struct.unpack_from("<4sB3sQ32sQ", data, at)
        assert (mark, reserved) == (b"OBJ1", bytes(3))
        assert xxh3_64_intdigest(data[at : at + 48]) == check
        yield kind, oid, at + 56, data[at + 56 : at + 56 + length]
        at += 56 + length
        found += 1
    assert (at, found) == (len(data) - 40, count)


@pytest.fixture(scope="module")
def members():
    """Return path to content of every file below ``.mvc``, as the tar file has them."""
    with tarfile.open(FIXTURE / "repository.tar") as tar:
        files = {member.name.removeprefix("dot-mvc/"): tar.extractfile(member) for member in tar if member.isfile()}
        return {path: file.read() for path, file in files.items() if file}


@pytest.fixture(scope="module")
def objects(members):
    """Return kind and body of everything that packs hold, by id, and headers of blobs, loose ones included."""
    metadata, blobs = {}, {}
    for path, data in members.items():
        if path.endswith(".blob"):
            header, frames = envelope(data)
            blobs[header["id"]] = header, frames
            assert path == f"objects/{header['id'].hex()[:2]}/{header['id'].hex()}.blob"
        elif path.endswith(".pack"):
            for kind, oid, _, body in entries(data, path.removeprefix("packs/").removesuffix(".pack")):
                if kind < 2:
                    header, frames = envelope(body)
                    assert (header["kind"], header["id"]) == (kind, oid)
                    blobs[oid] = header, frames
                else:
                    value = ZstdDecompressor().decompress(guarded(body))
                    assert digest({2: "manifest", 3: "commit", 4: "tag"}[kind], value) == oid
                    metadata[oid] = kind, cbor(value)
    return metadata, blobs


class TestWithoutMvc:
    """What another program finds that knows the specification only."""

    def test_pack_indexes(self, members):
        """They say of every entry where it is."""
        packs = [path for path in members if path.endswith(".pack")]
        for path in packs:
            name = path.removeprefix("packs/").removesuffix(".pack")
            index = members[path.replace(".pack", ".idx")]
            rows = sorted((oid, at, len(body), kind) for kind, oid, at, body in entries(members[path], name))
            assert struct.unpack_from("<8sH6s32sQ", index) == (
                b"\x89MVCI\r\n\x1a",
                1,
                bytes(6),
                bytes.fromhex(name),
                len(rows),
            )
            assert list(struct.iter_unpack("<32sQQB7s", index[56:-8])) == [(*row, bytes(7)) for row in rows]
            assert xxh3_64_intdigest(index[:-8]) == int.from_bytes(index[-8:], "little")
        assert len(packs) > 5

    def test_operations(self, members):
        """From the head down to operation 0: numbers, views at multiples of 64, and the refs that result."""
        heads = sorted(path for path in members if path.startswith("op_head/"))
        numbers = [int(path.removeprefix("op_head/")) for path in heads]
        assert numbers == list(range(EXPECTED["operations"] - 9, EXPECTED["operations"]))
        line, oid = [], members[heads[-1]].decode().removesuffix("\n")
        while oid:
            value = guarded(members[f"ops/{oid[:2]}/{oid}"])
            assert digest("operation", value).hex() == oid
            line.append((oid, cbor(value)))
            oid = line[-1][1]["parents"][0].hex() if line[-1][1]["parents"] else None
        line.reverse()
        refs: dict = {}
        for number, (_, operation) in enumerate(line):
            assert operation["number"] == number
            for name, old, new in operation["changes"]:
                assert refs.get(name) == old
                refs = {key: value for key, value in {**refs, name: new}.items() if value is not None}
            assert operation["view"] == (refs if number % 64 == 0 else None)
        assert refs == EXPECTED["refs"]
        for path, number in zip(heads, numbers, strict=True):
            assert members[path] == line[number][0].encode() + b"\n"

    def test_commits_and_tags(self, objects):
        """What they say is what is expected, and what they name is there."""
        metadata, _ = objects
        for oid, known in EXPECTED["commits"].items():
            kind, value = metadata[bytes.fromhex(oid)]
            assert kind == 3
            assert [parent.hex() for parent in value["parents"]] == known["parents"]
            assert (value["author"], value["time"], value["message"]) == (
                known["author"],
                known["time"],
                known["message"],
            )
            assert {key: repr(item) for key, item in value["metadata"].items()} == known["metadata"]
            assert (value["manifest"].hex(), value["derivation"]) == (known["manifest"], None)
        _, tag = metadata[bytes.fromhex(EXPECTED["refs"]["refs/tags/v1.0"])]
        assert (tag["target"], tag["message"]) == (
            bytes.fromhex(EXPECTED["refs"]["refs/tags/lap-0"]),
            "the first release",
        )

    def test_manifests(self, objects):
        """Every segment is stored, and literals that are stored raw have the ids that they should."""
        metadata, blobs = objects
        for oid, known in EXPECTED["commits"].items():
            manifest = metadata[bytes.fromhex(known["manifest"])][1]
            assert [file[0] for file in manifest["files"]] == sorted(known["files"], key=str.encode)
            for path, _, _, segments in manifest["files"]:
                for kind, content, length in segments:
                    header, _ = blobs[content]
                    assert (header["kind"], header["size"]) == (kind, length), f"{oid}:{path}"
            held = {content for file in manifest["files"] for _, content, _ in file[3]}
            assert all(entry[2] in held or 0 in entry[4] for entry in manifest["tensors"])

    def test_blobs(self, objects):
        """All codecs and many types occur; references are there; what is stored raw has its id."""
        _, blobs = objects
        headers = [header for header, _ in blobs.values()]
        assert {header["codec"] for header in headers} == {
            "raw",
            "planes",
            "sorted-delta",
            "context-delta",
            "sorted-planes",
            "sparse-delta",
        }
        types = {"F32", "BF16", "F16", "F64", "F8_E4M3", "F8_E5M2", "I8", "I64", "BOOL", "C64"}
        assert types <= {header["dtype"] for header in headers if header["kind"] == 1}
        for header in headers:
            for role, oid, depth in header["references"]:
                assert role in {"base", "companion"}
                assert depth == 0 or blobs[oid][0]["references"]
        raw = [(header, frames) for header, frames in blobs.values() if header["codec"] == "raw"]
        for header, frames in raw:
            assert content_id(header, b"".join(frames)) == header["id"]
        assert raw


def content_id(header, data):
    """Return the id of a content: section 2."""
    if header["kind"] == 0:
        return digest("literal", data)
    dtype, shape = header["dtype"].encode(), header["shape"]
    head = bytes([len(dtype)]) + dtype + bytes([len(shape)]) + b"".join(struct.pack("<Q", size) for size in shape)
    return digest("tensor", head + data)
