"""Quick checks that believe an earlier one: they never call clean what a check of everything would not."""

import os
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mvc.errors import IntegrityError, MvcError
from mvc.index import Database
from mvc.index.checked import recall
from mvc.index.database import _engine_of
from mvc.objects.commit import Commit
from mvc.objects.ids import content_hasher, finish
from mvc.objects.manifest import FileEntry, Manifest, Segment
from mvc.objects.operation import RefChange
from mvc.objects.refnames import branch_ref
from mvc.repo.branches import delete_branch
from mvc.repo.fsck import fsck
from mvc.repo.gc import gc
from mvc.repo.init import init
from mvc.repo.layout import Layout
from mvc.repo.reindex import reindex
from mvc.repo.repack import repack
from mvc.repo.session import Session
from mvc.repo.undo import undo
from mvc.settings import Gc
from mvc.store.layout import EntryKind
from mvc.store.local_fs import LocalFileSystem
from mvc.store.metadata import wrap_metadata
from mvc.types import object_id
from tests.conftest import Lab

NOW = Gc(grace_hours=0, retention_days=0)

LARGE = 5 << 20
"""Bytes of a file that is a loose blob."""


@pytest.fixture
def known(lab):
    """Return a repository of three commits, a tag, a branch and a loose blob, which a quick check found clean."""
    model = lab.model()
    for epoch in range(3):
        lab.committed(model)
        model = lab.tuned(model, epoch)
    lab.write("large", random.Random(0).randbytes(LARGE))
    lab.commit()
    lab.repo.tag("v1", message="m")
    lab.repo.branch("old", "HEAD~2")
    lab.settle()
    assert lab.check(quick=True).clean
    assert seen(lab) == (0, 0, 0, 4)
    return lab


def seen(lab):
    """Return how much a quick check, which must be clean, reads and does not read."""
    found = lab.check(quick=True)
    assert found.clean
    return found.operations, found.commits, found.copies, found.known_commits


def forget(root):
    """Take the record of checks from a repository.

    One whose index SQLite cannot read has none, and keeps it: that it is damaged is for the check to say.
    """
    index = root / ".mvc" / "index.sqlite"
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(index)) as connection, connection:
        connection.execute("DELETE FROM checked")


def faults(root):
    """Return what a quick check finds."""
    found = fsck(Session(Layout(root)), quick=True)
    return [{**asdict(fault), "problem": fault.problem.replace(str(root), "")} for fault in found.faults]


def both(root):
    """Return what a quick check finds, and what one finds that knows of no other."""
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        copy = Path(scratch).resolve() / "copy"
        shutil.copytree(root, copy)
        forget(copy)
        return faults(root), faults(copy)


def files(root, pattern):
    """Return files of the store in a lasting order."""
    return sorted((root / ".mvc").rglob(pattern))


def flip(path, place):
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def sql(root, *statements):
    """Change the index."""
    with closing(sqlite3.connect(root / ".mvc" / "index.sqlite")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def cut(path):
    """Leave half of a file."""
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def exchange(root):
    """Put another pack in the place of one, with the time of that."""
    one, other = files(root, "*.pack")[:2]
    status = one.stat()
    one.unlink()
    shutil.copy(other, one)
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))


def operations(root):
    """Return the files of operations."""
    return [path for path in files(root, "*") if path.parent.parent.name == "ops" and path.is_file()]


def emptied(path):
    """Leave nothing."""
    path.chmod(0o644)
    path.write_bytes(b"")


def head(root):
    """Return the newest file of the head."""
    return max((root / ".mvc" / "op_head").iterdir())


def foreign(root):
    """Put a file that is no operation among them."""
    path = root / ".mvc" / "ops" / "00" / ("0" * 64)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(20))


DAMAGES = {
    "a pack is gone": lambda root: files(root, "*.pack")[1].unlink(),
    "all packs are gone": lambda root: [path.unlink() for path in files(root, "*.pack")],
    "a pack is cut": lambda root: cut(files(root, "*.pack")[0]),
    "a pack is empty": lambda root: emptied(files(root, "*.pack")[0]),
    "a pack is another": exchange,
    "a header in a pack": lambda root: flip(files(root, "*.pack")[0], 20),
    "an object in a pack": lambda root: flip(files(root, "*.pack")[2], -60),
    "the index of a pack": lambda root: flip(files(root, "*.idx")[0], 60),
    "a loose blob is gone": lambda root: files(root, "*.blob")[0].unlink(),
    "a loose blob is cut": lambda root: cut(files(root, "*.blob")[0]),
    "a header of a loose blob": lambda root: flip(files(root, "*.blob")[0], 30),
    "an operation is gone": lambda root: operations(root)[0].unlink(),
    "all operations are gone": lambda root: [path.unlink() for path in operations(root)],
    "an operation": lambda root: flip(operations(root)[1], -3),
    "an operation that is none": foreign,
    "the head is gone": lambda root: head(root).unlink(),
    "the head is empty": lambda root: emptied(head(root)),
    "the settings": lambda root: (root / ".mvc" / "config.toml").write_text("[core]\nthreads = -1\n"),
    "a place in the index": lambda root: sql(root, "UPDATE blobs SET offset = offset + 1"),
    "a chain in the index": lambda root: sql(root, "UPDATE blobs SET depth = depth + 1"),
    "an object of the index": lambda root: sql(root, "UPDATE objects SET length = length + 1"),
    "a commit of the index": lambda root: sql(root, "UPDATE commits SET message = 'other'"),
    "a parent in the index": lambda root: sql(root, "DELETE FROM parents"),
    "blobs of the index": lambda root: sql(root, "DELETE FROM blobs"),
    "an id in the index": lambda root: sql(root, "UPDATE commits SET manifest = x'00'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_as_if_nothing_were_known(known, damage):
    """The same faults, and the same each time."""
    DAMAGES[damage](known.root)
    believing, asking = both(known.root)
    assert believing == asking
    assert believing or damage == "the head is gone", "the log then ends earlier, and is whole"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["a pack is cut", "a loose blob is gone", "an operation"])
def test_damage_is_reported_each_time(known, damage):
    """Only what is clean is remembered."""
    DAMAGES[damage](known.root)
    once = faults(known.root)
    assert once
    assert faults(known.root) == faults(known.root) == once


class Unchanging(LocalFileSystem):
    """A disk that loses bits and says nothing of it."""

    def __init__(self, directory):
        self.directory = directory
        self.before = super().statuses(directory)

    def statuses(self, directory):
        """Return what was so before."""
        return self.before if directory == self.directory else super().statuses(directory)


def test_damage_that_leaves_size_and_times_is_for_the_whole_check(known):
    """What is documented: a quick check believes what the system says of a file, any other one reads it."""
    disk = Unchanging(known.session.store.packs.directory)
    flip(files(known.root, "*.pack")[0], 20)
    assert fsck(known.again(disk).session, quick=True).clean
    assert not fsck(known.again(disk).session).clean
    assert not known.check(quick=True).clean


def test_nothing_is_read_twice(known):
    """A commit costs itself and the files that it relies on, which it touches; then nothing again."""
    known.committed(known.tuned(known.model(), 7), "other.safetensors")
    operations_, commits, copies, before = seen(known)
    assert (operations_, commits, before) == (1, 1, 4)
    assert copies
    known.settle()
    assert seen(known)[:2] == (0, 0)
    assert seen(known) == (0, 0, 0, 5)


def test_a_full_check_believes_nothing_and_is_believed(known):
    """It leaves a record, too."""
    forget(known.root)
    full = known.check()
    assert (full.known_commits, full.commits) == (0, 4)
    assert seen(known) == (0, 0, 0, 4)
    assert known.check().checked_bytes == full.checked_bytes


@pytest.mark.parametrize("columns", ["rows = rows + 1", "seal = seal + 1", "operation = zeroblob(32)"])
def test_a_record_that_is_not_what_was_written_is_not_believed(known, columns):
    """Everything is read, and the record made again."""
    sql(known.root, f"UPDATE checked SET {columns}")
    assert seen(known)[:2] == (7, 4)
    assert seen(known)[:2] == (0, 0)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM checked_files WHERE sort = 1",
        "UPDATE checked_files SET mtime_ns = mtime_ns + 1",
        "UPDATE checked_files SET sort = 9 WHERE sort = 3",
        "DELETE FROM checked_objects",
        "UPDATE checked_objects SET kind = 'blob'",
        "INSERT INTO checked_objects VALUES (zeroblob(32), 'commit')",
    ],
)
def test_a_part_of_the_record_that_is_not_what_was_written(known, statement):
    """The same."""
    sql(known.root, statement)
    assert seen(known)[:2] == (7, 4)
    assert seen(known)[:2] == (0, 0)


def test_without_an_index_everything_is_read(known):
    """And `reindex` begins without a record."""
    reindex(known.again().session)
    assert seen(known)[:2] == (7, 4)
    (known.root / ".mvc" / "index.sqlite").unlink()
    assert seen(known)[:2] == (7, 4)
    assert not (known.root / ".mvc" / "index.sqlite").exists()


def test_a_commit_of_what_is_not_there(known, actor):
    """Its tensor was never stored; a branch leads to it."""
    running = content_hasher(None)
    running.update(b"lost")
    segment = Segment("literal", finish(running), 4)
    manifest = Manifest((FileEntry("lost", 0o644, "opaque", (segment,)),), ())
    made = Commit(manifest.id, (), actor.author, 1, "lost", {})
    session = known.again().session
    with session.store.begin() as batch:
        batch.put(EntryKind.MANIFEST, manifest.id, wrap_metadata(manifest.encoded))
        batch.put(EntryKind.COMMIT, made.id, wrap_metadata(made.encoded))
        batch.commit()
    assert both(known.root) == ([], []), "no ref reaches it"
    session.refs.update(lambda state: (RefChange(branch_ref("lost"), None, made.id),), actor)
    for _ in range(2):
        believing, asking = both(known.root)
        assert believing == asking
        assert [fault["object"] for fault in believing] == [segment.id]
        Session.find(known.root).refresh(force=True)
        known.settle()


@pytest.mark.parametrize("before", [False, True], ids=["above", "below"])
def test_a_manifest_that_contradicts_another_one(known, actor, before):
    """A commit names a literal that is stored, and says that it is longer, whichever manifest is read last."""
    session = known.again().session
    tip = session.refs.state().head
    segment = next(s for file in known.manifest(tip).files for s in file.segments if s.kind == "literal")
    wrong = Segment(segment.kind, segment.id, segment.length + 7)
    manifest = Manifest((FileEntry("long", 0o644, "opaque", (wrong,)),), ())
    made = Commit(manifest.id, () if before else (tip,), actor.author, 1, "long", {})
    above = Commit(known.manifest(tip).id, (made.id,), actor.author, 2, "true", {})
    with session.store.begin() as batch:
        batch.put(EntryKind.MANIFEST, manifest.id, wrap_metadata(manifest.encoded))
        for commit in (made, above):
            batch.put(EntryKind.COMMIT, commit.id, wrap_metadata(commit.encoded))
        batch.commit()
    session.refs.update(lambda state: (RefChange(branch_ref("long"), None, above.id if before else made.id),), actor)
    assert [fault.object for fault in fsck(Session(Layout(known.root))).faults] == [segment.id]
    for _ in range(2):
        believing, asking = both(known.root)
        assert believing == asking
        assert [fault["object"] for fault in believing] == [segment.id]
        Session.find(known.root).refresh(force=True)
        known.settle()
    with pytest.raises(IntegrityError, match=f"{segment.length:,} bytes; its manifest says {wrong.length:,}"):
        known.repo.checkout(made.id, to=known.root.parent / "out")
    assert not list((known.root.parent / "out").rglob("*"))
    assert not list((known.root / ".mvc" / "tmp").glob("*.tmp"))


def test_a_branch_to_a_commit_whose_content_is_gone(known, actor):
    """It was checked as it was stored, but nothing reached it then."""
    known.repo.branch("side", "HEAD~1")
    known.repo.switch("side")
    known.write("large", random.Random(1).randbytes(LARGE))
    lost = known.commit().commit
    blobs = {path: path.stat().st_mtime_ns for path in files(known.root, "*.blob")}
    known.repo.switch("main")
    delete_branch(known.again().session, "side", actor, force=True)
    known.settle()
    seen(known)
    max(blobs, key=lambda path: blobs[path]).unlink()
    assert both(known.root) == ([], [])
    known.settle()
    known.again().session.refresh(force=True)
    seen(known)
    known.again().session.refs.update(lambda state: (RefChange(branch_ref("back"), None, lost),), actor)
    believing, asking = both(known.root)
    assert believing == asking
    assert believing


def test_what_a_killed_commit_left_is_read_each_time(known):
    """The index does not know it, so that nothing is remembered of it; it may be damaged later."""
    with known.session.store.begin() as batch:
        batch.put(EntryKind.COMMIT, object_id("0" * 64), wrap_metadata(b"\xa0"))
        batch.commit()
    believing, asking = both(known.root)
    assert believing == asking
    assert believing, "it is no commit of that id"


def test_an_index_that_cannot_be_written(known, monkeypatch):
    """The check is the same; it is not remembered."""
    forget(known.root)
    monkeypatch.setattr("mvc.index.database._BUSY_SECONDS", 0.01)
    _engine_of.cache_clear()  # it was opened before
    with closing(sqlite3.connect(known.root / ".mvc" / "index.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert seen(known)[:2] == (7, 4)
        assert seen(known)[:2] == (7, 4)
    assert seen(known)[:2] == (7, 4)
    assert seen(known)[:2] == (0, 0)


ACTIONS = ("commit", "same", "branch", "switch", "undo", "gc", "repack", "reindex", "touch", "index", "check", "settle")


def act(lab, action, seed, actor):
    """Do something that users and their processes do; what is refused is not done."""
    again = lab.again()
    verbs = {
        "commit": lambda: again.committed(lab.tuned(lab.model(seed % 2), seed), f"m{seed % 2}.safetensors"),
        "same": lambda: again.commit(allow_empty=True),
        "branch": lambda: again.repo.branch(f"b{seed}", "HEAD~1"),
        "switch": lambda: again.repo.switch(f"b{seed}", force=True),
        "undo": lambda: undo(again.session, actor, force=True),
        "gc": lambda: gc(again.session, NOW),
        "repack": lambda: repack(again.session, NOW),
        "reindex": lambda: reindex(again.session),
        "touch": lambda: os.utime(files(lab.root, "*.pack")[0]),
        "index": lambda: [path.unlink() for path in files(lab.root, "*.idx")[:1]],
        "check": lambda: lab.check(quick=True),
        "settle": lab.settle,
    }
    with suppress(MvcError):
        verbs[action]()


def hurt(root, number, place):
    """Damage a file of the store, or remove it; the second time at another place."""
    there = [path for path in files(root, "*") if path.is_file() and path.name != "format.toml"]
    path = there[number % len(there)]
    if place == 0:
        path.unlink()
    else:
        flip(path, place)


@pytest.mark.slow
@settings(max_examples=10, phases=[Phase.generate])
@given(
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3)), max_size=10),
    st.integers(0, 1000),
    st.integers(0, 3000),
)
def test_whatever_was_done_before(actor, actions, number, place):
    """A quick check says what one does that knows of no other, before the damage and after it."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch).resolve() / "work"
        init(root, actor)
        lab = Lab(root)
        lab.committed(lab.model())
        for action, seed in (("settle", 0), ("check", 0), *actions):
            act(lab, action, seed, actor)
        believing, asking = both(root)
        assert believing == asking == []
        hurt(root, number, place)
        believing, asking = both(root)
        assert believing == asking


def test_the_record_names_what_was_read(known):
    """Every file, commit and tag."""
    record = recall(Database(known.root / ".mvc" / "index.sqlite"))
    assert record is not None
    assert record.commits == {commit.id for commit in known.repo.log()}
    assert len(record.tags) == 1
    names = {path.name.partition(".")[0] for path in (*files(known.root, "*.pack"), *files(known.root, "*.blob"))}
    assert {oid for files_ in record.files.values() for oid in files_} == names | {
        p.name for p in operations(known.root)
    }
