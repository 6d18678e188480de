"""The crashes themselves: `CrashAt` leaves what a crash may leave, and unsafe code does not survive it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mvc.store.fs import FileHandle, FileSystem
from mvc.store.object_store import ObjectStore
from mvc.testing.crashes import CRASH_MODES, CountingFileSystem, CrashAt, CrashMode, SimulatedCrash, crash_everywhere


def write(fs: FileSystem, path: Path, data: bytes, *, sync: bool = True) -> FileHandle:
    """Create a file."""
    handle = fs.create(path)
    fs.write(handle, data)
    if sync:
        fs.fsync(handle)
    fs.close(handle)
    return handle


def crash(fs: FileSystem, directory: Path) -> None:
    """Take one more step, at which `fs` crashes."""
    with pytest.raises(SimulatedCrash):
        fs.fsync_dir(directory / "anywhere else")


@pytest.mark.parametrize("mode", CRASH_MODES)
def test_what_was_flushed_survives(tmp_path: Path, mode: CrashMode) -> None:
    """A file that was flushed, in a directory that was flushed, is there after every crash."""
    with CrashAt(8, mode) as fs:
        (tmp_path / "old").write_bytes(b"replaced")
        write(fs, tmp_path / "new", b"content")
        fs.link(tmp_path / "new", tmp_path / "second")
        fs.replace(tmp_path / "new", tmp_path / "old")
        fs.fsync_dir(tmp_path)
        fs.touch(tmp_path / "old")
        crash(fs, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"content", "second": b"content"}


def test_lost_names_are_undone(tmp_path: Path) -> None:
    """Created, linked, replaced, removed files and directories are as they were before."""
    before = {"replaced": b"old", "removed": b"here"}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    with CrashAt(9, "lose") as fs:
        write(fs, tmp_path / "new", b"content")
        fs.link(tmp_path / "new", tmp_path / "link")
        fs.replace(tmp_path / "new", tmp_path / "replaced")
        fs.unlink(tmp_path / "removed")
        fs.mkdir(tmp_path / "directory")
        fs.mkdir(tmp_path / "directory")
        crash(fs, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("stop", b"012XY5more"), ("lose", b"012345"), ("zero", b"012345\0\0\0\0")],
)
def test_contents_that_were_not_flushed(tmp_path: Path, mode: CrashMode, expected: bytes) -> None:
    """They are kept, cut back to what was flushed, or zeros."""
    with CrashAt(7, mode) as fs:
        handle = fs.create(tmp_path / "file")
        fs.fsync_dir(tmp_path)
        fs.write(handle, b"012345")
        fs.fsync(handle)
        fs.write(handle, b"more")
        fs.pwrite(handle, b"XY", 3)
        crash(fs, tmp_path)
        fs.close(handle)
    assert (tmp_path / "file").read_bytes() == expected


def test_a_torn_write(tmp_path: Path) -> None:
    """Half of the write at which the process dies arrives."""
    with CrashAt(2, "torn") as fs, pytest.raises(SimulatedCrash, match="write"):
        write(fs, tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"01234"


def test_a_torn_write_at_a_place(tmp_path: Path) -> None:
    """The same where the file has bytes already."""
    with CrashAt(3, "torn") as fs:
        handle = fs.create(tmp_path / "file")
        fs.write(handle, b"0123456789")
        with pytest.raises(SimulatedCrash, match="pwrite"):
            fs.pwrite(handle, b"abcd", 6)
        fs.close(handle)
    assert (tmp_path / "file").read_bytes() == b"012345ab89"


def test_nothing_happens_after_the_crash(tmp_path: Path) -> None:
    """Clean-up code that runs while the crash unwinds changes nothing."""
    with CrashAt(4) as fs:
        write(fs, tmp_path / "file", b"content")
        handle = FileHandle(tmp_path / "file", -1)
        calls: list[Callable[[], object]] = [
            lambda: fs.unlink(tmp_path / "file"),
            lambda: fs.create(tmp_path / "other"),
            lambda: fs.write(handle, b"x"),
            lambda: fs.pwrite(handle, b"x", 0),
            lambda: fs.fsync(handle),
            lambda: fs.replace(tmp_path / "file", tmp_path / "other"),
            lambda: fs.link(tmp_path / "file", tmp_path / "other"),
            lambda: fs.touch(tmp_path / "file"),
            lambda: fs.mkdir(tmp_path / "other"),
            lambda: fs.fsync_dir(tmp_path),
        ]
        for call in calls:
            with pytest.raises(SimulatedCrash):
                call()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_steps_are_counted_by_name(tmp_path: Path) -> None:
    """The list of steps tells what a scenario does to the disk."""
    fs = CountingFileSystem()
    write(fs, tmp_path / "file", b"content")
    assert [step.split()[0] for step in fs.steps] == ["create", "write", "fsync"]


def safe(root: Path, fs: FileSystem) -> None:
    """Replace a file as the store does."""
    write(fs, root / "tmp", b"new content")
    fs.replace(root / "tmp", root / "file")
    fs.fsync_dir(root)
    write(fs, root / "done", b"")
    fs.fsync_dir(root)


def without_flush(root: Path, fs: FileSystem) -> None:
    """Forget to flush the content."""
    write(fs, root / "tmp", b"new content", sync=False)
    fs.replace(root / "tmp", root / "file")
    fs.fsync_dir(root)
    write(fs, root / "done", b"")
    fs.fsync_dir(root)


def without_directory_flush(root: Path, fs: FileSystem) -> None:
    """Forget to flush the name, and report success in another directory."""
    write(fs, root / "tmp", b"new content")
    fs.replace(root / "tmp", root / "file")
    fs.mkdir(root / "reports")
    write(fs, root / "reports" / "done", b"")
    fs.fsync_dir(root / "reports")
    fs.fsync_dir(root)


def in_place(root: Path, fs: FileSystem) -> None:
    """Remove the old file before the new one is there."""
    fs.unlink(root / "file")
    write(fs, root / "file", b"new content")
    fs.fsync_dir(root)


def check(root: Path) -> None:
    """Assert that the file is the old or the new one, and the new one if success was reported."""
    allowed = {b"new content"} if (root / "done").exists() else {b"old content", b"new content"}
    assert (root / "file").read_bytes() in allowed


def finished(root: Path) -> None:
    """Assert that the file is the new one."""
    assert (root / "file").read_bytes() == b"new content"


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A directory with a file that is about to be replaced."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "file").write_bytes(b"old content")
    return tmp_path / "start"


@pytest.mark.parametrize("mode", CRASH_MODES)
def test_safe_code_survives(start: Path, mode: CrashMode) -> None:
    """The store's way of writing passes every crash in every mode."""
    assert crash_everywhere(start, safe, check, finished, mode) == 9


@pytest.mark.parametrize(
    ("action", "mode"),
    [(without_flush, "lose"), (without_flush, "zero"), (in_place, "stop"), (in_place, "torn"), (in_place, "zero")],
)
def test_unsafe_code_does_not(start: Path, action: Callable[[Path, FileSystem], None], mode: CrashMode) -> None:
    """Code that forgets a flush or leaves a gap is found out."""
    with pytest.raises((AssertionError, FileNotFoundError)):
        crash_everywhere(start, action, check, finished, mode)


def test_a_forgotten_flush_of_a_directory_is_found(start: Path) -> None:
    """A name that was never flushed is lost, though a later one was kept."""

    def done_means_new(root: Path) -> None:
        if (root / "reports" / "done").exists():
            assert (root / "file").read_bytes() == b"new content"

    (start / "reports").mkdir()
    with pytest.raises(AssertionError):
        crash_everywhere(start, without_directory_flush, done_means_new, finished, "lose")


def test_a_forgotten_last_flush_is_found(start: Path) -> None:
    """What is not durable when the action returns is lost by the last crash."""

    def forgetful(root: Path, fs: FileSystem) -> None:
        write(fs, root / "tmp", b"new content")
        fs.replace(root / "tmp", root / "file")

    with pytest.raises(AssertionError):
        crash_everywhere(start, forgetful, check, finished, "lose")


@pytest.mark.parametrize("mode", CRASH_MODES)
def test_initialize_survives(start: Path, mode: CrashMode) -> None:
    """After a crash it can be repeated; when it has returned, the directories are durable."""

    def complete(root: Path) -> None:
        assert len(list((root / ".mvc").iterdir())) == 6

    def repeatable(root: Path) -> None:
        ObjectStore(root / ".mvc").initialize()
        complete(root)

    crash_everywhere(start, lambda root, fs: ObjectStore(root / ".mvc", fs).initialize(), repeatable, complete, mode)
