"""Loose blobs: one file per object, for large objects (spec-v1, section 8)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mvc.errors import InvalidInputError
from mvc.store.fs import FileSystem
from mvc.store.handles import OpenFile
from mvc.types import ObjectId, object_id

__all__ = ["FANOUT", "LooseBlobs", "fanned_ids"]

FANOUT: Final = 2
"""Digits of an id that name its directory: 256 directories keep 100,000 files at 400 a directory."""

_SUFFIX: Final = ".blob"


def fanned_ids(fs: FileSystem, directory: Path, suffix: str = "") -> Iterator[ObjectId]:
    """Yield the ids of the files ``<first digits>/<id><suffix>`` below `directory`, in order; skip all other names."""
    for prefix in sorted(fs.names(directory)):
        for name in sorted(fs.names(directory / prefix)) if len(prefix) == FANOUT else ():
            stem = name.removesuffix(suffix)
            if stem + suffix != name or not stem.startswith(prefix):
                continue
            try:
                yield object_id(stem)
            except InvalidInputError:
                continue


class LooseBlobs:
    """The files below ``.mvc/objects``.

    A blob may be replaced by another encoding of the same content at any time: a reader that has opened the old file
    keeps the old bytes.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    fs : FileSystem
        Where to read and write.
    """

    def __init__(self, root: Path, fs: FileSystem) -> None:
        self.directory = root / "objects"
        self._fs = fs

    def path(self, oid: ObjectId) -> Path:
        """Return where the blob of `oid` is, or would be."""
        return self.directory / oid[:FANOUT] / f"{oid}{_SUFFIX}"

    def id_of(self, path: Path) -> ObjectId:
        """Return the id of the blob that is, or would be, at `path`."""
        return object_id(path.name.removesuffix(_SUFFIX))

    def size(self, oid: ObjectId) -> int | None:
        """Return the bytes of the blob of `oid`, or None if there is none."""
        return self._fs.size(self.path(oid))

    def open(self, oid: ObjectId) -> OpenFile:
        """Open the blob; NotFoundError if there is none."""
        return OpenFile(self._fs, self.path(oid))

    def delete(self, oid: ObjectId) -> None:
        """Remove the blob; NotFoundError if there is none. Who has opened it can still read it."""
        self._fs.unlink(self.path(oid))

    def ids(self) -> Iterator[ObjectId]:
        """Yield the ids of all loose blobs, in order; other files are ignored."""
        return fanned_ids(self._fs, self.directory, _SUFFIX)
