"""What has arrived from elsewhere: checked outside of the store, and only then made part of it.

Nothing is believed: every blob is decoded and compared with its id before it has a name that anybody looks at, since
a later commit would otherwise rely on it unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mvc.errors import FormatError, IntegrityError, MvcError
from mvc.index import BlobRecord
from mvc.objects.blob import MAX_DEPTH, Envelope
from mvc.objects.manifest import SegmentKind
from mvc.repo.encode import LOOSE_BYTES
from mvc.repo.materialize import ContentReader, StoredBlob
from mvc.repo.reliance import rely_on
from mvc.repo.session import Session
from mvc.repo.stored_metadata import decode_metadata
from mvc.store.batch import WriteBatch
from mvc.store.fs import FileSystem
from mvc.store.layout import EntryKind, Location
from mvc.store.object_store import ObjectStore, StoredRange
from mvc.store.pack_scan import verify_pack
from mvc.store.tmp import Draft
from mvc.types import ObjectId

__all__ = ["Arrival", "Inspection", "Received", "Receiver", "inspect_pack", "require_whole"]

_ARRIVED: Final = ObjectId("arrived")
"""Stands for a pack in the locations of what has arrived; no pack has such an id."""
_KEPT_BYTES: Final = 256 << 20
"""Bytes of decoded frames that are kept for deltas of them: two of the largest matrices of most models in bf16."""
_COPY_BYTES: Final = 8 << 20
"""Bytes of a blob that are in memory at once when it is stored."""

Expected = Mapping[ObjectId, tuple[SegmentKind, int]]
"""Kind and decoded bytes of contents, as a manifest has them."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A blob that has arrived.

    Parameters
    ----------
    id : ObjectId
        What it claims to be.
    length : int
        Its bytes.
    read : callable
        Returns those at an offset, of a length.
    take : callable, optional
        Returns a file that holds just these, for who makes it part of the store; `read` serves on.
    """

    id: ObjectId
    length: int
    read: Callable[[int, int], memoryview]
    take: Callable[[], Draft] | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """What has become part of the store.

    Parameters
    ----------
    records : sequence of BlobRecord
        What the index is to say of it.
    stored_bytes : int
        How many bytes it takes.
    """

    records: Sequence[BlobRecord]
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What looking at arrivals has shown.

    Parameters
    ----------
    levels : sequence of sequence of (Arrival, Envelope)
        Those that are what they claim to be, with their headers; what others need to be decoded comes in an earlier
        level.
    missing : mapping of ObjectId to set of ObjectId
        What the others need, and neither is stored here nor has arrived; and which of them need it.
    waiting : tuple of Arrival
        Those others.
    bad : mapping of ObjectId to MvcError
        Those that are not what they claim to be, and why. To the others they are missing.
    """

    levels: Sequence[Sequence[tuple[Arrival, Envelope]]]
    missing: Mapping[ObjectId, Collection[ObjectId]]
    waiting: tuple[Arrival, ...]
    bad: Mapping[ObjectId, MvcError]

    @property
    def good(self) -> Iterator[Arrival]:
        """Those that are what they claim to be, what others need first."""
        return (arrival for level in self.levels for arrival, _ in level)


class _Overlay(ObjectStore):
    """The store of a repository, with blobs on top that are not part of it yet."""

    def __init__(self, root: Path, fs: FileSystem) -> None:
        super().__init__(root, fs)
        self._arrived: list[Arrival] = []

    def admit(self, arrival: Arrival) -> Location:
        """Let a blob be read at the location that is returned, and nowhere else."""
        self._arrived.append(arrival)
        return Location(_ARRIVED, len(self._arrived) - 1, arrival.length)

    def open(self, oid: ObjectId, location: Location) -> StoredRange:
        """See `ObjectStore.open`."""
        if location.pack != _ARRIVED:
            return super().open(oid, location)
        arrival = self._arrived[location.offset]
        return StoredRange(arrival.length, arrival.read)

    def holds(self, oid: ObjectId, location: Location) -> bool:
        """See `ObjectStore.holds`."""
        return location.pack == _ARRIVED or super().holds(oid, location)


class Receiver:
    """Checks what arrives for one repository, and stores what is good.

    Parameters
    ----------
    session : Session
        The repository, whose index is up to date.
    pool : Executor
        Threads that decode.
    protect : bool
        Keep what is stored already, and arrivals need, from garbage collection; for who moves refs without looking
        once more whether everything is there.
    """

    def __init__(self, session: Session, pool: Executor, *, protect: bool = False) -> None:
        self._session = session
        self._protect = protect
        self._store = _Overlay(session.layout.directory, session.fs)
        self._overlaid = Session(session.layout, session.fs, session.settings)
        self._overlaid.store = self._store
        self._pool = pool
        self._good: dict[ObjectId, Location] = {}
        self._depths: dict[ObjectId, int] = {}

    def _locate(self, ids: Iterable[ObjectId]) -> dict[ObjectId, Location]:
        wanted = [*ids]
        stored = self._session.index.blobs([oid for oid in wanted if oid not in self._good])
        return {oid: record.location for oid, record in stored.items()} | {
            oid: self._good[oid] for oid in wanted if oid in self._good
        }

    def inspect(
        self,
        arrivals: Sequence[Arrival],
        expected: Expected,
        most: Mapping[ObjectId, int] | None = None,
        tick: Callable[[int], None] = lambda _: None,
    ) -> Inspection:
        """Decode blobs and compare them with their ids, as far as what they need is there.

        Parameters
        ----------
        arrivals : sequence of Arrival
            At most one for each id.
        expected : mapping of ObjectId to (SegmentKind, int)
            What manifests say of them; checked before anything is decoded.
        most : mapping of ObjectId to int, optional
            Decoded bytes that others of them have at most; checked, too.
        tick : callable
            Told how many bytes were decoded.

        Raises
        ------
        IntegrityError
            If blobs need each other deeper than the format allows.
        """
        places = {arrival.id: self._store.admit(arrival) for arrival in arrivals}
        by_id = {arrival.id: arrival for arrival in arrivals}
        reader = ContentReader(self._overlaid, self._pool, self._locate, keep_bytes=_KEPT_BYTES)
        blobs: dict[ObjectId, StoredBlob] = {}
        needs: dict[ObjectId, frozenset[ObjectId]] = {}
        bad: dict[ObjectId, MvcError] = {}
        for oid, place in places.items():
            with _noting(oid, bad):
                blobs[oid] = reader.copy(oid, place)
                _check_size(blobs[oid].envelope, expected.get(oid), (most or {}).get(oid))
                needs[oid] = frozenset(reference.id for reference in blobs[oid].envelope.references)
        absent = self._absent({side for sides in needs.values() for side in sides} - by_id.keys() - self._good.keys())
        levels: list[list[tuple[Arrival, Envelope]]] = []
        pending = dict(needs)
        while ready := [
            oid for oid, sides in pending.items() if sides.isdisjoint(pending) and not sides & (absent | bad.keys())
        ]:
            for oid in ready:
                self._note_depth(oid, needs[oid])
                del pending[oid]
            level = []
            for blob, error in reader.verdicts([blobs.pop(oid) for oid in ready]):
                if error is None:
                    self._good[blob.envelope.id] = blob.location
                    level.append((by_id[blob.envelope.id], blob.envelope))
                    tick(blob.envelope.spec.nbytes)
                else:
                    bad[blob.envelope.id] = error
            levels.append(level)
        needed = {side for sides in pending.values() for side in sides} & (absent | bad.keys())
        missing = {side: {oid for oid, sides in pending.items() if side in sides} for side in needed}
        return Inspection(levels, missing, tuple(by_id[oid] for oid in pending), bad)

    def _note_depth(self, oid: ObjectId, sides: Collection[ObjectId]) -> None:
        """Refuse a blob below which are more deltas than readers follow: whole levels are decoded one by one here."""
        depth = 1 + max((self._depths[side] for side in sides), default=-1)
        if depth > MAX_DEPTH:
            raise IntegrityError(f"more than {MAX_DEPTH} deltas are below {oid}")
        self._depths[oid] = depth

    def _absent(self, ids: Collection[ObjectId]) -> frozenset[ObjectId]:
        """Return which of `ids` are not stored here, or cannot be protected."""
        stored = self._session.index.blobs(ids)
        self._depths |= {oid: record.depth for oid, record in stored.items()}
        held = {*stored}
        if self._protect and stored:
            chains = self._session.chains(stored)
            with self._session.store.begin() as batch:
                held = {oid for oid in stored if rely_on(oid, chains, batch)}
                batch.commit()
        return frozenset(oid for oid in ids if oid not in held)

    def store(self, inspection: Inspection) -> Received:
        """Make good arrivals part of the store, what others need first.

        Each level is durable before the next one begins: a crash leaves nothing that cannot be decoded. Others may be
        inspected meanwhile by another thread, which then says `settle`.
        """
        stored = 0
        records: list[BlobRecord] = []
        for level in inspection.levels:
            with self._session.store.begin() as batch:
                for arrival, envelope in level:
                    if envelope.spec.nbytes < LOOSE_BYTES:
                        _put(arrival, envelope, batch)
                    elif arrival.take is not None:
                        batch.adopt(arrival.id, arrival.take(), arrival.length)
                    else:
                        _copy(arrival, batch)
                places = batch.commit()
                stored += batch.stored_bytes
            if beside := [(arrival, envelope) for arrival, envelope in level if not places[arrival.id].length]:
                with self._session.store.begin() as batch:  # what is in their way may be damaged
                    for arrival, envelope in beside:
                        _put(arrival, envelope, batch)
                    places |= batch.commit()
                    stored += batch.stored_bytes
            records += (BlobRecord.of(envelope, places[arrival.id]) for arrival, envelope in level)
        return Received(records, stored)

    def settle(self, received: Received) -> None:
        """Read what was stored from the store: what it has arrived in is not looked at any more."""
        self._good |= {record.id: record.location for record in received.records}


def _put(arrival: Arrival, envelope: Envelope, batch: WriteBatch) -> None:
    """Put a blob into the pack of a batch."""
    kind = EntryKind.TENSOR if envelope.kind == "tensor" else EntryKind.LITERAL
    batch.put(kind, arrival.id, arrival.read(0, arrival.length))


def _copy(arrival: Arrival, batch: WriteBatch) -> None:
    with batch.loose(arrival.id) as draft:
        for offset in range(0, arrival.length, _COPY_BYTES):
            draft.write(arrival.read(offset, min(_COPY_BYTES, arrival.length - offset)))


def inspect_pack(session: Session, path: Path, pack: ObjectId) -> None:
    """Check every byte of a pack that is to become part of a repository.

    Parameters
    ----------
    session : Session
        The repository, whose index is up to date.
    path : Path
        Where the pack lies; it must not change meanwhile.
    pack : ObjectId
        Its id.

    Raises
    ------
    IntegrityError, FormatError
        If it is not the pack of that id, an object in it is not what its id promises, or a blob needs what is neither
        in it nor in the repository.
    """
    data = session.fs.map_file(path)
    entries = verify_pack(data, pack, f"pack {pack[:12]}")
    arrivals = []
    for entry in entries:
        body = data[entry.offset : entry.offset + entry.length]
        if entry.kind.is_metadata:
            decode_metadata(entry.kind, entry.oid, body)
        else:
            arrivals.append(Arrival(entry.oid, entry.length, _reader_of(body)))
    with session.pool() as pool:
        require_whole(Receiver(session, pool).inspect(arrivals, {}), f"pack {pack[:12]}")


def require_whole(found: Inspection, where: str) -> None:
    """Refuse what was inspected unless all of it is what it claims to be, and can be decoded.

    Raises
    ------
    IntegrityError, FormatError
        If not.
    """
    for error in found.bad.values():
        raise error
    if found.waiting:
        needed = f"{min(found.missing)}, which is not stored here" if found.missing else "itself"
        raise IntegrityError(f"{found.waiting[0].id} of {where} needs {needed}")


@contextmanager
def _noting(oid: ObjectId, bad: dict[ObjectId, MvcError]) -> Iterator[None]:
    """Note that a blob is not what it claims to be if the block finds out."""
    try:
        yield
    except (IntegrityError, FormatError) as error:
        bad[oid] = error


def _check_size(envelope: Envelope, expected: tuple[SegmentKind, int] | None, most: int | None) -> None:
    """Refuse a blob that is not of the kind and size that are expected, before it is decoded."""
    found = envelope.kind, envelope.spec.nbytes
    if most is not None and found[1] > most:
        raise IntegrityError(f"the blob of {envelope.id} claims {found[1]:,} bytes; what needs it is far smaller")
    if expected is not None and found != expected:
        raise IntegrityError(
            f"the blob of {envelope.id} is a {found[0]} of {found[1]:,} bytes; the manifest says {expected[0]} of "
            f"{expected[1]:,}"
        )


def _reader_of(body: memoryview) -> Callable[[int, int], memoryview]:
    return lambda offset, length: body[offset : offset + length]
