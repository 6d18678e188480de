"""Bytes that have arrived and are not trusted yet: temporary files that many threads fill."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from mvc.errors import MalformedError, MvcError
from mvc.store.fs import FileHandle, FileSystem
from mvc.store.layout import Buffer
from mvc.store.tmp import Draft, Temporaries

__all__ = ["Spool"]

_FILE: Final = 1 << 48
"""Places of one file: more bytes than any file has."""


class Spool:
    """Temporary files of which those that nobody has taken are removed at the end of a ``with`` block.

    Parameters
    ----------
    temporaries : Temporaries
        Where they are, and are swept.
    fs : FileSystem
        Where to read.
    """

    def __init__(self, temporaries: Temporaries, fs: FileSystem) -> None:
        self._temporaries = temporaries
        self._fs = fs
        self._files: list[_File] = []
        self._shared = self._begin()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files, but for those that were taken. May be repeated; nothing may be read any more."""
        self._closed = True
        while self._files:
            self._files.pop().close()

    def reserve(self, length: int, *, alone: bool = False) -> int:
        """Return a place where the next `length` bytes may go; in a file of their own, if they are to be `alone`."""
        number = self._begin() if alone else self._shared
        file = self._files[number]
        offset, file.size = file.size, file.size + length
        return number * _FILE + offset

    def put(self, data: Buffer, place: int) -> None:
        """Write bytes; may be called by many threads."""
        number, offset = divmod(place, _FILE)
        self._files[number].draft.place(data, offset)

    def read(self, place: int, length: int) -> memoryview:
        """Return bytes that were written; MalformedError if there are not so many."""
        assert not self._closed, "what was stored is read from there"
        number, offset = divmod(place, _FILE)
        data = self._fs.pread(self._files[number].reading, length, offset)
        if len(data) != length:
            raise MalformedError(f"{length - len(data):,} bytes at {offset:,} have not arrived")
        return memoryview(data)

    def take(self, place: int) -> Draft:
        """Return the file of what was reserved `alone`: the caller's from now on. `read` serves as before."""
        file = self._files[place // _FILE]
        file.taken = True
        return file.draft

    def _begin(self) -> int:
        self._files.append(_File(self._temporaries.draft(), self._fs))
        return len(self._files) - 1


class _File:
    """One of the files: written by one handle, and read by another, for whoever takes the file closes the first."""

    def __init__(self, draft: Draft, fs: FileSystem) -> None:
        self.draft = draft
        self.size = 0
        self.taken = False
        self._fs = fs
        try:
            self.reading: FileHandle = fs.open_read(draft.path)
        except MvcError:
            draft.discard()
            raise

    def close(self) -> None:
        """Let go of the file, and remove it unless somebody has taken it."""
        with suppress(MvcError):
            self._fs.close(self.reading)
        if not self.taken:
            self.draft.discard()
