"""From sources to entries of a manifest: where each tensor lies, and the id of every segment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_128

from mvc.codecs import Bytes
from mvc.formats import LiteralPiece, Piece, TensorRegion, segments
from mvc.objects.ids import Hasher, content_hasher, finish, tensor_hasher
from mvc.objects.manifest import Segment, SegmentKind, TensorEntry
from mvc.repo.progress import Tick
from mvc.repo.sources import Read, Source
from mvc.types import ObjectId, TensorSpec, View, dtype_of

__all__ = ["Content", "NamedTensor", "ScannedFile", "scan"]

_CHUNK: Final = 4 << 20
"""Bytes read at once while hashing: enough for BLAKE3's full speed, and still inside the cache."""


@dataclass(frozen=True, slots=True)
class Content:
    """A segment that may have to be stored, and where to read it.

    Parameters
    ----------
    kind : SegmentKind
        Literal or tensor.
    id : ObjectId
        Content id.
    spec : TensorSpec
        Of the tensor; ``U8`` of one dimension for a literal.
    source : Source
        The file.
    offset : int
        First byte in it.
    names : tuple of str
        Names of the tensor; empty for a literal.
    damaged : bool
        True if it is stored, but what is stored is known to be incomplete.
    """

    kind: SegmentKind
    id: ObjectId
    spec: TensorSpec
    source: Source
    offset: int
    names: tuple[str, ...]
    damaged: bool = False

    def hasher(self) -> Hasher:
        """Return the running hash whose digest must be `id`."""
        return content_hasher(self.spec if self.kind == "tensor" else None)

    def read(self, read: Read, start: int, words: int) -> Bytes:
        """Return the bytes of `words` words from word `start`."""
        width = self.spec.dtype.word_bytes
        return read(self.offset + start * width, words * width)


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A logical tensor of a file, before the file has its place in a manifest.

    Parameters
    ----------
    name, id, spec, view
        As for `TensorEntry`.
    """

    name: str
    id: ObjectId
    spec: TensorSpec
    view: View | None

    def entry(self, file: int) -> TensorEntry:
        """Return the manifest's entry, for a file of index `file`."""
        return TensorEntry(self.name, file, self.id, self.spec, self.view)


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """What a commit records of one file.

    Parameters
    ----------
    path, mode, format
        As for `FileEntry`.
    segments : tuple of Segment
        Covering the file.
    tensors : tuple of NamedTensor
        Every name in the file.
    contents : tuple of Content
        The segments again, with where to read them; empty if they are known to be stored.
    checksum : bytes or None
        XXH3-128 of the file, for the dirty check.
    """

    path: str
    mode: int
    format: str
    segments: tuple[Segment, ...]
    tensors: tuple[NamedTensor, ...]
    contents: tuple[Content, ...]
    checksum: bytes | None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(segment.length for segment in self.segments)


def scan(source: Source, tick: Tick) -> ScannedFile:
    """Locate and hash the segments of a file. Reads it once, in order; writes nothing.

    Parameters
    ----------
    source : Source
        The file.
    tick : callable
        Told how many bytes were read.

    Raises
    ------
    DamagedFileError
        If the file contradicts itself.
    ConflictError
        If it changed since the tree was read.
    """
    found = source.locate()
    whole, contents = xxh3_128(), []
    with source.open() as read:
        for piece in segments(found, source.size):
            kind, spec, names = _describe(piece)
            running = content_hasher(spec if kind == "tensor" else None)
            for chunk in _chunks(read, piece):
                running.update(chunk)
                whole.update(chunk)
                tick(chunk.nbytes)
            contents.append(Content(kind, finish(running), spec, source, piece.offset, names))
    ids = {content.offset: content.id for content in contents if content.kind == "tensor"}
    tensors = tuple(
        NamedTensor(name.name, _region_id(region, ids), name.spec, name.view)
        for region in found.regions
        for name in region.names
    )
    return ScannedFile(
        source.path,
        source.mode,
        found.format,
        tuple(Segment(content.kind, content.id, content.spec.nbytes) for content in contents),
        tensors,
        tuple(contents),
        whole.digest(),
    )


def _region_id(region: TensorRegion, ids: Mapping[int, ObjectId]) -> ObjectId:
    """Return the id of a region; an empty tensor has no segment, and its id is that of no bytes."""
    return ids[region.offset] if region.spec.nbytes else finish(tensor_hasher(region.spec))


def _describe(piece: Piece) -> tuple[SegmentKind, TensorSpec, tuple[str, ...]]:
    if isinstance(piece, LiteralPiece):
        return "literal", TensorSpec(dtype_of("U8"), (piece.length,)), ()
    return "tensor", piece.region.spec, tuple(name.name for name in piece.region.names)


def _chunks(read: Read, piece: Piece) -> Iterator[memoryview]:
    for start in range(0, piece.length, _CHUNK):
        yield read(piece.offset + start, min(_CHUNK, piece.length - start)).data
