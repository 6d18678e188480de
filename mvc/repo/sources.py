"""Where the bytes of a commit come from: files that may change while they are read, or tensors in memory."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from mvc.codecs import Bytes, Codec
from mvc.errors import ConflictError, DamagedFileError, NotFoundError, StorageError
from mvc.formats import FileMap, StateDictFile, locate
from mvc.formats.opaque import Opaque
from mvc.repo.worktree import Stamp

__all__ = ["BytesSource", "FileSource", "Read", "Source", "StateDictSource"]

_CHUNK: Final = 1 << 20
"""Bytes read at once where a whole file is: they stay inside the cache."""

Read = Callable[[int, Bytes], None]
"""Fills an array with the bytes at an offset of an opened source."""


class Source(ABC):
    """One file of a commit, readable at any place and any number of times, by any thread."""

    path: str
    mode: int

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of the file."""

    @abstractmethod
    def locate(self) -> FileMap:
        """Return where the tensors lie.

        Raises
        ------
        DamagedFileError
            If the file contradicts itself.
        """

    @abstractmethod
    def open(self) -> AbstractContextManager[Read]:
        """Yield a function that reads; ConflictError if the file is not the one that the tree was read from."""

    def codecs(self, offset: int) -> tuple[Codec, ...]:  # noqa: ARG002
        """Return codecs that are known to fit the tensor at `offset`, after it was read; by default none."""
        return ()

    def chunks(self) -> Iterator[memoryview]:
        """Yield the file in order, a piece at a time, each of which the next one overwrites."""
        spare = np.empty(min(self.size, _CHUNK), np.uint8)
        with self.open() as read:
            for start in range(0, self.size, _CHUNK):
                piece = spare[: min(_CHUNK, self.size - start)]
                read(start, piece)
                yield piece.data

    def read_all(self) -> bytes:
        """Return the whole file, which must be a small one."""
        whole = np.empty(self.size, np.uint8)
        with self.open() as read:
            read(0, whole)
        return whole.tobytes()


@dataclass(frozen=True)
class FileSource(Source):
    """A file on disk.

    It is read, not mapped, except to look at its headers: a mapped file that shrinks kills its reader.

    Parameters
    ----------
    file : Path
        The file.
    path : str
        Its path in the tree.
    mode : int
        ``0o644`` or ``0o755``.
    stamp : Stamp
        The file's stat when the tree was read. Any change since is refused.
    length : int
        Bytes, at the same time.
    opaque : bool
        Keep it as literal bytes if its format finds it damaged.
    """

    file: Path
    path: str
    mode: int
    stamp: Stamp
    length: int
    opaque: bool = False

    @property
    def size(self) -> int:
        """See `Source.size`."""
        return self.length

    def locate(self) -> FileMap:
        """See `Source.locate`."""
        try:
            with self._mapped() as view:
                return locate(self.path, view)
        except DamagedFileError:
            if self.opaque:
                return FileMap(Opaque.name, ())
            raise

    @contextmanager
    def _mapped(self) -> Iterator[memoryview]:
        if not self.size:  # an empty file cannot be mapped
            yield memoryview(b"")
            return
        with (
            self._descriptor() as fd,
            mmap.mmap(fd, self.size, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
        ):
            yield view

    @contextmanager
    def open(self) -> Iterator[Read]:
        """See `Source.open`."""
        with self._descriptor() as fd:
            yield lambda offset, out: self._read(fd, offset, out)

    @contextmanager
    def _descriptor(self) -> Iterator[int]:
        try:
            fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFoundError(f"{self.path} has gone while it was being committed") from None
        except OSError as error:
            raise StorageError(f"{self.file} cannot be read: {error.strerror}") from error
        try:
            self._check(fd)
            yield fd
            self._check(fd)
        finally:
            os.close(fd)

    def _check(self, fd: int) -> None:
        status = os.fstat(fd)
        if Stamp.of(status) != self.stamp or status.st_size != self.size:
            raise self.changed()

    def _read(self, fd: int, offset: int, out: Bytes) -> None:
        rest = out.data
        try:
            while rest.nbytes:
                count = os.preadv(fd, [rest], offset + out.nbytes - rest.nbytes)
                if not count:
                    raise self.changed()
                rest = rest[count:]
        except OSError as error:
            raise StorageError(f"{self.file} cannot be read: {error.strerror}") from error

    def changed(self) -> ConflictError:
        """Return the error for a file that is no longer what it was."""
        return ConflictError(
            f"{self.path} changed while it was being committed; nothing was recorded",
            hint="wait until the trainer has finished writing, then commit again",
        )


@dataclass(frozen=True)
class BytesSource(Source):
    """A small file in memory, without tensors.

    Parameters
    ----------
    path : str
        Path in the tree.
    content : bytes
        The file.
    """

    path: str
    content: bytes
    mode: int = 0o644

    @property
    def size(self) -> int:
        """See `Source.size`."""
        return len(self.content)

    def locate(self) -> FileMap:
        """See `Source.locate`."""
        return FileMap(Opaque.name, ())

    def open(self) -> AbstractContextManager[Read]:
        """See `Source.open`."""
        return nullcontext(self._read)

    def _read(self, offset: int, out: Bytes) -> None:
        out[:] = np.frombuffer(self.content, np.uint8)[offset : offset + out.nbytes]


@dataclass(frozen=True)
class StateDictSource(Source):
    """Tensors in memory, recorded as the safetensors file that they would be saved as.

    Parameters
    ----------
    path : str
        Path in the tree.
    content : StateDictFile
        Header and tensors.
    """

    path: str
    content: StateDictFile
    mode: int = 0o644

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.content.size

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(tensor.offset for tensor in self.content.tensors)]

    def locate(self) -> FileMap:
        """See `Source.locate`."""
        return self.content.file_map()

    def open(self) -> AbstractContextManager[Read]:
        """See `Source.open`."""
        return nullcontext(self._read)

    def _read(self, offset: int, out: Bytes) -> None:
        place = bisect_right(self._starts, offset) - 1
        data = memoryview(self.content.header) if place == 0 else self._tensor(place - 1)
        start = offset - self._starts[place]
        out[:] = np.frombuffer(data[start : start + out.nbytes], np.uint8)

    def _tensor(self, place: int) -> memoryview:
        """Return the bytes of a tensor, keeping the last one: it may be a copy from a device, and is read in parts."""
        kept = self._kept.get("tensor")
        if kept is None or kept[0] != place:
            kept = (place, self.content.tensors[place].data())
            self._kept["tensor"] = kept
        return kept[1]

    @cached_property
    def _kept(self) -> dict[str, tuple[int, memoryview]]:
        return {}
