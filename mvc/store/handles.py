"""Open files that are read again and again: a bounded number of them, shared by threads."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

from mvc.errors import MalformedError, MvcError
from mvc.store.fs import FileHandle, FileSystem

__all__ = ["HandleCache", "OpenFile"]

_LIMIT: Final = 64
"""Files open at once; the usual limit of a process is 1,024, and a trainer needs most of it."""


class OpenFile:
    """A file that is closed when its last user lets go of it, so that no thread reads from a descriptor used anew."""

    __slots__ = ("_fs", "handle", "size")

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs = fs
        self.handle: FileHandle = fs.open_read(path)
        self.size = fs.length(self.handle)

    def pread(self, length: int, offset: int) -> bytes:
        """Return `length` bytes at `offset`; MalformedError, before memory is taken, if the file ends before that."""
        if not 0 <= offset <= offset + length <= self.size:
            raise MalformedError(
                f"{self.handle.path} has {self.size:,} bytes; {length:,} at {offset:,} were asked for",
                hint="run mvc fsck",
            )
        return self._fs.pread(self.handle, length, offset)

    def __del__(self) -> None:
        if hasattr(self, "handle"):  # not if opening failed
            with suppress(MvcError):
                self._fs.close(self.handle)


class HandleCache:
    """Read ranges of files, keeping the most recently used ones open.

    Parameters
    ----------
    fs : FileSystem
        Where to read.
    limit : int
        Files kept open.
    """

    def __init__(self, fs: FileSystem, limit: int = _LIMIT) -> None:
        self._fs = fs
        self._limit = limit
        self._lock = Lock()
        self._open: OrderedDict[Path, OpenFile] = OrderedDict()

    def pread(self, path: Path, length: int, offset: int) -> bytes:
        """Return `length` bytes of the file at `offset`.

        Raises
        ------
        NotFoundError
            If there is no such file.
        MalformedError
            If the file ends before that. It is raised before memory is asked for.
        """
        return self.open(path).pread(length, offset)

    def open(self, path: Path) -> OpenFile:
        """Return a file, open as long as the result is used; NotFoundError if there is none."""
        with self._lock:
            shared = self._open.get(path)
            if shared is None:
                shared = self._open[path] = OpenFile(self._fs, path)
            self._open.move_to_end(path)
            if len(self._open) > self._limit:
                self._open.popitem(last=False)
            return shared

    def drop(self, path: Path) -> None:
        """Forget a file, because it was removed or replaced."""
        with self._lock:
            self._open.pop(path, None)

    def clear(self) -> None:
        """Close all files that no thread is reading just now."""
        with self._lock:
            self._open.clear()
