"""Blobs that are written, but not yet part of the store: they are looked at first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from mvc.store.layout import Buffer, EntryKind, Location
from mvc.store.object_store import ObjectStore
from mvc.store.tmp import Draft
from mvc.types import ObjectId

__all__ = ["Staging"]


class Staging:
    """New encodings of stored contents, as temporaries, until `publish`. What is not published goes with the block.

    Parameters
    ----------
    store : ObjectStore
        Where they will belong.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._loose: dict[ObjectId, Draft] = {}
        self._small: dict[ObjectId, tuple[EntryKind, Draft]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for draft in (*self._loose.values(), *(draft for _, draft in self._small.values())):
            draft.discard()

    def put(self, kind: EntryKind, oid: ObjectId, body: Buffer | Sequence[Buffer]) -> bool:
        """Take a small blob; see `BlobSink`."""
        draft = self._store.temporaries.draft()
        self._small[oid] = kind, draft
        for piece in [body] if isinstance(body, Buffer) else body:
            draft.write(piece)
        draft.close()
        return True

    @contextmanager
    def loose(self, oid: ObjectId, *, replace: bool = False) -> Iterator[Draft]:  # noqa: ARG002 - see `BlobSink`
        """Yield a file for a large blob; see `BlobSink`."""
        draft = self._loose[oid] = self._store.temporaries.draft()
        yield draft
        draft.settle()

    def publish(self, levels: Sequence[Sequence[ObjectId]]) -> Mapping[ObjectId, Location]:
        """Make the blobs of `levels` part of the store; return where each is.

        A level is durable before the next one begins, so that whatever a crash leaves of the names, no blob is there
        without those that it needs. Loose blobs that are replaced stay as condemned files.

        Parameters
        ----------
        levels : sequence of sequence of ObjectId
            What is needed by others before those.
        """
        found: dict[ObjectId, Location] = {}
        for level in levels:
            directories = {self._name(oid) for oid in level if oid in self._loose}
            with self._store.begin() as batch:
                for oid in level:
                    if oid in self._small:
                        kind, draft = self._small[oid]
                        batch.put(kind, oid, self._store.fs.read_file(draft.path, draft.size))
                found |= batch.commit()
            for directory in sorted(directories | {item.parent for item in directories}):
                self._store.fs.fsync_dir(directory)
            found |= {oid: Location(None, 0, self._loose[oid].size) for oid in level if oid in self._loose}
        return found

    def _name(self, oid: ObjectId) -> Path:
        """Put a loose blob in its place; return the directory whose names have changed."""
        path = self._store.loose.path(oid)
        self._store.fs.mkdir(path.parent)
        self._store.evictions.keep(path)
        self._loose[oid].publish(path)
        return path.parent

    def drop_replaced(self) -> None:
        """Remove what published loose blobs have replaced."""
        for oid in self._loose:
            self._store.evictions.remove(self._store.loose.path(oid))

    def bring_back(self) -> None:
        """Put what loose blobs have replaced in their places again."""
        for oid in self._loose:
            self._store.evictions.bring_back(self._store.loose.path(oid))
