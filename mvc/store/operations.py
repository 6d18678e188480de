"""Operations: the files below ``.mvc/ops`` (spec-v1, section 9)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xxhash import xxh3_64_intdigest

from mvc.errors import IntegrityError, InvalidInputError, MalformedError
from mvc.objects.ids import OPERATION, digest
from mvc.store.checks import check_xxh3
from mvc.store.fs import FileSystem
from mvc.store.layout import MAX_METADATA_BYTES, U64
from mvc.store.loose import FANOUT, fanned_ids
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId

__all__ = ["OperationStore"]


class OperationStore:
    """Write-once map from id to the canonical bytes of an operation.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    fs : FileSystem
        Where to read and write.
    """

    def __init__(self, root: Path, fs: FileSystem) -> None:
        self.directory = root / "ops"
        self._fs = fs
        self._temporaries = Temporaries(root, fs)

    def path(self, oid: ObjectId) -> Path:
        """Return where the file of an operation is, or would be."""
        return self.directory / oid[:FANOUT] / oid

    def write(self, value: bytes) -> ObjectId:
        """Store the canonical bytes of an operation and return its id. Everything is durable on return."""
        if not 0 < len(value) <= MAX_METADATA_BYTES:
            raise InvalidInputError(f"an operation has {len(value):,} bytes; 1 to {MAX_METADATA_BYTES:,} can be stored")
        oid = digest(OPERATION, value)
        path = self.path(oid)
        self._fs.mkdir(path.parent)
        self._temporaries.durable_write(path, U64.pack(xxh3_64_intdigest(value)) + value)
        self._fs.fsync_dir(self.directory)  # the fan-out directory may be new, here or in another process
        return oid

    def read(self, oid: ObjectId) -> bytes:
        """Return the canonical bytes of an operation.

        Raises
        ------
        NotFoundError
            If there is no such operation.
        IntegrityError
            If the checksum or the id does not fit the bytes.
        """
        where = f"operation {oid[:12]}"
        data = memoryview(self._fs.read_file(self.path(oid), MAX_METADATA_BYTES + U64.size))
        if len(data) <= U64.size:
            raise MalformedError(
                f"{where}: has {len(data)} bytes; the shortest has {U64.size + 1}", hint="run mvc fsck"
            )
        value = data[U64.size :]
        check_xxh3(value, U64.unpack_from(data)[0], where)
        computed = digest(OPERATION, value)
        if computed != oid:
            raise IntegrityError(f"{where}: the bytes have id {computed}", hint="run mvc fsck")
        return bytes(value)

    def size(self, oid: ObjectId) -> int | None:
        """Return the stored bytes of an operation, or None if it is not there."""
        return self._fs.size(self.path(oid))

    def delete(self, oid: ObjectId) -> None:
        """Remove an operation; NotFoundError if there is none."""
        self._fs.unlink(self.path(oid))

    def ids(self) -> Iterator[ObjectId]:
        """Yield the ids of all operations, sorted; other files are ignored."""
        return fanned_ids(self._fs, self.directory)
