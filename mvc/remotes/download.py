"""Receiving contents: ranges of packs side by side into a temporary file, then checked, then stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from mvc.codecs import Slice, codec_of
from mvc.errors import IntegrityError
from mvc.index import BlobRecord
from mvc.objects.blob import Envelope
from mvc.objects.manifest import SegmentKind
from mvc.remotes.engine import Engine
from mvc.remotes.holdings import Holdings, Place
from mvc.remotes.ranges import GAP_BYTES, Range, Want, plan_ranges
from mvc.remotes.receiving import Arrival, Received, Receiver
from mvc.remotes.spool import Spool
from mvc.repo.encode import LOOSE_BYTES
from mvc.repo.progress import Progress, Tick
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["Downloaded", "download"]

_Batch = tuple[Spool, list[Arrival]]
"""Blobs, and the file that they are in."""
Wanted = Mapping[ObjectId, tuple[SegmentKind, int]]
"""Kind and decoded bytes of contents, as manifests have them."""

_BATCH_BYTES: Final = 128 << 20
"""Stored bytes that are received before they are checked and stored: what a cut connection makes one receive again. One
batch arrives while another one is checked, and a third one stored: so much room is taken besides. Stores that read
whole chunks read those twice in which two batches meet: of a clone of 484 MB, SeaweedFS moved 1,170 MB with half as
much (benchmarks.remotes)."""
_LEAST_BATCH_BYTES: Final = 16 << 20
"""Stored bytes of the last batches: each takes half of what is left, since nothing comes while the last is checked."""
_ALONE_BYTES: Final = 8 << 20
"""Stored bytes from which a blob that is to be a loose one arrives in the file that becomes that: at most sixteen
files of a batch, each of which is open twice. Smaller ones are copied."""
_ALONE_BATCHES: Final = 4
"""Batches that may have such files: of more, what needs something else is waiting for that, and files are few."""
_MAX_ROUNDS: Final = 80
"""Times that blobs may turn out to need others: deltas are nested 64 deep at most (spec-v1, limits)."""
_MOST_OF_A_BASE: Final = 64
"""How many times the bytes of the content that needs it a base may have: vocabularies grow, and shrink."""
_SLACK: Final = 64 << 10
"""Bytes of the envelope of a blob beside its frames, and of a small base. The frames take little more than what they
hold (spec-v1, section 5), and far less than twice as much."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What was received, and is stored.

    Parameters
    ----------
    records : sequence of BlobRecord
        What the index is to say of it.
    stored_bytes : int
        How many bytes it takes.
    """

    records: Sequence[BlobRecord] = ()
    stored_bytes: int = 0


def download(
    session: Session,
    engine: Engine,
    holdings: Holdings,
    wanted: Wanted,
    pool: Executor,
    progress: Progress,
    gap: int = GAP_BYTES,
) -> Downloaded:
    """Receive contents, and whatever they need to be decoded; store what is what its id promises.

    Parameters
    ----------
    session : Session
        The repository.
    engine : Engine
        The remote.
    holdings : Holdings
        What it holds.
    wanted : mapping of ObjectId to (SegmentKind, int)
        Contents that are not stored here. Where a copy of one is damaged, another one is taken.
    pool : Executor
        Threads that decode.
    progress : callable
        Told how far the work is.
    gap : int
        Unwanted bytes that may be read to save a request.

    Returns
    -------
    Downloaded
        All of it. The index does not know of it yet.

    Raises
    ------
    IntegrityError
        If the remote lacks something, or sends what it should not.
    """
    if not wanted:
        return Downloaded()
    with ExitStack() as stack, progress("receiving", _bytes(holdings, wanted)) as tick:
        receiver = Receiver(session, pool, protect=True)
        return _Download(session, engine, holdings, wanted, receiver, tick, stack, gap).run()


def _bytes(holdings: Holdings, wanted: Iterable[ObjectId]) -> int:
    return sum(places[0].length for oid in wanted if (places := holdings.places(oid)))


@dataclass
class _Download:
    """Contents on their way."""

    session: Session
    engine: Engine
    holdings: Holdings
    wanted: Wanted
    receiver: Receiver
    tick: Tick
    stack: ExitStack
    gap: int
    tried: dict[ObjectId, int] = field(default_factory=dict)
    bases: dict[ObjectId, int] = field(default_factory=dict)
    waiting: dict[ObjectId, Arrival] = field(default_factory=dict)
    spools: dict[Spool, set[ObjectId]] = field(default_factory=dict)
    again: set[ObjectId] = field(default_factory=set)
    storing: Future[Received] | None = None
    records: list[BlobRecord] = field(default_factory=list)
    received: int = 0

    def run(self) -> Downloaded:
        """Receive everything, round by round: a round brings what the one before turned out to need."""
        pending = list(self.wanted)
        for _ in range(_MAX_ROUNDS):
            missing = self._round(pending)
            if not (self.waiting or self.again):
                return Downloaded(self.records, self.received)
            pending = self._next(missing | self.again)
            self.again = set()
        raise IntegrityError(f"{self.engine.url} sends blobs that need each other more than {_MAX_ROUNDS} deep")

    def _round(self, pending: Sequence[ObjectId]) -> set[ObjectId]:
        """Receive contents in batches: one comes, one is checked, one is stored; return what is needed besides."""
        missing: set[ObjectId] = set()
        connections = self.engine.capabilities.connections
        with (
            ThreadPoolExecutor(1) as behind,
            ThreadPoolExecutor(1) as ahead,
            ThreadPoolExecutor(connections) as pool,
        ):
            batches = self._batches(pending)
            coming: Future[_Batch] | None = _start(ahead, partial(self._receive, pool), batches)
            while coming is not None:
                arrived = coming.result()
                coming = _start(ahead, partial(self._receive, pool), batches)
                missing = self._settle(behind, *arrived)
            self._settle_stored()
        return missing

    def _batches(self, pending: Sequence[ObjectId]) -> Iterator[list[tuple[ObjectId, Place]]]:
        places = [(oid, self._place(oid)) for oid in pending]
        left = sum(place.length for _, place in places)
        limit = _batch_bytes(left)
        batch: list[tuple[ObjectId, Place]] = []
        size = 0
        for oid, place in places:
            if batch and size + place.length > limit:
                yield batch
                left -= size
                batch, size, limit = [], 0, _batch_bytes(left)
            batch.append((oid, place))
            size += place.length
        if batch:
            yield batch

    def _copies(self, oid: ObjectId) -> list[Place]:
        return [place for place in self.holdings.places(oid) if place.kind is None or not place.kind.is_metadata]

    def _place(self, oid: ObjectId) -> Place:
        """Return the next copy of a content that was not tried yet."""
        places = self._copies(oid)
        turn = self.tried.get(oid, 0)
        self.tried[oid] = turn + 1
        if turn >= len(places):
            raise IntegrityError(
                f"{self.engine.url} lacks content {oid}" + (", or what it needs" if places else ""),
                hint="mvc fsck on that side",
            )
        if places[turn].length > 2 * self._raw_bytes(oid) + _SLACK:
            raise IntegrityError(f"{self.engine.url} says that {oid} takes {places[turn].length:,} bytes: far too many")
        return places[turn]

    def _raw_bytes(self, oid: ObjectId) -> int:
        """Return the decoded bytes that a content has; at most, if no manifest tells."""
        return self.wanted[oid][1] if oid in self.wanted else self.bases[oid]

    def _receive(self, pool: Executor, batch: Sequence[tuple[ObjectId, Place]]) -> _Batch:
        """Bring a batch into temporary files."""
        spool = self.stack.enter_context(Spool(self.session.store.temporaries, self.session.fs))
        arrivals, wants = [], []
        for oid, place in batch:
            alone = self._is_loose(oid, place)
            target = spool.reserve(place.length, alone=alone)
            wants.append(Want(place.key, place.offset, place.length, target))
            take = partial(spool.take, target) if alone else None
            arrivals.append(Arrival(oid, place.length, partial(_read, spool, target, place.length), take))

        def bring(item: Range) -> None:
            """Receive one range."""
            data = memoryview(self.engine.read(item.key, item.offset, item.length))
            for piece in item.pieces:
                spool.put(data[piece.start : piece.start + piece.length], piece.target)
                self.tick(piece.length)

        for _ in pool.map(bring, plan_ranges(wants, self.gap)):
            pass
        return spool, arrivals

    def _is_loose(self, oid: ObjectId, place: Place) -> bool:
        """Return whether a content may arrive in the file that is to be its loose blob."""
        large = oid in self.wanted and self.wanted[oid][1] >= LOOSE_BYTES and place.length >= _ALONE_BYTES
        return large and len(self.spools) < _ALONE_BATCHES

    def _settle(self, behind: Executor, spool: Spool, arrived: Sequence[Arrival]) -> set[ObjectId]:
        """Check what has arrived, with what was waiting; have what is good stored; return what the rest needs."""
        self.spools[spool] = {arrival.id for arrival in arrived}
        self.waiting |= {arrival.id: arrival for arrival in arrived}
        found = self.receiver.inspect([*self.waiting.values()], self.wanted, self.bases)
        self._settle_stored()
        self.storing = behind.submit(self.receiver.store, found)
        for arrival in found.good:
            del self.waiting[arrival.id]
        for oid, error in found.bad.items():
            if self.tried[oid] >= len(self._copies(oid)):
                raise error
            del self.waiting[oid]
        for base in found.missing.keys() - self.wanted.keys():
            self.bases.setdefault(base, max(self._most_of_base(oid) for oid in found.missing[base]))
        self.again |= found.bad.keys()
        return set(found.missing)

    def _settle_stored(self) -> None:
        """Wait for what is being stored, and let go of what it has arrived in.

        To be called while what was inspected since counts as waiting, so that its files stay.
        """
        if self.storing is None:
            return
        stored, self.storing = self.storing.result(), None
        self.receiver.settle(stored)
        self.records += stored.records
        self.received += stored.stored_bytes
        for empty in [spool for spool, ids in self.spools.items() if ids.isdisjoint(self.waiting)]:
            empty.close()
            del self.spools[empty]

    def _most_of_base(self, oid: ObjectId) -> int:
        """Return how many bytes what a waiting content needs may have; of what that needs, no more."""
        most = _MOST_OF_A_BASE * self.wanted[oid][1] + _SLACK if oid in self.wanted else self.bases[oid]
        return max(most, _whole_bytes(self.waiting[oid]))

    def _next(self, missing: set[ObjectId]) -> list[ObjectId]:
        """Return what to receive next: what is missing; other copies of what needs something that is nowhere.

        Where blobs only wait for each other, other copies of all of these.
        """
        absent = missing - self.waiting.keys()
        there = {oid for oid in absent if self.tried.get(oid, 0) < len(self._copies(oid))}
        nowhere = absent - there
        others = {oid for oid, arrival in self.waiting.items() if nowhere and not nowhere.isdisjoint(_needs(arrival))}
        if any(self.tried[oid] >= len(self._copies(oid)) for oid in others):
            raise IntegrityError(f"{self.engine.url} lacks content {min(nowhere)}", hint="mvc fsck on that side")
        return sorted(there | others) or sorted(self.waiting)


def _batch_bytes(left: int) -> int:
    """Return how many bytes of those that are left the next batch may have."""
    return min(_BATCH_BYTES, max(_LEAST_BATCH_BYTES, left // 2))


def _start(
    ahead: Executor,
    receive: Callable[[Sequence[tuple[ObjectId, Place]]], _Batch],
    batches: Iterator[list[tuple[ObjectId, Place]]],
) -> Future[_Batch] | None:
    batch = next(batches, None)
    return None if batch is None else ahead.submit(receive, batch)


def _read(spool: Spool, start: int, length: int, offset: int, count: int) -> memoryview:
    if not 0 <= offset <= offset + count <= length:
        raise IntegrityError(f"a blob of {length:,} bytes has none at {offset + count:,}")
    return spool.read(start + offset, count)


def _needs(arrival: Arrival) -> frozenset[ObjectId]:
    return frozenset(reference.id for reference in Envelope.fetch(arrival.length, arrival.read).references)


def _whole_bytes(arrival: Arrival) -> int:
    """Return how large that is of which a slice says that it is left, little as that may be; 0 for other blobs."""
    envelope = Envelope.fetch(arrival.length, arrival.read)
    codec = codec_of(envelope.codec, envelope.parameters)
    return math.prod(codec.selection.whole) * envelope.spec.dtype.bits // 8 if isinstance(codec, Slice) else 0
