"""From contents to blobs: plan each one on samples, then code its frames in threads, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Final

from xxhash import xxh3_64_intdigest

from mvc.codecs import Bytes, Codec, FrameSpec, Sample, estimate, frame_words
from mvc.errors import ConflictError
from mvc.objects.blob import Envelope
from mvc.objects.ids import finish
from mvc.repo.materialize import ContentReader
from mvc.repo.parallel import ordered_map
from mvc.repo.plan import Option, Side, choose, codecs_for
from mvc.repo.scan import Content
from mvc.settings import Delta, Level
from mvc.store.batch import WriteBatch
from mvc.store.layout import EntryKind
from mvc.types import ObjectId, TensorSpec

__all__ = ["LOOSE_BYTES", "Encoder", "Stored"]

LOOSE_BYTES: Final = 4 << 20
"""Raw bytes from which a content becomes a loose blob: large enough that an inode and an fsync do not matter."""

_SAMPLES: Final = 4
"""Places of a tensor at which options are compared."""
_SAMPLE_WORDS: Final = 32 << 10
"""Words at each place: enough for the tables of the entropy coder, so that the estimate does not favour short ones."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was done with one content.

    Parameters
    ----------
    content : Content
        The content.
    option : Option
        The encoding that was chosen.
    stored_bytes : int
        Size of the blob.
    """

    content: Content
    option: Option
    stored_bytes: int

    @property
    def chain_bytes(self) -> int:
        """Stored bytes that a rebuild reads."""
        return self.stored_bytes + (self.option.side.chain_bytes if self.option.side else 0)


_Frame = tuple[Bytes, bytes]
"""Raw and stored bytes of one frame."""
_Range = dict[Side | None, Sample]
"""A range of a content with the same range of each side tensor that may help to store it."""


@dataclass(frozen=True, slots=True)
class _Planned:
    content: Content
    option: Option
    only_frame: _Frame | None
    """Raw and stored bytes of a content of one frame, which is coded while it is at hand."""


class Encoder:
    """Write contents into a batch.

    Parameters
    ----------
    reader : ContentReader
        Decodes side tensors that are stored already.
    pool : Executor
        Threads that encode.
    window : int
        Frames in memory ahead of the writer.
    level : Level
        How many options to compare.
    bounds : Delta
        Bounds of the delta policy.
    """

    def __init__(self, reader: ContentReader, pool: Executor, window: int, level: Level, bounds: Delta) -> None:
        self._reader = reader
        self._pool = pool
        self._window = window
        self._level = level
        self._bounds = bounds
        self._written: dict[ObjectId, Content] = {}

    def store(self, contents: Iterable[tuple[Content, Sequence[Side]]], batch: WriteBatch) -> Iterator[Stored]:
        """Encode `contents`, each with the side tensors that it may use, and yield what was done, in order.

        Side tensors are stored, or contents of an earlier call; the latter are read from their sources, and `confirm`
        must be called before the batch is committed.

        Raises
        ------
        ConflictError
            If a content is no longer what its id says: the file changed after it was hashed.
        """
        for planned in ordered_map(self._pool, self._plan, contents, self._window):
            stored = self._write(planned, batch)
            self._written[planned.content.id] = planned.content
            yield stored

    def confirm(self, stored: Iterable[Stored]) -> None:
        """Check that what was read again to help to store other contents was still what its id says.

        Raises
        ------
        ConflictError
            If not: what was coded with its help cannot be decoded.
        """
        helpers = {item.option.side.id for item in stored if item.option.side}
        for content in (self._written[oid] for oid in helpers if oid in self._written):
            running, step = content.hasher(), frame_words(content.spec)
            with content.source.open() as read:
                for start in range(0, content.spec.words, step):
                    running.update(content.read(read, start, min(step, content.spec.words - start)).data)
            if finish(running) != content.id:
                raise _changed(content)

    def _plan(self, item: tuple[Content, Sequence[Side]]) -> _Planned:
        content, sides = item
        whole = None
        if content.spec.words <= frame_words(content.spec):
            whole = self._load(content, sides, 0, content.spec.words)
        samples = self._samples(content, sides, whole)
        options = [
            Option(codec, side, estimate(codec, (sample[side] for sample in samples)) * content.spec.nbytes)
            for side in (None, *sides)
            for codec in codecs_for(content.kind, content.spec.dtype, self._level, side.relation if side else "full")
        ]
        option = choose(options, content.spec.nbytes, self._bounds)
        return _Planned(content, option, _encode(option.codec, whole[option.side]) if whole else None)

    def _load(self, content: Content, sides: Sequence[Side], start: int, words: int) -> _Range:
        with content.source.open() as read:
            target = content.read(read, start, words)
        spec = FrameSpec(content.spec.dtype, words, content.spec.row_words)
        loaded: _Range = {None: (target, (), spec)}
        for side in sides:
            loaded[side] = (target, (self._side(side, content.spec, start, words),), spec)
        return loaded

    def _side(self, side: Side, target: TensorSpec, start: int, words: int) -> Bytes:
        """Return a range of a side tensor: from its source if this batch stores it, since it cannot be decoded yet."""
        if side.id not in self._written:
            return self._reader.side(side.id, target, start, words)
        content = self._written[side.id]
        with content.source.open() as read:
            return content.read(read, start, words)

    def _samples(self, content: Content, sides: Sequence[Side], whole: _Range | None) -> list[_Range]:
        starts, words = _places(content.spec)
        if whole is None:
            return [self._load(content, sides, start, words) for start in starts]
        return [_cut(whole, start, words) for start in starts]

    def _write(self, planned: _Planned, batch: WriteBatch) -> Stored:
        frames = iter([planned.only_frame]) if planned.only_frame else self._frames(planned)
        content = planned.content
        if content.spec.nbytes >= LOOSE_BYTES:
            envelope = self._write_loose(planned, frames, batch)
        else:
            stored = list(_verified(content, frames))
            envelope = _envelope(planned, stored)
            kind = EntryKind.TENSOR if content.kind == "tensor" else EntryKind.LITERAL
            batch.put(kind, content.id, [envelope.header, *stored])
        return Stored(content, planned.option, envelope.stored_bytes)

    def _frames(self, planned: _Planned) -> Iterator[_Frame]:
        content, side = planned.content, planned.option.side
        step = frame_words(content.spec)

        def encode(start: int) -> _Frame:
            words = min(step, content.spec.words - start)
            loaded = self._load(content, [side] if side else [], start, words)
            return _encode(planned.option.codec, loaded[side])

        return ordered_map(self._pool, encode, range(0, content.spec.words, step), self._window)

    @staticmethod
    def _write_loose(planned: _Planned, frames: Iterator[_Frame], batch: WriteBatch) -> Envelope:
        """Stream frames behind room for the header, whose length depends only on their number."""
        content = planned.content
        room = _envelope(planned, [b""] * -(-content.spec.words // frame_words(content.spec)))
        table: list[tuple[int, int]] = []
        with batch.loose(content.id, replace=content.damaged) as draft:
            draft.write(room.header)
            for stored in _verified(content, frames):
                draft.write(stored)
                table.append((len(stored), xxh3_64_intdigest(stored)))
            envelope = replace(room, table=tuple(table))
            draft.patch(envelope.header, 0)
        return envelope


def _encode(codec: Codec, sample: Sample) -> _Frame:
    return sample[0], codec.encode(*sample)


def _verified(content: Content, frames: Iterable[_Frame]) -> Iterator[bytes]:
    """Yield the stored bytes of frames; at the end, compare what was encoded with the id."""
    running = content.hasher()
    for raw, stored in frames:
        running.update(raw.data)
        yield stored
    if finish(running) != content.id:
        raise _changed(content)


def _changed(content: Content) -> ConflictError:
    return ConflictError(
        f"{content.source.path} changed while it was being committed; nothing was recorded",
        hint="wait until the trainer has finished writing, then commit again",
    )


def _envelope(planned: _Planned, stored: Sequence[bytes]) -> Envelope:
    content, option = planned.content, planned.option
    return Envelope(
        content.kind,
        content.id,
        content.spec,
        option.codec.name,
        option.codec.parameters,
        option.references,
        frame_words(content.spec),
        tuple((len(item), xxh3_64_intdigest(item)) for item in stored),
    )


def _places(spec: TensorSpec) -> tuple[Sequence[int], int]:
    """Return where to sample a tensor, and how many words at each place; all of it if it is small."""
    words = (
        max(1, _SAMPLE_WORDS // spec.row_words) * spec.row_words if spec.row_words < _SAMPLE_WORDS else _SAMPLE_WORDS
    )
    if spec.words <= _SAMPLES * words:
        return [0], spec.words
    last = spec.words - words
    unit = spec.row_words if spec.row_words < _SAMPLE_WORDS else 1
    return [last * place // (_SAMPLES - 1) // unit * unit for place in range(_SAMPLES)], words


def _cut(whole: _Range, start: int, words: int) -> _Range:
    """Return a range of words of what was loaded whole."""
    result: _Range = {}
    for key, (target, sides, spec) in whole.items():
        place = slice(start * spec.dtype.word_bytes, (start + words) * spec.dtype.word_bytes)
        result[key] = target[place], tuple(side[place] for side in sides), replace(spec, words=words)
    return result
