"""Contents that are stored already, read back as what is to be encoded in another way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mvc.codecs import Bytes
from mvc.formats import FileMap
from mvc.formats.opaque import Opaque
from mvc.objects.manifest import SegmentKind
from mvc.repo.materialize import ContentReader
from mvc.repo.scan import Content
from mvc.repo.sources import Read, Source
from mvc.types import ObjectId, TensorSpec

__all__ = ["StoredSource", "stored_content"]


@dataclass(frozen=True)
class StoredSource(Source):
    """One content as a file without tensors.

    Parameters
    ----------
    reader : ContentReader
        Decodes it.
    id : ObjectId
        The content.
    spec : TensorSpec
        Of it.
    """

    reader: ContentReader
    id: ObjectId
    spec: TensorSpec
    mode: int = 0o644

    @property
    def path(self) -> str:  # type: ignore[override]  # not a path of a tree, but what messages name
        """What messages call it."""
        return f"content {self.id[:12]}"

    @property
    def size(self) -> int:
        """See `Source.size`."""
        return self.spec.nbytes

    def locate(self) -> FileMap:
        """See `Source.locate`: no part of a content is a content."""
        return FileMap(Opaque.name, ())

    @contextmanager
    def open(self) -> Iterator[Read]:
        """See `Source.open`."""
        yield self._read

    def _read(self, offset: int, out: Bytes) -> None:
        width = self.spec.dtype.word_bytes
        out[:] = self.reader.words(self.id, offset // width, out.nbytes // width)


def stored_content(reader: ContentReader, kind: SegmentKind, oid: ObjectId) -> Content:
    """Return a stored content as one to be encoded.

    Raises
    ------
    IntegrityError
        If its blob is missing or corrupt.
    """
    spec = reader.open(oid).envelope.spec
    return Content(kind, oid, spec, StoredSource(reader, oid, spec), 0, ())
