"""From stored blobs back to bytes: frames decoded in threads, every checksum and id verified on the way."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from threading import Lock, local
from typing import Final

import numpy as np

from mvc.codecs import Bytes, Codec, Fit, FrameSpec, Slice, codec_of, fitted
from mvc.errors import FormatError, IntegrityError, MvcError, NotFoundError
from mvc.objects.blob import Envelope, Frame, Reference
from mvc.objects.ids import Hasher, content_hasher, finish
from mvc.repo.frame_cache import FrameCache
from mvc.repo.parallel import ordered_map
from mvc.repo.remembering import remembering
from mvc.repo.session import Session
from mvc.store.layout import Location
from mvc.store.object_store import StoredRange
from mvc.types import ObjectId, TensorSpec

__all__ = ["ContentReader", "StoredBlob"]

_LOGGER: Final = logging.getLogger(__name__)
_DEPTH_LIMIT: Final = 64
"""Deltas followed in one read: the format's limit. More means a cycle."""
_BLOBS_KEPT: Final = 32
"""Opened blobs kept: the chains that two threads work on. Each holds little memory, and a file open."""
_RUN_BYTES: Final = 256 << 10
"""Decoded bytes of neighbouring frames that one thread checks in one go: as many as one codes in one go."""
_MOST_WORK: Final = 1 << 34
"""Words decoded for one frame (spec-v1, limits): 64 of 2^24 words below each other are a sixteenth of that."""
_LEAST_WORK: Final = 1 << 18
"""Words that the decoding of a frame counts for at least: a call of a codec takes about as long as they do."""
_NO_FRAME: Final = Frame(0, 0, 0, 0, 0)
"""Stands for those of a content without elements, which has an id like any other."""

Locate = Callable[[Iterable[ObjectId]], Mapping[ObjectId, Location]]
"""Returns where contents are stored, and may return more; what is missing is left out."""


def _by_index(session: Session) -> Locate:
    return lambda ids: {oid: record.location for oid, record in session.chains(ids).items()}


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob ready to be decoded.

    Parameters
    ----------
    envelope : Envelope
        What it says of itself.
    stored : StoredRange
        Where its bytes are read.
    codec : Codec
        Decodes its frames.
    location : Location
        Which of the copies and encodings of its content it is.
    """

    envelope: Envelope
    stored: StoredRange
    codec: Codec
    location: Location

    def frame_spec(self, frame: Frame) -> FrameSpec:
        """Return what the codec needs to know of `frame`."""
        spec = self.envelope.spec
        return FrameSpec(spec.dtype, frame.words, spec.row_words, frame.start)


_Place = tuple[Location, ObjectId, int]
"""A frame of one copy of a content: the copy, the content, and the first word."""
_Decode = Callable[[StoredBlob, Frame, Bytes, int], None]
"""Fills an array with a frame of a copy; the last argument is how many deltas have been followed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """A frame to be decoded.

    Parameters
    ----------
    blob, frame
        Which.
    out : Bytes
        Where to.
    offset : int
        Where it begins in all that is asked for.
    """

    blob: StoredBlob
    frame: Frame
    out: Bytes
    offset: int


class _Work(local):
    """Words that a thread has decoded for the frame that it was asked for."""

    words = 0


class ContentReader:
    """Decode tensors and literals of one repository.

    A content may be stored more than once: loose and in packs, and in several encodings. Where a frame of one copy is
    corrupt, or the copy cannot be opened, another one is read instead, with a warning. A content fails only if no copy
    can be decoded, whatever it is read for: itself, or as the base of another.

    Parameters
    ----------
    session : Session
        The repository.
    pool : Executor
        Threads that decode frames.
    locate : callable, optional
        Says where contents, and those that they are deltas of, are stored; by default the index does.
    keep_bytes : int
        Bytes of decoded frames kept, those used last: for those who check contents, bases first, or read ranges of
        contents that are deltas of each other.
    """

    def __init__(self, session: Session, pool: Executor, locate: Locate | None = None, *, keep_bytes: int = 0) -> None:
        self._session = session
        self._pool = pool
        self._window = 2 * session.threads
        self._locate = locate or _by_index(session)
        self._may_follow = locate is None
        self._following = Lock()
        self._locations: dict[ObjectId, Location] = {}
        self._kept = FrameCache(keep_bytes)
        self._lost: dict[_Place, str] = {}
        self._work = _Work()
        self._healed: set[ObjectId] = set()
        self._opened = remembering(self._open, _BLOBS_KEPT)
        self._copies = remembering(self._find_copies, _BLOBS_KEPT)

    def prepare(self, ids: Iterable[ObjectId]) -> None:
        """Look up where `ids` and what they are deltas of are stored, in a few queries instead of one for each."""
        self._locations |= self._locate(oid for oid in ids if oid not in self._locations)

    def open(self, oid: ObjectId) -> StoredBlob:
        """Open the encoding of a content that is quickest to rebuild; of those opened last, the same again.

        Raises
        ------
        IntegrityError, FormatError
            If no copy of it can be opened.
        """
        return self._opened(oid)

    def _open(self, oid: ObjectId) -> StoredBlob:
        """Open a blob where it was said to be, or where it has been moved to since, or another copy of it."""
        if oid not in self._locations:
            self.prepare([oid])
        location = self._locations.get(oid)
        if location is None:  # to the index, which knows nothing of what is condemned
            return self._elsewhere(oid, location, NotFoundError(f"content {oid} is not in the index"))
        try:
            return self.copy(oid, location)
        except (NotFoundError, IntegrityError, FormatError) as error:
            return self._moved(oid, location) or self._elsewhere(oid, location, error)

    def _moved(self, oid: ObjectId, location: Location) -> StoredBlob | None:
        """Open a blob where the index finds it once it has followed the store; None if that does not help."""
        if self._session.store.holds(oid, location):
            return None
        self._follow()
        found = self._locations.get(oid, location)
        with suppress(NotFoundError, IntegrityError, FormatError):
            return None if found == location else self.copy(oid, found)
        return None

    def _follow(self) -> None:
        """Have the index follow the store, once, and look up again what was looked up: much may have moved at once."""
        with self._following:
            if self._may_follow:
                self._may_follow = False
                with suppress(MvcError):  # as on a disk that is full: then each blob is looked for where it may be
                    self._session.refresh(force=True)
                    self._locations = {**self._locations, **self._locate(list(self._locations))}

    def copy(self, oid: ObjectId, location: Location) -> StoredBlob:
        """Open one stored copy of the content `oid`, and no other.

        Raises
        ------
        NotFoundError
            If it is not there.
        IntegrityError, FormatError
            If it is not a blob of `oid` whose header is whole.
        """
        stored = self._session.store.open(oid, location)
        envelope = Envelope.fetch(stored.length, stored.read)
        if envelope.id != oid:
            raise IntegrityError(f"the blob of {oid} holds {envelope.id}", hint="mvc fsck")
        if stored.length != envelope.stored_bytes:
            raise IntegrityError(
                f"the blob of {oid} has {stored.length} bytes, its header promises {envelope.stored_bytes}",
                hint="mvc fsck",
            )
        return StoredBlob(envelope, stored, codec_of(envelope.codec, envelope.parameters), location)

    def _elsewhere(
        self, oid: ObjectId, location: Location | None, cause: NotFoundError | IntegrityError | FormatError
    ) -> StoredBlob:
        """Open a blob that has moved or was replaced by another encoding, or another copy of one that is damaged."""
        if copies := self._copies(oid):
            if location and not isinstance(cause, NotFoundError) and copies[0].location.pack != location.pack:
                self._warn(oid, cause)
            return copies[0]
        if isinstance(cause, NotFoundError):
            raise IntegrityError(f"content {oid} is missing from the store", hint="mvc fsck") from cause
        raise cause

    def _find_copies(self, oid: ObjectId) -> list[StoredBlob]:
        """Open every copy of a content that can be opened, full encodings first."""
        found = []
        for location in self._session.store.copies(oid):
            with suppress(NotFoundError, IntegrityError, FormatError):
                found.append(self.copy(oid, location))
        return sorted(found, key=lambda blob: blob.envelope.depth)

    def _warn(self, oid: ObjectId, cause: Exception) -> None:
        """Say, once for each content, that a copy of it is damaged and another one serves."""
        if oid not in self._healed:
            self._healed.add(oid)
            _LOGGER.warning(
                "a stored copy of %s is damaged, another one is read: %s; run mvc fsck --repair", oid, cause
            )

    def stream(self, ids: Sequence[ObjectId]) -> Iterator[Bytes]:
        """Yield the contents `ids` one after the other, frame by frame; several frames are decoded at once.

        What is yielded is overwritten when the next frame is asked for.

        Raises
        ------
        IntegrityError
            If a checksum is wrong; or, at the last frame of a content, if the whole is not what its id promises.
            Whoever keeps what is yielded must not show it before the iteration ends.
        """
        return (task.out for task in self._verified(self._tasks(ids, self._spares().array), self._decoded))

    def place(self, ids: Sequence[ObjectId], put: Callable[[int, memoryview], None]) -> Generator[int]:
        """Decode the contents `ids`, which are to lie one after the other, and have `put` called with each frame.

        It is given the place of the frame and its bytes, by the threads that decode, in any order, and must not keep
        them. Yields, in order, how many bytes more have been put. Whoever stops early must close the generator before
        what `put` uses goes away.

        Raises
        ------
        IntegrityError
            As for `stream`.
        """

        def place(task: _Task) -> _Task:
            """Decode a frame and put it where it belongs."""
            self._decoded(task)
            put(task.offset, task.out.data)  # while it is in the cache
            return task

        with closing(self._verified(self._tasks(ids, self._spares().array), place)) as tasks:
            for task in tasks:
                yield task.out.size

    def check(self, blob: StoredBlob) -> None:
        """Decode one copy of a content; no other copy of it steps in, but any of its base may.

        Raises
        ------
        IntegrityError, FormatError, NotFoundError
            If it, or everything that its base is stored as, is corrupt.
        """
        for _, error in self.verdicts([blob]):
            if error is not None:
                raise error

    def verdicts(self, blobs: Sequence[StoredBlob]) -> Generator[tuple[StoredBlob, MvcError | None]]:
        """Check copies as `check` does, many at once; yield each, in order, with what is wrong with it.

        Parameters
        ----------
        blobs : sequence of StoredBlob
            None of them needs another one that is not stored where `locate` says.
        """
        self.prepare({reference.id for blob in blobs for reference in blob.envelope.references})
        running, error = None, None
        little = sum(blob.envelope.spec.nbytes for blob in blobs) <= _RUN_BYTES  # done sooner than a thread is told
        runs = _runs(blobs)
        done = map(self._attempted, runs) if little else ordered_map(self._pool, self._attempted, runs, self._window)
        with closing(run for run in done) as attempted:
            for task, failure in chain.from_iterable(attempted):
                envelope, frame = task.blob.envelope, task.frame
                if frame.start == 0:
                    running, error = content_hasher(envelope.spec if envelope.kind == "tensor" else None), None
                assert running is not None, "the first frame of a content comes first"
                running.update(task.out.data)
                error = error or failure
                if frame.start + frame.words == envelope.spec.words:
                    yield task.blob, error or _difference(running, envelope.id)

    def _attempted(self, tasks: Sequence[_Task]) -> list[tuple[_Task, MvcError | None]]:
        """Decode frames of single copies; return each with what is wrong with it."""
        return [(task, self._attempt(task)) for task in tasks]

    def _attempt(self, task: _Task) -> MvcError | None:
        if task.frame is _NO_FRAME:
            return None
        try:
            self._decode_copy(task.blob, task.frame, task.out, 0)
        except (IntegrityError, NotFoundError, FormatError) as error:
            return error
        if self._kept:
            self._kept.put(_place(task.blob, task.frame), task.out)
        return None

    def _tasks(self, ids: Sequence[ObjectId], room: Callable[[int], Bytes]) -> Iterator[_Task]:
        """Yield the frames of the contents `ids`, each with what `room` returns for its number of bytes."""
        self.prepare(ids)
        offset = 0
        for blob in map(self.open, ids):
            for frame in blob.envelope.frames:
                yield _Task(blob, frame, room(blob.frame_spec(frame).nbytes), offset)
                offset += blob.frame_spec(frame).nbytes

    def _verified(self, tasks: Iterable[_Task], work: Callable[[_Task], _Task]) -> Generator[_Task]:
        """Yield `tasks` when they are done by `work`, in threads; check each content at its last frame."""
        running = None
        with closing(ordered_map(self._pool, work, tasks, self._window)) as done:
            for task in done:
                envelope, frame = task.blob.envelope, task.frame
                if frame.start == 0:
                    running = content_hasher(envelope.spec if envelope.kind == "tensor" else None)
                assert running is not None, "the first frame of a content comes first"
                running.update(task.out.data)
                if frame.start + frame.words == envelope.spec.words:
                    _verify(running, envelope.id)
                yield task

    def _decoded(self, task: _Task) -> _Task:
        self._decode(task.blob, task.frame, task.out, 0)
        return task

    def _spares(self) -> _Spares:
        return _Spares(self._window + 2)  # one more is being filled, and one is with the consumer

    def read(self, oid: ObjectId) -> Bytes:
        """Return the whole content `oid`, verified.

        Raises
        ------
        IntegrityError
            If it is missing or corrupt.
        """
        return next(self.contents([oid]))

    def contents(self, ids: Sequence[ObjectId]) -> Iterator[Bytes]:
        """Yield each of the contents `ids` whole, verified.

        Raises
        ------
        IntegrityError
            If one is missing or corrupt.
        """
        parts: list[Bytes] = []
        for task in self._verified(self._tasks(ids, _fresh), self._decoded):
            if task.frame.start == 0 and parts:
                yield _joined(parts)
                parts = []
            parts.append(task.out)
        if parts:
            yield _joined(parts)

    def words(self, oid: ObjectId, start: int, count: int, depth: int = 0) -> Bytes:
        """Return a range of the words of `oid`, decoding only the frames that it touches.

        Frame checksums are verified; the id is not, since that takes the whole content. Runs in the calling thread.

        Parameters
        ----------
        oid : ObjectId
            Content id.
        start, count : int
            First word and number of words.
        depth : int
            Deltas followed so far.

        Raises
        ------
        IntegrityError
            If a frame is corrupt, or deltas are nested deeper than the format allows.
        """
        if depth > _DEPTH_LIMIT:
            raise IntegrityError(f"more than {_DEPTH_LIMIT} deltas below {oid}", hint="mvc fsck")
        return self._range(self.open(oid), start, count, depth, self._decode)

    def _range(self, blob: StoredBlob, start: int, count: int, depth: int, decode: _Decode) -> Bytes:
        width, step = blob.envelope.spec.dtype.word_bytes, blob.envelope.frame_words
        parts = []
        for frame in blob.envelope.frames[start // step : -(-(start + count) // step)]:
            decoded = self._kept.get(_place(blob, frame)) if self._kept else None
            if decoded is None:
                decoded = _fresh(frame.words * width)
                decode(blob, frame, decoded, depth)
                if self._kept:
                    self._kept.put(_place(blob, frame), decoded)
            parts.append(decoded[max(0, start - frame.start) * width : (start + count - frame.start) * width])
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.uint8)])

    def side(self, oid: ObjectId, target: TensorSpec, start: int, count: int, depth: int = 0) -> Bytes:
        """Return a range of the words of `oid`, fitted to a tensor `target` that is coded with its help.

        Parameters
        ----------
        oid : ObjectId
            Content id of the side tensor.
        target : TensorSpec
            Of the tensor that it is fitted to.
        start, count : int
            First word and number of words, of `target`.
        depth : int
            As for `words`.

        Raises
        ------
        IntegrityError
            As for `words`; and if dtype or rank are not those of `target`.
        """
        spec = self.open(oid).envelope.spec
        if spec == target:
            return self.words(oid, start, count, depth)
        fit = Fit.between(spec, target)
        if fit is None:
            raise IntegrityError(
                f"{oid}, {spec.dtype.name}{list(spec.shape)}, is no base for {target.dtype.name}{list(target.shape)}",
                hint="mvc fsck",
            )
        return fitted(fit, start, count, target.dtype.word_bytes, partial(self.words, oid, depth=depth))

    def _decode(self, blob: StoredBlob, frame: Frame, out: Bytes, depth: int) -> None:
        """Decode a frame, or, if that fails, the same words of another copy."""
        try:
            self._decode_copy(blob, frame, out, depth)
        except (IntegrityError, NotFoundError, FormatError) as error:
            self._heal(blob, frame, out, depth, error)

    def _decode_copy(self, blob: StoredBlob, frame: Frame, out: Bytes, depth: int) -> None:
        """Decode a frame of this copy; its side tensors may be read from any copy."""
        place = _place(blob, frame)
        if self._lost and place in self._lost:
            raise IntegrityError(self._lost[place], hint="mvc fsck")
        self._count(blob, frame, depth)
        try:
            stored = blob.stored.read(frame.offset, frame.length)
            frame.check(stored, blob.envelope.id)
            blob.codec.decode(stored, self._sides(blob, frame, depth), blob.frame_spec(frame), out)
        except (IntegrityError, NotFoundError, FormatError) as error:
            self._lost[place] = error.message  # so that no frame is tried twice, however many need it
            raise

    def _count(self, blob: StoredBlob, frame: Frame, depth: int) -> None:
        """Refuse frames that need many of a side tensor each, which need many each: 64 such levels never end."""
        self._work.words = (self._work.words if depth else 0) + max(frame.words, _LEAST_WORK)
        if self._work.words > _MOST_WORK:
            raise IntegrityError(f"one frame needs more than {_MOST_WORK:,} words, also of {blob.envelope.id}")

    def _heal(self, blob: StoredBlob, frame: Frame, out: Bytes, depth: int, cause: Exception) -> None:
        """Fill `out` with the words of a frame from another copy; raise `cause` if no copy can be decoded."""
        oid = blob.envelope.id
        for other in self._copies(oid):
            if other.location == blob.location or other.envelope.spec != blob.envelope.spec:
                continue
            with suppress(IntegrityError, NotFoundError, FormatError):
                out[:] = self._range(other, frame.start, frame.words, depth, self._decode_copy)
                self._warn(oid, cause)
                return
        raise cause

    def _sides(self, blob: StoredBlob, frame: Frame, depth: int) -> Sequence[Bytes]:
        envelope = blob.envelope
        if tuple(reference.role for reference in envelope.references) != blob.codec.roles:
            raise IntegrityError(f"the blob of {envelope.id} lacks a side tensor of its codec", hint="mvc fsck")
        return [self._side(blob, reference, frame, depth + 1) for reference in envelope.references]

    def _side(self, blob: StoredBlob, reference: Reference, frame: Frame, depth: int) -> Bytes:
        """Return what one side tensor of a blob has for a frame."""
        envelope = blob.envelope
        if reference.role == "base":
            return self.side(reference.id, envelope.spec, frame.start, frame.words, depth)
        spec = self.open(reference.id).envelope.spec
        if isinstance(blob.codec, Slice):
            read = partial(self.words, reference.id, depth=depth)
            return blob.codec.side(spec, envelope.spec, frame.start, frame.words, read)
        if spec != envelope.spec:
            raise IntegrityError(f"{reference.id} has not the shape of {envelope.id}", hint="mvc fsck")
        return self.words(reference.id, frame.start, frame.words, depth)


class _Spares:
    """Arrays used in turn, since fresh memory costs about as much as what is written to it."""

    def __init__(self, count: int) -> None:
        self._kept = deque([np.empty(0, np.uint8)] * count)

    def array(self, nbytes: int) -> Bytes:
        """Return the array that was given out longest ago, of `nbytes` undefined bytes."""
        kept = self._kept.popleft()
        if len(kept) < nbytes:
            kept = _fresh(nbytes)
        self._kept.append(kept)
        return kept[:nbytes]


def _place(blob: StoredBlob, frame: Frame) -> _Place:
    return blob.location, blob.envelope.id, frame.start


def _fresh(nbytes: int) -> Bytes:
    return np.empty(nbytes, np.uint8)


def _joined(parts: list[Bytes]) -> Bytes:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _runs(blobs: Iterable[StoredBlob]) -> Iterator[list[_Task]]:
    """Yield all frames of `blobs`, in order, in runs that are worth telling another thread of."""
    run: list[_Task] = []
    size = 0
    for blob in blobs:
        for frame in blob.envelope.frames or (_NO_FRAME,):
            nbytes = blob.frame_spec(frame).nbytes
            if run and size + nbytes > _RUN_BYTES:
                yield run
                run, size = [], 0
            run.append(_Task(blob, frame, _fresh(nbytes), 0))
            size += nbytes
    if run:
        yield run


def _verify(running: Hasher, oid: ObjectId) -> None:
    if (error := _difference(running, oid)) is not None:
        raise error


def _difference(running: Hasher, oid: ObjectId) -> IntegrityError | None:
    computed = finish(running)
    return None if computed == oid else IntegrityError(f"content {oid} decodes to {computed}", hint="mvc fsck")
