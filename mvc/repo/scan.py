"""From sources to entries of a manifest: where each tensor lies, and the id of every segment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Final

import numpy as np

from mvc.codecs import Bytes, Codec
from mvc.formats import FileMap, LiteralPiece, Piece, TensorRegion, segments
from mvc.objects.ids import Hasher, content_hasher, finish, tensor_hasher
from mvc.objects.manifest import Segment, SegmentKind, TensorEntry
from mvc.repo.parallel import ordered_map
from mvc.repo.sources import Read, Source
from mvc.types import ObjectId, TensorSpec, View, dtype_of

__all__ = ["HELD_BYTES", "Content", "NamedTensor", "Reading", "ScannedFile", "scan"]

HELD_BYTES: Final = 112 << 20
"""Largest content that stays in memory between hashing and encoding, so that it is read and hashed once. Four of them
are on their way at most. The largest matrix of most models of 8 billion parameters has just this size in bf16."""
_AHEAD_BYTES: Final = 16 << 20
"""Bytes hashed and held ahead of the consumer, or one content if that is larger."""
_SCAN_BYTES: Final = 256 << 20
"""Bytes whose hashing is begun ahead of the consumer where none are held: enough that no thread waits for another."""
_RUN_BYTES: Final = 1 << 20
"""Neighbouring small contents are hashed in one go up to this size: a hand-over between threads costs as much as
hashing 100 KB."""
_CHUNK: Final = 1 << 20
"""Bytes read and hashed at once: enough for BLAKE3's full speed, and still inside the cache."""
_SHARED_CHUNK: Final = 16 << 20
"""The same for contents so large that several threads hash each chunk: as much as keeps them all busy."""


@dataclass(frozen=True, slots=True, eq=False)
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
    held : Bytes, optional
        The very bytes that were hashed, if they are kept.
    damaged : bool
        True if something is stored under its id that cannot be read whole, and must be replaced.
    codecs : tuple of Codec
        Codecs that whoever made it knows to fit, to be compared with those that suit its type.
    """

    kind: SegmentKind
    id: ObjectId
    spec: TensorSpec
    source: Source
    offset: int
    names: tuple[str, ...]
    held: Bytes | None = None
    damaged: bool = False
    codecs: tuple[Codec, ...] = ()

    def released(self) -> Content:
        """Return the same without the bytes that are held."""
        if self.held is None:
            return self
        return replace(self, held=None)

    def hasher(self) -> Hasher:
        """Return the running hash whose digest must be `id`."""
        return content_hasher(self.spec if self.kind == "tensor" else None)

    def load(self, start: int, words: int) -> Bytes:
        """Return the bytes of `words` words from word `start`; unless they are held, the file may have changed."""
        width = self.spec.dtype.word_bytes
        if self.held is not None:
            return self.held[start * width : (start + words) * width]
        out = np.empty(words * width, np.uint8)
        with self.source.open() as read:
            read(self.offset + start * width, out)
        return out


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
    """

    path: str
    mode: int
    format: str
    segments: tuple[Segment, ...]
    tensors: tuple[NamedTensor, ...]
    contents: tuple[Content, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(segment.length for segment in self.segments)


@dataclass(frozen=True, slots=True)
class _Outline:
    """A file that is not hashed yet."""

    source: Source
    found: FileMap
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring pieces of a file that one thread hashes."""

    source: Source
    pieces: Sequence[Piece]

    @property
    def size(self) -> int:
        """Bytes of its pieces."""
        return sum(piece.length for piece in self.pieces)


class Reading:
    """The files of a commit, on their way from bytes to ids. Each is read once, in order, by several threads.

    Parameters
    ----------
    sources : iterable of Source
        The files. Their tensors are located at once.
    pool : Executor
        Threads that hash.
    hold : bool
        Keep contents of up to `HELD_BYTES` in memory until the consumer lets go of them.

    Raises
    ------
    DamagedFileError
        If a file contradicts itself.
    """

    def __init__(self, sources: Iterable[Source], pool: Executor, *, hold: bool) -> None:
        self._outlines = [_outline(source) for source in sources]
        self._pool = pool
        self._hold = hold
        self._found: list[Content] = []
        self._complete = False
        self._files: list[ScannedFile] = []

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(outline.source.size for outline in self._outlines)

    @property
    def names(self) -> dict[str, frozenset[str]]:
        """The names of the tensors in each file, by its path."""
        return {
            outline.source.path: frozenset(name.name for region in outline.found.regions for name in region.names)
            for outline in self._outlines
        }

    def runs(self) -> Iterator[list[Content]]:
        """Yield the contents of all files in order, some at a time. When asked again, they are known, but not held.

        Raises
        ------
        ConflictError
            If a file changed since the tree was read.
        """
        if self._complete:
            yield self._found
            return
        self._found.clear()
        runs = (run for outline in self._outlines for run in _runs(outline))
        ahead = _AHEAD_BYTES if self._hold else _SCAN_BYTES
        hashed = ordered_map(self._pool, partial(_hash, hold=self._hold), runs, ahead, attrgetter("size"))
        for contents in hashed:
            self._found += [content.released() for content in contents]
            yield contents
        self._complete = True

    def files(self) -> list[ScannedFile]:
        """Return what was found, after all of `runs` was drawn."""
        assert self._complete, "ids are known when everything has been hashed"
        if not self._files:
            rest = iter(self._found)
            self._files = [_scanned(outline, [next(rest) for _ in outline.pieces]) for outline in self._outlines]
        return self._files


def scan(sources: Iterable[Source], pool: Executor) -> list[ScannedFile]:
    """Locate and hash the segments of files. Writes nothing, keeps nothing in memory.

    Raises
    ------
    DamagedFileError
        If a file contradicts itself.
    ConflictError
        If one changed since the tree was read.
    """
    reading = Reading(sources, pool, hold=False)
    for _ in reading.runs():
        pass
    return reading.files()


def _outline(source: Source) -> _Outline:
    found = source.locate()
    return _Outline(source, found, segments(found, source.size))


def _runs(outline: _Outline) -> Iterator[_Run]:
    """Yield the pieces of a file, small neighbours together."""
    run: list[Piece] = []
    size = 0
    for piece in outline.pieces:
        if run and size + piece.length > _RUN_BYTES:
            yield _Run(outline.source, run)
            run, size = [], 0
        run.append(piece)
        size += piece.length
    if run:
        yield _Run(outline.source, run)


def _hash(run: _Run, *, hold: bool) -> list[Content]:
    with run.source.open() as read:
        return [_content(run.source, read, piece, hold=hold) for piece in run.pieces]


def _content(source: Source, read: Read, piece: Piece, *, hold: bool) -> Content:
    kind, spec, names = _describe(piece)
    shared = piece.length > HELD_BYTES
    running = content_hasher(spec if kind == "tensor" else None, shared=shared)
    held = np.empty(piece.length, np.uint8) if hold and not shared else None
    step = _SHARED_CHUNK if shared else _CHUNK
    spare = np.empty(min(step, piece.length), np.uint8) if held is None else held
    for start in range(0, piece.length, step):
        end = min(start + step, piece.length)
        chunk = spare[: end - start] if held is None else held[start:end]
        read(piece.offset + start, chunk)
        running.update(chunk.data)
    codecs = source.codecs(piece.offset)
    return Content(kind, finish(running), spec, source, piece.offset, names, held, codecs=codecs)


def _scanned(outline: _Outline, contents: Sequence[Content]) -> ScannedFile:
    ids = {content.offset: content.id for content in contents if content.kind == "tensor"}
    tensors = tuple(
        NamedTensor(name.name, _region_id(region, ids), name.spec, name.view)
        for region in outline.found.regions
        for name in region.names
    )
    return ScannedFile(
        outline.source.path,
        outline.source.mode,
        outline.found.format,
        tuple(Segment(content.kind, content.id, content.spec.nbytes) for content in contents),
        tensors,
        tuple(contents),
    )


def _region_id(region: TensorRegion, ids: Mapping[int, ObjectId]) -> ObjectId:
    """Return the id of a region; an empty tensor has no segment, and its id is that of no bytes."""
    return ids[region.offset] if region.spec.nbytes else finish(tensor_hasher(region.spec))


def _describe(piece: Piece) -> tuple[SegmentKind, TensorSpec, tuple[str, ...]]:
    if isinstance(piece, LiteralPiece):
        return "literal", TensorSpec(dtype_of("U8"), (piece.length,)), ()
    return "tensor", piece.region.spec, tuple(name.name for name in piece.region.names)
