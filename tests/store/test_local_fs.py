"""The local file system: short counts, translated errors, drafts and open files."""

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mvc.errors import (
    AlreadyExistsError,
    InvalidInputError,
    MalformedError,
    MvcError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from mvc.store.handles import HandleCache
from mvc.store.local_fs import LocalFileSystem, translated
from mvc.store.tmp import Temporaries

FS = LocalFileSystem()


class Failing(LocalFileSystem):
    """A file system whose system calls fail with one error."""

    def __init__(self, number: int) -> None:
        self._number = number

    def _fail(self, *_: object) -> int:
        raise OSError(self._number, os.strerror(self._number))

    _write = _pwrite = _fsync = _link = _fail  # type: ignore[assignment]
    _pread = _fail  # type: ignore[assignment]


class Short(LocalFileSystem):
    """A file system that reads and writes at most three bytes at a time."""

    def _write(self, fd: int, data: memoryview) -> int:
        return super()._write(fd, data[:3])

    def _pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        return super()._pwrite(fd, data[:3], offset)

    def _pread(self, fd: int, length: int, offset: int) -> bytes:
        return super()._pread(fd, min(length, 3), offset)


@pytest.mark.parametrize(
    ("number", "writing", "error", "transient"),
    [
        (errno.ENOSPC, True, StorageError, True),
        (errno.EDQUOT, True, StorageError, True),
        (errno.EIO, True, StorageError, False),
        (errno.ESTALE, False, StorageError, True),
        (errno.EMFILE, False, StorageError, True),
        (errno.EACCES, True, ReadOnlyError, None),
        (errno.EROFS, True, ReadOnlyError, None),
        (errno.EACCES, False, StorageError, False),
        (errno.ENOENT, False, NotFoundError, None),
        (errno.EEXIST, True, AlreadyExistsError, None),
    ],
)
def test_errors_are_grouped_by_what_to_do(
    number: int, writing: bool, error: type[MvcError], transient: bool | None
) -> None:
    """Each system error becomes one of ours that names the path and says whether trying again can help."""
    with pytest.raises(error, match="there/it") as caught, translated("use", Path("there/it"), writing=writing):
        raise OSError(number, os.strerror(number))
    assert getattr(caught.value, "transient", None) == transient


def test_each_failing_call_is_translated(tmp_path: Path) -> None:
    """No OSError leaves the file system."""
    fs = Failing(errno.EIO)
    handle = fs.create(tmp_path / "file")
    calls: list[Callable[[], object]] = [
        lambda: fs.write(handle, b"x"),
        lambda: fs.pwrite(handle, b"x", 0),
        lambda: fs.fsync(handle),
        lambda: fs.pread(handle, 1, 0),
        lambda: fs.link(tmp_path / "file", tmp_path / "other"),
        lambda: fs.fsync_dir(tmp_path),
    ]
    for call in calls:
        with pytest.raises(StorageError):
            call()
    fs.close(handle)
    missing = tmp_path / "none" / "file"
    calls = [
        lambda: fs.create(missing),
        lambda: fs.replace(missing, tmp_path),
        lambda: fs.unlink(missing),
        lambda: fs.touch(missing),
        lambda: fs.mkdir(missing),
        lambda: fs.fsync_dir(missing),
        lambda: fs.open_read(missing),
        lambda: fs.map_file(missing),
        lambda: fs.read_file(missing, 1),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()


def test_short_counts_are_completed(tmp_path: Path) -> None:
    """A system that writes and reads three bytes at a time moves all bytes."""
    fs = Short()
    (tmp_path / "tmp").mkdir()
    with Temporaries(tmp_path, fs).draft() as draft:
        draft.write(b"0123456789")
        draft.write(b"")
        draft.write(memoryview(b"abcdefgh").cast("Q"))
        draft.patch(b"ABCDE", 1)
        assert draft.size == 18
        draft.publish(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"0ABCDE6789abcdefgh"
    assert fs.read_file(tmp_path / "file", 18) == b"0ABCDE6789abcdefgh"


def test_reads_are_bounded(tmp_path: Path) -> None:
    """A file above the limit is refused before it is read; a read beyond the end is short."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with pytest.raises(MalformedError, match="at most 9"):
        FS.read_file(path, 9)
    handle = FS.open_read(path)
    assert FS.pread(handle, 20, 4) == b"456789"
    FS.close(handle)


def test_missing_things_have_no_size_and_no_names(tmp_path: Path) -> None:
    """Asking for what may be missing is no error."""
    (tmp_path / "file").write_bytes(b"abc")
    assert FS.size(tmp_path / "file") == 3
    for missing in (tmp_path / "none", tmp_path / "file" / "below"):
        assert (FS.size(missing), FS.modified(missing), FS.names(missing)) == (None, None, [])
    assert FS.names(tmp_path / "file") == []


def test_create_and_link_never_replace(tmp_path: Path) -> None:
    """A taken name is an AlreadyExistsError; the same file under the same name is a success whose reply was lost."""
    first, second = tmp_path / "first", tmp_path / "second"
    FS.close(FS.create(first))
    second.write_bytes(b"second")
    with pytest.raises(AlreadyExistsError):
        FS.create(second)
    with pytest.raises(AlreadyExistsError):
        FS.link(first, second)
    FS.link(first, tmp_path / "third")
    FS.link(first, tmp_path / "third")
    assert second.read_bytes() == b"second"
    assert first.stat().st_mode & 0o222 == 0, "objects are read-only"


def test_a_link_target_that_vanishes_was_taken(tmp_path: Path) -> None:
    """A name that was taken a moment ago is reported as taken."""

    class Vanishing(LocalFileSystem):
        def _link(self, source: Path, target: Path) -> None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    (tmp_path / "first").touch()
    with pytest.raises(AlreadyExistsError):
        Vanishing().link(tmp_path / "first", tmp_path / "second")


def test_a_directory_that_cannot_be_flushed_is_no_error(tmp_path: Path) -> None:
    """Some network file systems refuse fsync of a directory; there is no other call to make."""
    Failing(errno.EINVAL).fsync_dir(tmp_path)
    assert FS.names(tmp_path) == []


def test_mkdir_may_be_repeated(tmp_path: Path) -> None:
    """Two processes may create the same directory."""
    FS.mkdir(tmp_path / "directory")
    (tmp_path / "directory" / "file").touch()
    FS.mkdir(tmp_path / "directory")
    assert FS.names(tmp_path / "directory") == ["file"]


def test_mapped_files(tmp_path: Path) -> None:
    """A view shows the bytes, cannot be written, and outlives its file; an empty file is an empty view."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    view = FS.map_file(path)
    FS.unlink(path)
    assert bytes(view) == b"content"
    assert view.readonly
    path.write_bytes(b"")
    assert len(FS.map_file(path)) == 0


@pytest.fixture
def temporaries(tmp_path: Path) -> Temporaries:
    """A directory for temporaries."""
    (tmp_path / "tmp").mkdir()
    return Temporaries(tmp_path, FS)


def test_drafts_disappear_or_get_their_name(tmp_path: Path, temporaries: Temporaries) -> None:
    """Without `publish`, and after errors, nothing stays; a published file is whole."""
    with temporaries.draft() as draft:
        draft.write(b"never")
    with pytest.raises(InvalidInputError), temporaries.draft() as draft:
        raise InvalidInputError("changed my mind")
    temporaries.durable_write(tmp_path / "file", b"old")
    temporaries.durable_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert FS.names(tmp_path / "tmp") == []


def test_a_draft_that_cannot_be_removed_is_no_error(tmp_path: Path, temporaries: Temporaries) -> None:
    """The first error counts; what stays behind is swept later."""
    draft = temporaries.draft()
    next((tmp_path / "tmp").iterdir()).unlink()
    draft.discard()
    draft.discard()
    assert FS.names(tmp_path / "tmp") == []


def test_sweep_removes_old_temporaries_only(tmp_path: Path, temporaries: Temporaries) -> None:
    """Age decides; files that are not ours stay."""
    old, new, foreign = (tmp_path / "tmp" / name for name in ("1-aa.tmp", "2-bb.tmp", "README"))
    for path in (old, new, foreign):
        path.touch()
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    os.utime(foreign, (hour_ago, hour_ago))
    assert temporaries.sweep(60) == 1
    assert sorted(FS.names(tmp_path / "tmp")) == ["2-bb.tmp", "README"]


def test_sweep_lets_others_sweep_too(temporaries: Temporaries, tmp_path: Path) -> None:
    """A file that vanishes meanwhile is no error and not counted."""

    class Rival(LocalFileSystem):
        def modified(self, path: Path) -> float | None:
            path.unlink()
            return 0.0

    (tmp_path / "tmp" / "1-aa.tmp").touch()
    assert Temporaries(tmp_path, Rival()).sweep(1) == 0


def test_few_files_stay_open_however_many_are_read(tmp_path: Path) -> None:
    """Many threads read many files through a small cache and get the right bytes; the oldest are closed."""
    paths = [tmp_path / str(i) for i in range(20)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * 100)
    before = len(FS.names(Path("/proc/self/fd")))
    cache = HandleCache(FS, limit=3)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: (i, cache.pread(paths[i % 20], 10, i % 90)), range(2000)))
    assert all(data == bytes([i % 20]) * 10 for i, data in results)
    assert len(FS.names(Path("/proc/self/fd"))) <= before + 3
    cache.clear()
    assert len(FS.names(Path("/proc/self/fd"))) <= before


def test_an_open_file_ends_where_it_ends(tmp_path: Path) -> None:
    """Ranges beyond the end, and missing files, are refused; a dropped file is opened anew."""
    cache, path = HandleCache(FS), tmp_path / "file"
    with pytest.raises(NotFoundError):
        cache.pread(path, 1, 0)
    path.write_bytes(b"abc")
    for length, offset in ((4, 0), (1, 3), (1, -1), (-1, 2)):
        with pytest.raises(MalformedError, match="were asked for"):
            cache.pread(path, length, offset)
    path.unlink()
    assert cache.pread(path, 3, 0) == b"abc"
    cache.drop(path)
    with pytest.raises(NotFoundError):
        cache.pread(path, 3, 0)
