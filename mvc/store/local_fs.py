"""`FileSystem` on the local machine: POSIX calls, their short counts completed and their errors translated."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mvc.errors import AlreadyExistsError, MalformedError, MvcError, NotFoundError, ReadOnlyError, StorageError
from mvc.store.fs import OBJECT_MODE, FileHandle, FileStatus, FileSystem
from mvc.store.layout import Buffer, byte_view

__all__ = ["LocalFileSystem", "translated"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_TRANSIENT: Final = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}
)
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV})
"""What link() answers on FAT, some FUSE and some network file systems."""
_NO_DIRECTORY_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})
"""What fsync() of a directory answers where directories cannot be flushed (CIFS); there is nothing else to call."""
_REMEDIES: Final = {
    errno.EACCES: "see who may read and write it: ls -ld",
    errno.EPERM: "see who may read and write it: ls -ld",
    errno.EROFS: "mount it for writing, or use another place",
    errno.EIO: "see what the system says of the disk: dmesg; and make a copy",
    errno.ESTALE: "mount the network file system again, then repeat the command",
    errno.ENAMETOOLONG: "use a place with a shorter path",
    errno.EMFILE: "allow more open files: ulimit -n",
}
_DIRECTORY_MODE: Final = 0o777
_INODE_MASK: Final = (1 << 63) - 1
"""Some network file systems number files with all 64 bits, and databases have a sign."""
_COPY_BYTES: Final = 8 << 20
"""Bytes of a file that are in memory at once when its link becomes a copy."""


def _error(error: OSError, action: str, path: Path, *, writing: bool) -> MvcError:
    reason = f"cannot {action} {path}: {error.strerror or error}"
    if error.errno in _FULL:
        return StorageError(f"cannot {action} {path}: the disk is full", hint="free some space", transient=True)
    if error.errno == errno.ENOENT:
        return NotFoundError(reason)
    if error.errno == errno.EEXIST:
        return AlreadyExistsError(reason)
    hint = _REMEDIES.get(error.errno or 0)
    if writing and error.errno in _FORBIDDEN:
        return ReadOnlyError(reason, hint=hint)
    return StorageError(reason, hint=hint, transient=error.errno in _TRANSIENT)


@contextmanager
def translated(action: str, path: Path, *, writing: bool = True) -> Iterator[None]:
    """Turn an OSError of the block into the error of `mvc.errors` that a handler can act on.

    >>> with translated("write", Path("x")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    mvc.errors.StorageError: cannot write x: the disk is full
    """
    try:
        yield
    except OSError as error:
        raise _error(error, action, path, writing=writing) from error


class LocalFileSystem(FileSystem):
    """Files of this machine and of what it has mounted.

    The protected methods are single system calls, apart from the rest so that a test can fail or shorten them.
    """

    def create(self, path: Path, mode: int = OBJECT_MODE) -> FileHandle:
        """See `FileSystem.create`."""
        with translated("create", path):
            return FileHandle(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))

    def write(self, handle: FileHandle, data: Buffer) -> None:
        """See `FileSystem.write`."""
        with translated("write", handle.path):
            rest = byte_view(data)
            while rest.nbytes:
                rest = rest[self._write(handle.fd, rest) :]

    def pwrite(self, handle: FileHandle, data: Buffer, offset: int) -> None:
        """See `FileSystem.pwrite`."""
        with translated("write", handle.path):
            rest = byte_view(data)
            while rest.nbytes:
                written = self._pwrite(handle.fd, rest, offset)
                rest, offset = rest[written:], offset + written

    def start_flush(self, handle: FileHandle, offset: int, length: int) -> None:
        """See `FileSystem.start_flush`. Linux begins to write pages of which it is told that nobody needs them."""
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(handle.fd, offset, length, os.POSIX_FADV_DONTNEED)

    def fsync(self, handle: FileHandle) -> None:
        """See `FileSystem.fsync`."""
        with translated("flush", handle.path):
            self._fsync(handle.fd)

    def close(self, handle: FileHandle) -> None:
        """See `FileSystem.close`."""
        with translated("close", handle.path):
            os.close(handle.fd)

    def replace(self, source: Path, target: Path) -> None:
        """See `FileSystem.replace`."""
        with translated("rename to", target):
            os.replace(source, target)  # noqa: PTH105 (one system call, like its neighbours)

    def link(self, source: Path, target: Path) -> None:
        """See `FileSystem.link`."""
        with translated("link", target):
            try:
                self._link(source, target)
            except FileExistsError:
                if not _same_file(source, target):  # the same file: NFS lost the reply, and the kernel asked again
                    raise
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._copy(source, target)

    def unlink(self, path: Path) -> None:
        """See `FileSystem.unlink`."""
        with translated("remove", path):
            path.unlink()

    def touch(self, path: Path) -> None:
        """See `FileSystem.touch`."""
        with translated("touch", path):
            os.utime(path)

    def mkdir(self, path: Path) -> None:
        """See `FileSystem.mkdir`."""
        with translated("create", path), suppress(FileExistsError):
            path.mkdir(_DIRECTORY_MODE)

    def fsync_dir(self, path: Path) -> None:
        """See `FileSystem.fsync_dir`."""
        with translated("flush", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._fsync(fd)
            except OSError as error:
                if error.errno not in _NO_DIRECTORY_SYNC:
                    raise
            finally:
                os.close(fd)

    def open_read(self, path: Path) -> FileHandle:
        """See `FileSystem.open_read`."""
        with translated("open", path, writing=False):
            return FileHandle(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def length(self, handle: FileHandle) -> int:
        """See `FileSystem.length`."""
        with translated("examine", handle.path, writing=False):
            return os.fstat(handle.fd).st_size

    def pread(self, handle: FileHandle, length: int, offset: int) -> bytes:
        """See `FileSystem.pread`."""
        with translated("read", handle.path, writing=False):
            data = self._pread(handle.fd, length, offset)
            while len(data) < length and (more := self._pread(handle.fd, length - len(data), offset + len(data))):
                data += more
            return data

    def read_file(self, path: Path, limit: int) -> bytes:
        """See `FileSystem.read_file`."""
        handle = self.open_read(path)
        try:
            with translated("read", path, writing=False):
                size = os.fstat(handle.fd).st_size
            if size > limit:
                raise MalformedError(f"{path} has {size:,} bytes; at most {limit:,} are allowed")
            return self.pread(handle, size, 0)
        finally:
            self.close(handle)

    def map_file(self, path: Path) -> memoryview:
        """See `FileSystem.map_file`."""
        handle = self.open_read(path)
        try:
            with translated("map", path, writing=False):
                if not os.fstat(handle.fd).st_size:
                    return memoryview(b"")  # mmap refuses empty files
                return memoryview(mmap.mmap(handle.fd, 0, access=mmap.ACCESS_READ))
        finally:
            self.close(handle)

    def names(self, directory: Path) -> list[str]:
        """See `FileSystem.names`."""
        with translated("list", directory, writing=False):
            try:
                return os.listdir(directory)  # noqa: PTH208 (names are all that is wanted)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def statuses(self, directory: Path) -> dict[str, FileStatus]:
        """See `FileSystem.statuses`."""
        with translated("list", directory, writing=False):
            try:
                with os.scandir(directory) as entries:
                    return dict(_file_statuses(entries))
            except (FileNotFoundError, NotADirectoryError):
                return {}

    def size(self, path: Path) -> int | None:
        """See `FileSystem.size`."""
        status = _status(path)
        return None if status is None else status.st_size

    def modified(self, path: Path) -> float | None:
        """See `FileSystem.modified`."""
        status = _status(path)
        return None if status is None else status.st_mtime

    def _write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

    def _pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def _pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def _fsync(self, fd: int) -> None:
        os.fsync(fd)

    def _link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def _copy(self, source: Path, target: Path) -> None:
        """Copy into a file created exclusively, and remove it again if the copy cannot be completed."""
        original = self.open_read(source)
        try:
            handle = self.create(target)
            try:
                for offset in range(0, self.length(original), _COPY_BYTES):
                    self.write(handle, self.pread(original, _COPY_BYTES, offset))
                self.fsync(handle)
            except MvcError:
                with suppress(MvcError):
                    self.unlink(target)
                raise
            finally:
                self.close(handle)
        finally:
            self.close(original)


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except FileNotFoundError:  # removed since
        return False


def _file_statuses(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, FileStatus]]:
    for entry in entries:
        with suppress(FileNotFoundError):  # removed since it was listed
            found = entry.stat()
            times = found.st_mtime_ns, found.st_ctime_ns
            yield entry.name, FileStatus(found.st_size, *times, found.st_ino & _INODE_MASK)


def _status(path: Path) -> os.stat_result | None:
    with translated("examine", path, writing=False):
        try:
            return path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
