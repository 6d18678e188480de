"""From contents to blobs: plan each one on samples, then code its frames in threads, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from typing import Final, Protocol

from mvc.codecs import Bytes, Fit, FrameSpec, fitted, frame_words
from mvc.errors import ConflictError
from mvc.index import BlobRecord
from mvc.objects.blob import Envelope
from mvc.objects.ids import finish
from mvc.repo.encode_tasks import (
    EncodeContent,
    EncodedContent,
    EncodedFrame,
    EncodeFrame,
    Range,
    Way,
    encode_contents,
    encode_frames,
    judged,
    sample_places,
)
from mvc.repo.materialize import ContentReader
from mvc.repo.parallel import Step, stepped_map
from mvc.repo.plan import SMALL_BYTES, Option, Side, codecs_for, codecs_for_small
from mvc.repo.scan import Content
from mvc.settings import Delta, Level
from mvc.store.layout import Buffer, EntryKind, Location
from mvc.store.tmp import Draft
from mvc.types import ObjectId, TensorSpec

__all__ = ["LOOSE_BYTES", "BlobSink", "Encoder", "Stored"]

LOOSE_BYTES: Final = 4 << 20
"""Raw bytes from which a content becomes a loose blob: large enough that an inode and an fsync do not matter."""

_AHEAD_BYTES: Final = 16 << 20
"""Raw bytes of the contents that are planned ahead of the writer, or one content if that is larger."""
_GROUP_BYTES: Final = 256 << 10
"""Raw bytes of neighbouring contents that one thread plans and codes in one go, since a hand-over between threads takes
as long as coding some of them. Whatever is not larger than this has one frame."""
_LEAST_WEIGHT: Final = 1 << 10
"""Bytes that a content counts for in such a group at least: its envelope is work, too."""
_AWAY_BYTES: Final = 64 << 20
"""Raw bytes of the contents that another executor plans: several for each of a dozen workers."""
_AWAY_FRAMES: Final = 32
"""Frames, or groups of small ones, that another executor codes: at 4 MiB each, with as much of a base, 256 MiB."""


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

    def record(self, location: Location) -> BlobRecord:
        """Return what the index is to say of the blob at `location`; its chain is for the index to work out."""
        content, option = self.content, self.option
        return BlobRecord(
            content.id,
            content.kind,
            location,
            content.spec.nbytes,
            option.codec.name,
            option.references,
            option.depth,
            self.stored_bytes,
        )


_Task = tuple[Content, Sequence[Side]]
"""A content, and the side tensors that it may use."""
_Place = tuple["_Planned", int]
"""A content with its encoding, and the first word of one of its frames."""


@dataclass(frozen=True, slots=True, eq=False)
class _Planned:
    """A content and how it is to be stored.

    Parameters
    ----------
    content : Content
        The content.
    option : Option
        What was chosen.
    only_frame : EncodedFrame or None
        A content of one frame, which is coded while it is at hand.
    raw : Bytes or None
        The bytes of that frame.
    """

    content: Content
    option: Option
    only_frame: EncodedFrame | None
    raw: Bytes | None

    @property
    def starts(self) -> range:
        """First word of every frame."""
        return range(0, self.content.spec.words, frame_words(self.content.spec))


@dataclass(frozen=True, slots=True)
class _Coded:
    """One frame, ready to be written."""

    planned: _Planned
    raw: Bytes | None
    """Its bytes, if they must be hashed."""
    frame: EncodedFrame

    @property
    def entry(self) -> tuple[int, int]:
        """What the frame table says of it: stored length and checksum."""
        return len(self.frame.stored), self.frame.checksum


class BlobSink(Protocol):
    """Where encoded blobs go: a `WriteBatch`, or what keeps them until somebody has looked at them."""

    def put(self, kind: EntryKind, oid: ObjectId, body: Buffer | Sequence[Buffer]) -> bool:
        """Take a small blob, maybe in pieces."""

    def loose(self, oid: ObjectId, *, replace: bool = False) -> AbstractContextManager[Draft]:
        """Yield a file for a large blob, which is taken when the block ends."""


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
    executor : Executor, optional
        Runs the tasks of `mvc.repo.encode_tasks`, maybe elsewhere; by default `pool` does.
    """

    def __init__(
        self,
        reader: ContentReader,
        pool: Executor,
        window: int,
        level: Level,
        bounds: Delta,
        executor: Executor | None = None,
    ) -> None:
        self._executor = executor
        self._reader = reader
        self._pool = pool
        self._window = window
        self._level = level
        self._bounds = bounds
        self._written: dict[ObjectId, Content] = {}

    def store(self, contents: Iterable[_Task], batch: BlobSink) -> Iterator[Stored]:
        """Encode `contents`, each with the side tensors that it may use, and yield what was done, in order.

        Side tensors are stored, or contents of an earlier call; the latter are read from their sources, and `confirm`
        must be called before the batch is committed.

        Contents are planned ahead, and their frames are coded ahead, of the one that is being written.

        Raises
        ------
        ConflictError
            If a content is no longer what its id says: the file changed after it was hashed.
        """
        apply = partial(stepped_map, self._pool, self._executor)
        choosing = Step(self._questions, encode_contents, _planned)
        plans = apply(choosing, _grouped(contents), _AHEAD_BYTES, _AWAY_BYTES, _raw_bytes)
        places = (place for group in plans for place in _places(group))
        coding = Step(self._frames, encode_frames, _coded)
        coded_lists = apply(coding, places, self._window, _AWAY_FRAMES)
        frames = chain.from_iterable(coded_lists)
        for planned, coded in groupby(frames, attrgetter("planned")):
            stored = self._write(planned, coded, batch)
            self._written[stored.content.id] = stored.content
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
            for start in range(0, content.spec.words, step):
                running.update(content.load(start, min(step, content.spec.words - start)).data)
            if finish(running) != content.id:
                raise _changed(content)

    def options(self, content: Content, sides: Sequence[Side]) -> list[Option]:
        """Return every way to store `content` on its own or with one of `sides`, with sizes judged by samples."""
        return judged(content.spec, self._ways(content, sides), self._samples(content, sides))

    def _ways(self, content: Content, sides: Sequence[Side]) -> tuple[Way, ...]:
        return tuple(
            (codec, side)
            for side in (None, *sides)
            for codec in (
                *codecs_for(content.kind, content.spec.dtype, self._level, side.relation if side else "full"),
                *(codec for codec in content.codecs if codec.roles == (_role(side),) * (side is not None)),
            )
        )

    def _questions(self, group: Sequence[_Task]) -> list[EncodeContent]:
        return [self._question(*item) for item in group]

    def _question(self, content: Content, sides: Sequence[Side]) -> EncodeContent:
        """Return what must be known to choose how to store a content."""
        spec = content.spec
        if spec.nbytes < SMALL_BYTES:
            whole = self._load(content, (), 0, spec.words)
            small = tuple((codec, None) for codec in codecs_for_small(whole[None][0].data))
            return EncodeContent(spec, small, (whole,), self._bounds, one_frame=True)
        ways = self._ways(content, sides)
        if spec.words <= frame_words(spec):
            whole = self._load(content, sides, 0, spec.words)
            return EncodeContent(spec, ways, (whole,), self._bounds, one_frame=True)
        samples = self._samples(content, sides) if len(ways) > 1 else ()
        return EncodeContent(spec, ways, tuple(samples), self._bounds, one_frame=False)

    def _load(self, content: Content, sides: Sequence[Side], start: int, words: int) -> Range:
        target = content.load(start, words)
        spec = FrameSpec(content.spec.dtype, words, content.spec.row_words, start)
        loaded: Range = {None: (target, (), spec)}
        for side in sides:
            loaded[side] = (target, (self._side(side, content.spec, start, words),), spec)
        return loaded

    def _side(self, side: Side, target: TensorSpec, start: int, words: int) -> Bytes:
        """Return a range of a side tensor: from its source if this batch stores it, since it cannot be decoded yet."""
        if side.id not in self._written:
            return self._reader.side(side.id, target, start, words)
        content = self._written[side.id]
        fit = None if content.spec == target else Fit.between(content.spec, target)
        if fit is None:
            return content.load(start, words)
        return fitted(fit, start, words, target.dtype.word_bytes, content.load)

    def _samples(self, content: Content, sides: Sequence[Side]) -> list[Range]:
        starts, words = sample_places(content.spec)
        return [self._load(content, sides, start, words) for start in starts]

    def _frames(self, places: Sequence[_Place]) -> list[EncodeFrame]:
        """Return those frames that are not coded yet."""
        return [self._frame(*place) for place in places if place[0].only_frame is None]

    def _frame(self, planned: _Planned, start: int) -> EncodeFrame:
        content, side = planned.content, planned.option.side
        words = min(frame_words(content.spec), content.spec.words - start)
        loaded = self._load(content, [side] if side else [], start, words)
        return EncodeFrame(planned.option.codec, loaded[side])

    @staticmethod
    def _write(planned: _Planned, frames: Iterator[_Coded], batch: BlobSink) -> Stored:
        content = planned.content
        if content.spec.nbytes >= LOOSE_BYTES:
            envelope = _write_loose(planned, frames, batch)
        else:
            coded = list(_verified(content, frames))
            envelope = _envelope(planned, [frame.entry for frame in coded])
            kind = EntryKind.TENSOR if content.kind == "tensor" else EntryKind.LITERAL
            batch.put(kind, content.id, [envelope.header, *(frame.frame.stored for frame in coded)])
        return Stored(content.released(), planned.option, envelope.stored_bytes)


def _write_loose(planned: _Planned, frames: Iterator[_Coded], batch: BlobSink) -> Envelope:
    """Stream frames behind room for the header, whose length depends only on their number."""
    content = planned.content
    room = _envelope(planned, [(0, 0)] * len(planned.starts))
    table: list[tuple[int, int]] = []
    with batch.loose(content.id, replace=content.damaged) as draft:
        draft.write(room.header)
        for frame in _verified(content, frames):
            draft.write(frame.frame.stored)
            table.append(frame.entry)
        envelope = replace(room, table=tuple(table))
        draft.patch(envelope.header, 0)
    return envelope


def _role(side: Side | None) -> str:
    """Return what a codec calls a side tensor."""
    return "companion" if side is not None and side.relation == "companion" else "base"


def _grouped(contents: Iterable[_Task]) -> Iterator[list[_Task]]:
    """Yield contents in order, small neighbours together."""
    group: list[_Task] = []
    size = 0
    for item in contents:
        weight = max(item[0].spec.nbytes, _LEAST_WEIGHT)
        if group and size + weight > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(item)
        size += weight
    if group:
        yield group


def _places(group: Sequence[_Planned]) -> Iterator[list[_Place]]:
    """Yield the frames of a group of contents: one by one if it is a single content, else all at once."""
    if len(group) > 1:
        yield [(planned, start) for planned in group for start in planned.starts]
    else:
        yield from ([(planned, start)] for planned in group for start in planned.starts)


def _raw_bytes(group: Sequence[_Task]) -> int:
    return sum(content.spec.nbytes for content, _ in group)


def _planned(
    group: Sequence[_Task], asked: Sequence[EncodeContent], chosen: Sequence[EncodedContent]
) -> list[_Planned]:
    return [
        _Planned(content, encoded.option, encoded.frame, question.ranges[0][None][0] if encoded.frame else None)
        for (content, _), question, encoded in zip(group, asked, chosen, strict=True)
    ]


def _coded(places: Sequence[_Place], asked: Sequence[EncodeFrame], encoded: Sequence[EncodedFrame]) -> list[_Coded]:
    """Return the frames at `places`: those that were coded just now, and those that were before."""
    new = zip(asked, encoded, strict=True)
    result = []
    for planned, _ in places:
        raw, frame = planned.raw, planned.only_frame
        if frame is None:
            task, frame = next(new)
            raw = task.sample[0]
        result.append(_Coded(planned, raw if planned.content.held is None else None, frame))
    return result


def _verified(content: Content, frames: Iterable[_Coded]) -> Iterator[_Coded]:
    """Yield frames. If what was encoded is not what was hashed, but was read again, hash it and compare with the id."""
    if content.held is not None:
        yield from frames
        return
    running = content.hasher()
    for frame in frames:
        assert frame.raw is not None, "what was read again is there to be hashed"
        running.update(frame.raw.data)
        yield frame
    if finish(running) != content.id:
        raise _changed(content)


def _changed(content: Content) -> ConflictError:
    return ConflictError(
        f"{content.source.path} changed while it was being committed; nothing was recorded",
        hint="wait until the trainer has finished writing, then commit again",
    )


def _envelope(planned: _Planned, table: Sequence[tuple[int, int]]) -> Envelope:
    content, option = planned.content, planned.option
    return Envelope(
        content.kind,
        content.id,
        content.spec,
        option.codec.name,
        option.codec.parameters,
        option.references,
        frame_words(content.spec),
        tuple(table),
    )
