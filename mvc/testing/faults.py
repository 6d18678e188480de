"""Disks that fail to order: full from the n-th call on, or with one error at the n-th; or that others use meanwhile."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Final, Self

from sqlalchemy.exc import OperationalError

from mvc.store.fs import OBJECT_MODE, FileHandle
from mvc.store.local_fs import LocalFileSystem, translated
from mvc.testing.index_commits import watched

__all__ = ["FailingFileSystem", "InterruptedFileSystem"]

_NEEDS_NO_SPACE: Final = frozenset({"unlink", "touch", "flush of a directory"})
"""Calls that a full disk lets through."""
_SQLITE: Final = {errno.ENOSPC: "database or disk is full", errno.EIO: "disk I/O error"}
"""What SQLite says when its own writes meet these errors."""


class FailingFileSystem(LocalFileSystem):
    """A local file system of which some system call that changes the disk fails.

    In a ``with`` block, commits of SQLite count and fail as well.

    Parameters
    ----------
    calls : int
        Calls that succeed before: those of `create`, `write`, `pwrite`, `fsync`, `replace`, `link`, `unlink`, `touch`,
        `mkdir` and `fsync_dir`, those left out that cannot fail with `error`.
    error : int
        What the call fails with. With ENOSPC all calls fail from then on that need space, since a full disk stays full;
        with any other error only the one.
    """

    def __init__(self, calls: int, error: int) -> None:
        self.failed: str | None = None
        """What the first call to fail was; None as long as none did."""
        self._calls = calls
        self._error = error
        self._lock = Lock()
        self._block = ExitStack()

    def __enter__(self) -> Self:
        self._block.enter_context(watched(self._commit_index))
        return self

    def __exit__(self, *_: object) -> None:
        self._block.close()

    def create(self, path: Path, mode: int = OBJECT_MODE) -> FileHandle:
        """Create a file, or fail."""
        with translated("create", path):
            self._count("create")
        return super().create(path, mode)

    def fsync(self, handle: FileHandle) -> None:
        """Flush a file, or fail."""
        with translated("flush", handle.path):
            self._count("fsync")
        super().fsync(handle)

    def replace(self, source: Path, target: Path) -> None:
        """Rename, or fail."""
        with translated("rename to", target):
            self._count("replace")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file, or fail."""
        with translated("remove", path):
            self._count("unlink")
        super().unlink(path)

    def touch(self, path: Path) -> None:
        """Touch a file, or fail."""
        with translated("touch", path):
            self._count("touch")
        super().touch(path)

    def mkdir(self, path: Path) -> None:
        """Create a directory, or fail."""
        with translated("create", path):
            self._count("mkdir")
        super().mkdir(path)

    def fsync_dir(self, path: Path) -> None:
        """Flush a directory, or fail."""
        with translated("flush", path):
            self._count("flush of a directory")
        super().fsync_dir(path)

    def _write(self, fd: int, data: memoryview) -> int:
        self._count("write")
        return super()._write(fd, data)

    def _pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self._count("pwrite")
        return super()._pwrite(fd, data, offset)

    def _link(self, source: Path, target: Path) -> None:
        self._count("link")
        super()._link(source, target)

    def _commit_index(self, _: Path) -> None:
        try:
            self._count("index")
        except OSError as error:
            raise OperationalError("COMMIT", None, sqlite3.OperationalError(_SQLITE[self._error])) from error

    def _count(self, call: str) -> None:
        """Let a call through, or raise its OSError."""
        full = self._error == errno.ENOSPC
        if full and call in _NEEDS_NO_SPACE:
            return
        with self._lock:
            self._calls -= 1
            if self._calls >= 0 or (self.failed and not full):
                return
            self.failed = self.failed or call
        raise OSError(self._error, os.strerror(self._error))


class InterruptedFileSystem(LocalFileSystem):
    """A file system on which something happens just before, or just after, the first file is condemned.

    Parameters
    ----------
    before, after : callable, optional
        What happens, once.
    """

    def __init__(
        self, *, before: Callable[[], object] | None = None, after: Callable[[], object] | None = None
    ) -> None:
        self.before, self.after = before, after

    def replace(self, source: Path, target: Path) -> None:
        """Let the others act."""
        hit = target.name.endswith(".condemned")
        if hit and self.before:
            action, self.before = self.before, None
            action()
        super().replace(source, target)
        if hit and self.after:
            action, self.after = self.after, None
            action()
