"""Bytes that have arrived and are not trusted yet: one temporary file that many threads fill."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mvc.errors import MalformedError, MvcError, NotFoundError
from mvc.store.fs import FileSystem
from mvc.store.layout import Buffer

__all__ = ["Spool"]


class Spool:
    """A temporary file of `directory`, removed at the end of a ``with`` block.

    Parameters
    ----------
    directory : Path
        Where temporaries are, and are swept.
    fs : FileSystem
        Where to write.
    """

    def __init__(self, directory: Path, fs: FileSystem) -> None:
        self._fs = fs
        self.path = directory / f"{os.getpid()}-{os.urandom(8).hex()}.tmp"
        try:
            self._handle = fs.create(self.path)
        except NotFoundError:
            fs.mkdir(directory)
            self._handle = fs.create(self.path)
        self.size = 0
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file. May be repeated; nothing may be read any more."""
        if self._closed:
            return
        self._closed = True
        with suppress(MvcError):
            self._fs.close(self._handle)
        with suppress(MvcError):
            self._fs.unlink(self.path)

    def reserve(self, length: int) -> int:
        """Return where the next `length` bytes may go."""
        offset, self.size = self.size, self.size + length
        return offset

    def put(self, data: Buffer, offset: int) -> None:
        """Write bytes; may be called by many threads."""
        self._fs.pwrite(self._handle, data, offset)

    def read(self, offset: int, length: int) -> memoryview:
        """Return bytes that were written; MalformedError if there are not so many."""
        assert not self._closed, "what was stored is read from there"
        data = self._fs.pread(self._handle, length, offset)
        if len(data) != length:
            raise MalformedError(f"{length - len(data):,} bytes at {offset:,} have not arrived")
        return memoryview(data)
