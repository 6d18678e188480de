"""The seam between the store and the disk: every operation that changes the disk is one method here.

Nothing else in `mvc.store` calls the operating system to write, so a test that subclasses an implementation sees every
step, can stop at each of them, and can say afterwards what a power failure would have left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from mvc.store.layout import Buffer

__all__ = ["OBJECT_MODE", "Appender", "FileHandle", "FileStatus", "FileSystem", "Placer"]

OBJECT_MODE: Final = 0o444
"""Permissions of a new file before the umask: objects are never changed in place, not even by an editor."""

_FLUSHED_BYTES: Final = 32 << 20
"""Bytes after which the system is told to begin writing: it would otherwise wait for seconds or gigabytes, and the disk
would idle until the `fsync`. Much smaller steps wait for the disk each time."""


@dataclass(frozen=True, slots=True)
class FileHandle:
    """An open file: its descriptor, and the path that error messages name."""

    path: Path
    fd: int


class FileStatus(NamedTuple):
    """What the system says of a file without reading it. Equal ones mean an unchanged file, unless somebody cheats.

    `size` in bytes; `mtime_ns` and `ctime_ns`, the times of the last change of the content and of anything, in
    nanoseconds; `inode`, so that a replaced file is noticed.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class FileSystem(ABC):
    """Operations on files and directories; errors are those of `mvc.errors`, each naming the path.

    A full disk is a `StorageError` with ``transient`` set, a missing permission to write a `ReadOnlyError`, a file that
    is not there a `NotFoundError`, every other refusal of the system a `StorageError`.
    All methods may be called by many threads at once.
    """

    # Operations that change the disk.

    @abstractmethod
    def create(self, path: Path, mode: int = OBJECT_MODE) -> FileHandle:
        """Create a file that must not exist and open it for writing; AlreadyExistsError if it does."""

    @abstractmethod
    def write(self, handle: FileHandle, data: Buffer) -> None:
        """Append all of `data`; on an error any part of it may have been written."""

    @abstractmethod
    def pwrite(self, handle: FileHandle, data: Buffer, offset: int) -> None:
        """Write all of `data` at `offset`, without moving the end that `write` appends to."""

    @abstractmethod
    def start_flush(self, handle: FileHandle, offset: int, length: int) -> None:
        """Have the system begin to bring a part of the file to the medium, and return at once.

        It promises nothing and never fails; but the `fsync` that follows has less to wait for.
        """

    @abstractmethod
    def fsync(self, handle: FileHandle) -> None:
        """Return when the content of the file is on the medium.

        After an error nothing may be assumed of what was written before, and a second try would prove nothing: the
        kernel may have dropped the pages. Give the file up.
        """

    @abstractmethod
    def close(self, handle: FileHandle) -> None:
        """Close the file; its content is durable only if `fsync` came before."""

    @abstractmethod
    def replace(self, source: Path, target: Path) -> None:
        """Rename atomically; a file at `target` is replaced."""

    @abstractmethod
    def link(self, source: Path, target: Path) -> None:
        """Give the file a second name, atomically; AlreadyExistsError if the name is taken.

        Where the file system has no hard links, the content is copied into a file created exclusively: still one
        winner, but a reader may see the copy before it is complete.
        """

    @abstractmethod
    def unlink(self, path: Path) -> None:
        """Remove a file; NotFoundError if there is none."""

    @abstractmethod
    def touch(self, path: Path) -> None:
        """Set the time of the last change of a file to now; NotFoundError if there is none."""

    @abstractmethod
    def mkdir(self, path: Path) -> None:
        """Create a directory inside an existing one, unless it exists."""

    @abstractmethod
    def fsync_dir(self, path: Path) -> None:
        """Return when the names in the directory are on the medium."""

    # Operations that read.

    @abstractmethod
    def open_read(self, path: Path) -> FileHandle:
        """Open an existing file for `pread`."""

    @abstractmethod
    def length(self, handle: FileHandle) -> int:
        """Return the bytes of an open file, whatever has become of its name."""

    @abstractmethod
    def pread(self, handle: FileHandle, length: int, offset: int) -> bytes:
        """Return `length` bytes at `offset`, fewer only at the end of the file."""

    @abstractmethod
    def read_file(self, path: Path, limit: int) -> bytes:
        """Return the whole file; MalformedError, before anything is read, if it has more than `limit` bytes."""

    @abstractmethod
    def map_file(self, path: Path) -> memoryview:
        """Return the content as a read-only view of the page cache.

        Only for files that are never changed in place: the process is killed if a mapped file shrinks. The mapping
        ends with the last view of it.
        """

    @abstractmethod
    def names(self, directory: Path) -> list[str]:
        """Return the names in a directory, in no order; none if there is no such directory."""

    @abstractmethod
    def statuses(self, directory: Path) -> dict[str, FileStatus]:
        """Return what is in a directory by name, in no order; nothing if there is no such directory.

        What is removed while this looks may be left out.
        """

    @abstractmethod
    def size(self, path: Path) -> int | None:
        """Return the bytes of a file, or None if there is none."""

    @abstractmethod
    def modified(self, path: Path) -> float | None:
        """Return when a file was last written, in seconds of the system's clock, or None if there is none."""


class Appender:
    """Write a long file from its beginning while the disk is already busy with what was written before.

    Parameters
    ----------
    fs : FileSystem
        Where to write.
    handle : FileHandle
        A file that is empty.
    """

    def __init__(self, fs: FileSystem, handle: FileHandle) -> None:
        self._fs = fs
        self._handle = handle
        self._flush = _EarlyFlush(fs, handle)
        self.size = 0

    def write(self, data: Buffer) -> None:
        """Append all of `data`; errors as of `FileSystem.write`."""
        self._fs.write(self._handle, data)
        self.size += memoryview(data).nbytes
        self._flush.reach(self.size)


class Placer:
    """Write a long file in pieces, by many threads, while the disk is already busy with what was written before.

    Parameters
    ----------
    fs : FileSystem
        Where to write.
    handle : FileHandle
        A file that is empty.
    """

    def __init__(self, fs: FileSystem, handle: FileHandle) -> None:
        self._fs = fs
        self._handle = handle
        self._flush = _EarlyFlush(fs, handle)
        self._settled = 0

    def put(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`; errors as of `FileSystem.pwrite`."""
        self._fs.pwrite(self._handle, data, offset)

    def advance(self, count: int) -> None:
        """Say that `count` more bytes from the beginning of the file on have been put. Not for many threads at once."""
        self._settled += count
        self._flush.reach(self._settled)


class _EarlyFlush:
    """Has the system write a file that grows, some at a time."""

    def __init__(self, fs: FileSystem, handle: FileHandle) -> None:
        self._fs = fs
        self._handle = handle
        self._flushed = 0

    def reach(self, size: int) -> None:
        """Start flushing what was written since the last time, if it is much; `size` is how far the file is whole."""
        if size - self._flushed >= _FLUSHED_BYTES:
            self._fs.start_flush(self._handle, self._flushed, size - self._flushed)
            self._flushed = size
