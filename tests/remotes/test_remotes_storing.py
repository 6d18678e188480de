"""What has arrived becomes part of the store while more is coming: where it lies meanwhile, and what if that fails."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mvc.errors import MalformedError, StorageError
from mvc.remotes import download
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.posix import PosixEngine
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.spool import Spool
from mvc.repo.fsck import fsck
from mvc.repo.layout import Layout
from mvc.repo.session import Session
from mvc.settings import Remote
from mvc.store.fs import OBJECT_MODE, FileHandle
from mvc.store.local_fs import LocalFileSystem
from mvc.store.tmp import Temporaries

TENSORS = 5
LARGE = 1 << 20


class WatchedFileSystem(LocalFileSystem):
    """Counts what is written, and how many temporaries there are; the flush of one of the large files may fail."""

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing
        self.flushed = 0
        self.written = 0
        self.most = 0
        self._there: set[Path] = set()

    def create(self, path: Path, mode: int = OBJECT_MODE) -> FileHandle:
        """Create a file."""
        if path.suffix == ".tmp":
            self._there.add(path)
            self.most = max(self.most, len(self._there))
        return super().create(path, mode)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        super().unlink(path)
        self._there.discard(path)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file."""
        super().replace(source, target)
        self._there.discard(source)

    def fsync(self, handle: FileHandle) -> None:
        """Flush a file, slowly, or fail to."""
        if os.fstat(handle.fd).st_size > LARGE:
            self.flushed += 1
            if self.flushed == self.failing:
                raise StorageError("the medium fails")
            time.sleep(0.1)
        super().fsync(handle)

    def _write(self, fd: int, data: memoryview) -> int:
        self.written += len(data)
        return super()._write(fd, data)

    def _pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self.written += len(data)
        return super()._pwrite(fd, data, offset)


@pytest.fixture
def source(machines, lab, monkeypatch):
    """Return a repository with large tensors, each of which comes in a batch of its own."""
    monkeypatch.setattr(download, "_BATCH_BYTES", LARGE)
    monkeypatch.setattr(download, "_ALONE_BYTES", LARGE)
    machines.add(lab)
    model = {f"large.{number}": lab.weights("F32", (1100, 1024), number) for number in range(TENSORS)}
    lab.committed(model)
    lab.committed(lab.tuned(model, 1))
    machines.push(lab)
    return lab


def cloned(machines, name, fs):
    """Clone, but for the files, by way of a file system."""
    store = RemoteStore(PosixEngine(machines.there))
    request = CloneRequest(checkout=False)
    return clone(store, Remote(str(machines.there)), machines.root / name, request, machines.actor, fs=fs)


def test_large_blobs_are_written_once(machines, source):
    """They are linked from where they have arrived, and few wait for that at a time."""
    fs = WatchedFileSystem()
    result = cloned(machines, "bob", fs)
    assert fs.flushed == 2 * TENSORS
    assert fs.written < 1.1 * result.fetched.received_bytes
    assert fs.most < 8, "a batch comes, one is checked, and one is stored: two files of each"
    blobs = list((machines.root / "bob" / ".mvc" / "objects").rglob("*.blob"))
    assert len(blobs) == 2 * TENSORS
    assert fsck(result.session).faults == ()
    assert [*(machines.root / "bob" / ".mvc" / "tmp").iterdir()] == []


@pytest.mark.parametrize("failing", [1, TENSORS, 2 * TENSORS])
def test_a_flush_that_fails(machines, source, failing):
    """Is what the clone fails with: no ref leads anywhere, what is there is whole, and the next one brings the rest."""
    with pytest.raises(StorageError, match="the medium fails"):
        cloned(machines, "bob", WatchedFileSystem(failing))
    session = Session(Layout(machines.root / "bob"))
    assert session.refs.state().head is None
    assert fsck(session).faults == ()
    kept = {path.name for path in (machines.root / "bob" / ".mvc" / "objects").rglob("*.blob")}
    assert failing - 3 <= len(kept) < 2 * TENSORS
    assert [*(machines.root / "bob" / ".mvc" / "tmp").iterdir()] == []
    fs = WatchedFileSystem()
    result = cloned(machines, "bob", fs)
    assert fs.flushed == 2 * TENSORS - len(kept)
    assert result.session.refs.state().head == source.session.refs.state().head
    assert fsck(result.session).faults == ()


class TestSpool:
    """Temporary files."""

    @pytest.fixture
    def spool(self, tmp_path):
        """Return one."""
        fs = LocalFileSystem()
        with Spool(Temporaries(tmp_path, fs), fs) as spool:
            yield spool

    def test_places(self, spool, tmp_path):
        """What shares a file and what has one of its own are read where they were put, in whatever order."""
        places = [spool.reserve(4), spool.reserve(6, alone=True), spool.reserve(2)]
        spool.put(b"lo", places[1] + 4)
        spool.put(b"xy", places[2])
        spool.put(b"aloe", places[1])
        spool.put(b"abcd", places[0])
        assert [bytes(spool.read(place, size)) for place, size in zip(places, (4, 6, 2), strict=True)] == [
            b"abcd",
            b"aloelo",
            b"xy",
        ]
        assert sorted(path.read_bytes() for path in (tmp_path / "tmp").iterdir()) == [b"abcdxy", b"aloelo"]

    def test_what_has_not_arrived(self, spool):
        """Is not read."""
        place = spool.reserve(4, alone=True)
        spool.put(b"ab", place)
        with pytest.raises(MalformedError, match="have not arrived"):
            spool.read(place, 4)

    def test_what_was_taken(self, spool, tmp_path):
        """Is read as before, also when it is closed and has another name; and it is not removed."""
        place = spool.reserve(4, alone=True)
        spool.reserve(1, alone=True)
        spool.put(b"blob", place)
        draft = spool.take(place)
        with draft:
            draft.claim(tmp_path / "blob")
        assert spool.read(place, 4) == b"blob"
        spool.close()
        assert (tmp_path / "blob").read_bytes() == b"blob"
        assert [*(tmp_path / "tmp").iterdir()] == []
