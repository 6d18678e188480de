"""What one commit, repack or pull adds to the store: written by many threads, made durable together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, Self

from mvc.errors import (
    AlreadyExistsError,
    InvalidInputError,
    MalformedError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from mvc.store.fs import FileSystem
from mvc.store.handles import OpenFile
from mvc.store.layout import Buffer, EntryKind, Location
from mvc.store.loose import LooseBlobs
from mvc.store.packs import PackWriter, pack_path
from mvc.store.tmp import Draft, Temporaries
from mvc.types import ObjectId

__all__ = ["PACK_LIMIT", "Rehearsal", "WriteBatch"]

PACK_LIMIT: Final = 256 << 20
"""Bytes after which another pack is begun: an upload of a pack that fails is repeated from its start."""

_FLUSHERS: Final = 2
"""Threads that wait for the disk while others work: two, so that it has the next blob when it is done with one."""
_TRIES: Final = 2
"""Times that a blob asks for its name: what has it may be garbage that goes just then."""
_COMPARED_BYTES: Final = 8 << 20
"""Bytes of each of two files that are in memory while they are compared."""
_UNFLUSHED: Final = 8
"""Blobs that may wait to be flushed. Each is an open file."""


class WriteBatch:
    """Objects on their way into the store.

    Nothing that was put is sure to be found before `commit`; after it, everything is visible and durable. Without it
    (an error, a crash, `abort`) what became visible is garbage that nothing refers to. A batch in which a write failed
    cannot be used any more. The methods may be called by many threads, but `commit` and `abort` only after all others
    have returned. `stored_bytes` counts the loose blobs and packs finished so far.

    Parameters
    ----------
    loose : LooseBlobs
        Where loose blobs go.
    packs : Path
        The directory of packs.
    temporaries : Temporaries
        Where files are written first.
    fs : FileSystem
        Where to write.
    pack_limit : int
        Bytes after which another pack is begun.
    """

    def __init__(
        self, loose: LooseBlobs, packs: Path, temporaries: Temporaries, fs: FileSystem, pack_limit: int = PACK_LIMIT
    ) -> None:
        self._loose = loose
        self._packs = packs
        self._temporaries = temporaries
        self._fs = fs
        self._pack_limit = pack_limit
        self._lock = Lock()
        self._draft: Draft | None = None
        self._writer: PackWriter | None = None
        self._locations: dict[ObjectId, Location] = {}
        self._taken: set[ObjectId] = set()
        self._directories: set[Path] = set()
        self._relied_on: dict[Path, int | None] = {}
        self._flushers = ThreadPoolExecutor(_FLUSHERS, thread_name_prefix="mvc-flush")
        self._flush_error: BaseException | None = None
        self._flushing: deque[Future[None]] = deque()
        self._open = True
        self.stored_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.abort()

    def __contains__(self, oid: ObjectId) -> bool:
        """Whether `oid` has been put into this batch."""
        writer = self._writer
        return oid in self._locations or (writer is not None and oid in writer.entries)

    def put(self, kind: EntryKind, oid: ObjectId, body: Buffer | Sequence[Buffer]) -> bool:
        """Add an object to the pack of this batch; its body may come in pieces.

        Returns False, having done nothing, if the batch has it already.
        """
        with self._writing():
            if oid in self:
                return False
            writer = self._writer or self._begin_pack()
            writer.add(kind, oid, body)
            if writer.is_full(self._pack_limit):
                self._finish_pack()
            return True

    @contextmanager
    def loose(self, oid: ObjectId, *, replace: bool = False) -> Iterator[Draft]:
        """Write a loose blob in a ``with`` block: it is kept when the block ends, removed when the block raises.

        A blob that is stored already stays, unless `replace` says that it is known to be damaged: others may be reading
        it, and the new one may, through its base, depend on it. If another thread has put `oid` by then, this copy is
        dropped; ask ``oid in batch`` first to save the work. It is flushed, and gets its name, in the background.
        """
        draft = self._temporaries.draft()
        try:
            yield draft
        except BaseException:
            draft.discard()
            raise
        self.adopt(oid, draft, draft.size, replace=replace)

    def adopt(self, oid: ObjectId, draft: Draft, size: int, *, replace: bool = False) -> None:
        """Make a file that holds a blob of `size` bytes already a loose blob, as `loose` does; it is ours from now on.

        It is closed at any time: who still reads it has opened it himself.
        """
        try:
            accepted = self._accept(oid, size)
        except BaseException:
            draft.discard()
            raise
        if accepted:
            self._flush(draft, self._loose.path(oid), replace=replace)
        else:
            draft.discard()

    def _accept(self, oid: ObjectId, size: int) -> bool:
        """Note a loose blob, and return True if the batch did not have it yet."""
        with self._writing():
            if oid in self:
                return False
            self._locations[oid] = Location(None, 0, size)
            self.stored_bytes += size
            self._make_directory(self._loose.path(oid).parent)
            return True

    def _flush(self, draft: Draft, path: Path, *, replace: bool) -> None:
        """Have `draft` named in the background; wait for another one if too many are on their way."""
        with self._lock:
            self._flushing.append(self._flushers.submit(self._name, draft, path, replace=replace))
            oldest = self._flushing.popleft() if len(self._flushing) > _UNFLUSHED else None
        if oldest is not None:
            oldest.result()

    def _name(self, draft: Draft, path: Path, *, replace: bool) -> None:
        with draft:
            if not self._open:
                return  # it is in vain
            try:
                if replace:
                    draft.publish(path)
                else:
                    self._claim(draft, path)
            except BaseException as error:
                self._flush_error = error
                self._open = False
                raise

    def _claim(self, draft: Draft, path: Path) -> None:
        """Name a blob, unless one is there already: that is kept from being collected, and compared with this one."""
        for _ in range(_TRIES):
            try:
                return draft.claim(path)
            except AlreadyExistsError:
                with suppress(NotFoundError, ReadOnlyError):  # it has gone; or it is another user's, who may remove it
                    self._fs.touch(path)
                    if self._agree(draft.path, path):
                        return None
        self._taken.add(self._loose.id_of(path))
        return None

    def _agree(self, one: Path, other: Path) -> bool:
        """Return whether two files have the same bytes; False if one of them is gone, or cannot be read."""
        try:
            left, right = OpenFile(self._fs, one), OpenFile(self._fs, other)
            pieces = ((min(_COMPARED_BYTES, left.size - at), at) for at in range(0, left.size, _COMPARED_BYTES))
            return left.size == right.size and all(left.pread(*piece) == right.pread(*piece) for piece in pieces)
        except (NotFoundError, StorageError, MalformedError):
            return False

    def rely_on(self, oid: ObjectId, location: Location) -> bool:
        """Have the batch refer to an object that is stored already; return False if it must be put after all.

        Whoever stored it may not have made its name durable yet: `commit` does. Its file becomes young by name, so that
        whoever is about to remove it sees that it is wanted. False means that it is gone or cut short, or that it is
        another user's and may not be touched.
        """
        path = self._loose.path(oid) if location.pack is None else pack_path(self._packs, location.pack)
        size = self._protected(path)
        if size is None or size < location.offset + location.length:
            return False
        with self._lock:
            self._directories |= {path.parent, self._loose.directory} if location.is_loose else {path.parent}
        return True

    def _protected(self, path: Path) -> int | None:
        """Make a file young, once for all that it holds; return its size, or None if it cannot be relied on."""
        if path not in self._relied_on:
            try:
                self._fs.touch(path)
                self._relied_on[path] = self._fs.size(path)
            except (NotFoundError, ReadOnlyError):
                return None
        return self._relied_on[path]

    def commit(self) -> dict[ObjectId, Location]:
        """Make everything durable and visible; return where each object is.

        Contents have been flushed before they got their names; here the names are, each directory once. Of a loose blob
        that gave way to one with other bytes the length is 0: that may be another encoding, or damaged.
        """
        with self._writing():
            for flushed in self._flushing:
                flushed.result()
            if self._writer is not None:
                self._finish_pack()
            for directory in sorted(self._directories):
                self._fs.fsync_dir(directory)
            self._open = False
            return self._locations | dict.fromkeys(self._taken, Location(None, 0, 0))

    def abort(self) -> None:
        """Drop what is not visible yet; does nothing after `commit`."""
        self._open = False
        self._flushers.shutdown()
        draft, self._draft, self._writer = self._draft, None, None
        if draft is not None:
            draft.discard()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, self._failing():
            if not self._open:
                raise self._flush_error or InvalidInputError(
                    "the batch is over: it was committed or aborted, or a write failed"
                )
            yield

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Close the batch if the block raises: what the pack or a blob holds is then unknown."""
        try:
            yield
        except BaseException:
            self._open = False
            raise

    def _begin_pack(self) -> PackWriter:
        self._draft = self._temporaries.draft()
        self._writer = PackWriter(self._draft)
        return self._writer

    def _finish_pack(self) -> None:
        writer, draft = self._writer, self._draft
        assert writer is not None
        assert draft is not None
        pack = self._publish(writer, draft)
        for entry in writer.entries.values():
            self._locations[entry.oid] = Location(pack, entry.offset, entry.length)
        self.stored_bytes += writer.size
        self._draft = self._writer = None

    def _publish(self, writer: PackWriter, draft: Draft) -> ObjectId:  # noqa: ARG002 - for a batch that drops it
        self._directories.add(self._packs)
        return writer.publish(self._packs, self._temporaries)

    def _make_directory(self, directory: Path) -> None:
        """Create a fan-out directory; its own name is flushed too, since whoever created it may not have done so."""
        if directory not in self._directories:
            self._fs.mkdir(directory)
            self._directories |= {directory, directory.parent}


class Rehearsal(WriteBatch):
    """A batch that is weighed and thrown away: its `stored_bytes` are those of a batch that is kept."""

    def rely_on(self, oid: ObjectId, location: Location) -> bool:  # noqa: ARG002 - of the batch that this stands for
        """Say yes, and leave files as old as they are."""
        return True

    def _flush(self, draft: Draft, path: Path, *, replace: bool) -> None:  # noqa: ARG002 - nothing gets a name
        draft.discard()

    def _publish(self, writer: PackWriter, draft: Draft) -> ObjectId:
        pack = writer.finish()
        draft.discard()
        return pack

    def _make_directory(self, directory: Path) -> None:
        pass
