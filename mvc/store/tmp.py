"""Files that are being written: they live in ``.mvc/tmp`` until they are complete and durable, then get their name."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mvc.errors import MvcError, NotFoundError
from mvc.store.fs import Appender, FileSystem
from mvc.store.layout import Buffer

__all__ = ["Draft", "Temporaries"]

_SUFFIX: Final = ".tmp"
_RANDOM_BYTES: Final = 8
"""Process ids repeat across machines that share a file system; 64 random bits do not."""


class Draft:
    """A temporary file that becomes visible, whole, under another name, or disappears.

    Leaving the ``with`` block without `publish` or `claim` removes it.
    """

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs = fs
        self._handle = fs.create(path)
        self._open = True
        self._exists = True
        self._appender = Appender(fs, self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.discard()

    @property
    def path(self) -> Path:
        """Where the temporary is."""
        return self._handle.path

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._appender.size

    def write(self, data: Buffer) -> None:
        """Append `data`."""
        self._appender.write(data)

    def patch(self, data: Buffer, offset: int) -> None:
        """Overwrite bytes that were written before, such as a header reserved at the beginning."""
        assert offset + memoryview(data).nbytes <= self.size, "a patch stays inside what was written"
        self._fs.pwrite(self._handle, data, offset)

    def place(self, data: Buffer, offset: int) -> None:
        """Write bytes anywhere, for a file that is filled in no order and not by `write`; by many threads at once."""
        self._fs.pwrite(self._handle, data, offset)

    def publish(self, target: Path) -> None:
        """Make the content durable, then give it the name `target`, replacing a file of that name.

        The name is durable only after an fsync of its directory, which is left to the caller: one for many files.
        """
        self.settle()
        self._fs.replace(self._handle.path, target)
        self._exists = False

    def claim(self, target: Path) -> None:
        """Make the content durable, then take the name `target` unless it is taken (AlreadyExistsError)."""
        self.settle()
        self._fs.link(self._handle.path, target)

    def discard(self) -> None:
        """Close and remove the temporary, if it still is one. Failing to is no error: `Temporaries.sweep` will."""
        with suppress(MvcError):
            self.close()
        if self._exists:
            self._exists = False
            with suppress(MvcError):
                self._fs.unlink(self._handle.path)

    def settle(self) -> None:
        """Make the content durable and close the file, for one that is to get its name much later. May be repeated."""
        if self._open:
            self._fs.fsync(self._handle)
            self.close()

    def close(self) -> None:
        """Close the file, of which nothing more is to be made than to read it again. May be repeated."""
        if self._open:
            self._open = False
            self._fs.close(self._handle)


class Temporaries:
    """The directory of temporaries of one repository.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory. Its ``tmp`` must be on the same file system as what is published.
    fs : FileSystem
        Where to write.
    """

    def __init__(self, root: Path, fs: FileSystem) -> None:
        self._directory = root / "tmp"
        self._fs = fs

    def draft(self) -> Draft:
        """Start a new file; its name holds the process id, to tell whose it is, and random bits, to be its own."""
        path = self._directory / f"{os.getpid()}-{os.urandom(_RANDOM_BYTES).hex()}{_SUFFIX}"
        try:
            return Draft(self._fs, path)
        except NotFoundError:  # copies made by rsync or S3 clients lack empty directories
            self._fs.mkdir(self._directory)
            return Draft(self._fs, path)

    def write(self, target: Path, data: Buffer) -> None:
        """Make `data` the content of the file `target`, durable but for the fsync of its directory."""
        with self.draft() as draft:
            draft.write(data)
            draft.publish(target)

    def durable_write(self, target: Path, data: Buffer) -> None:
        """Make `data` the content of the file `target`, durably: readers see the old content or the new."""
        self.write(target, data)
        self._fs.fsync_dir(target.parent)

    def sweep(self, older_than_seconds: float) -> int:
        """Remove what dead processes left behind; return how many files went.

        Only age is looked at: process ids mean nothing on a file system shared by machines. A file that is being
        written stays young, so the age only has to exceed the longest pause between two writes of a live writer.
        """
        limit = time.time() - older_than_seconds
        removed = 0
        for name in self._fs.names(self._directory):
            path = self._directory / name
            modified = self._fs.modified(path)
            if name.endswith(_SUFFIX) and modified is not None and modified < limit:
                with suppress(MvcError):
                    self._fs.unlink(path)
                    removed += 1
        return removed
