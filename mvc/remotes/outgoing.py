"""Packs for a remote: stored blobs as they are where the other side can decode them, and encoded anew where not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from mvc.errors import IntegrityError, NotFoundError
from mvc.index import BlobRecord
from mvc.objects.blob import Envelope
from mvc.repo.encode import Encoder
from mvc.repo.materialize import ContentReader
from mvc.repo.session import Session
from mvc.repo.stored_source import stored_content
from mvc.store.layout import Buffer, EntryKind, PackEntry
from mvc.store.object_store import StoredRange
from mvc.store.packs import PackWriter
from mvc.store.tmp import Draft
from mvc.types import ObjectId

__all__ = ["OutgoingPack", "SendPlan", "pack_up", "plan_sending"]

PACK_BYTES: Final = 64 << 20
"""Bytes after which another pack is begun: what a cut connection makes one send again (remotes-v1, section 3)."""


@dataclass(frozen=True, slots=True)
class SendPlan:
    """Which contents go, and how.

    Parameters
    ----------
    as_stored : tuple of BlobRecord
        Blobs that are sent as they are; what others need comes first.
    anew : tuple of BlobRecord
        Contents that are encoded on their own first, because the other side lacks what the stored blob needs.
    """

    as_stored: tuple[BlobRecord, ...]
    anew: tuple[BlobRecord, ...]

    @property
    def stored_bytes(self) -> int:
        """Bytes of the blobs that go as they are."""
        return sum(record.location.length for record in self.as_stored)


def plan_sending(
    wanted: Sequence[ObjectId], chains: Mapping[ObjectId, BlobRecord], there: Collection[ObjectId]
) -> SendPlan:
    """Return how to send the contents `wanted`.

    Parameters
    ----------
    wanted : sequence of ObjectId
        What the other side lacks.
    chains : mapping of ObjectId to BlobRecord
        How these, and everything that they need, are stored here.
    there : collection of ObjectId
        Those of what they need that the other side has for sure.

    Raises
    ------
    IntegrityError
        If one is not stored here.
    """
    if lost := [oid for oid in wanted if oid not in chains or not chains[oid].reachable]:
        raise IntegrityError(f"content {lost[0]} is missing, or what it needs", hint="mvc fsck")
    sent = set(wanted)
    anew = {oid for oid in wanted if not all(side.id in sent or side.id in there for side in chains[oid].references)}
    places = {oid: place for place, oid in enumerate(wanted)}
    ordered = sorted(sent - anew, key=lambda oid: (chains[oid].depth, places[oid]))
    return SendPlan(
        tuple(chains[oid] for oid in ordered), tuple(chains[oid] for oid in sorted(anew, key=places.__getitem__))
    )


@dataclass(frozen=True)
class OutgoingPack:
    """A pack, complete, in a temporary file.

    Parameters
    ----------
    id : ObjectId
        Its name.
    draft : Draft
        The file; whoever has sent it discards it.
    entries : tuple of PackEntry
        What is in it.
    """

    id: ObjectId
    draft: Draft
    entries: tuple[PackEntry, ...]


@dataclass
class _Packer:
    """Fills packs, and yields those that are full; a sink for the encoder, too."""

    session: Session
    full: list[OutgoingPack] = field(default_factory=list)
    _draft: Draft | None = None
    _writer: PackWriter | None = None

    def put(self, kind: EntryKind, oid: ObjectId, body: Buffer | Sequence[Buffer]) -> bool:
        """Take a small object; see `mvc.repo.encode.BlobSink`."""
        self._room().add(kind, oid, body)
        self._turn()
        return True

    @contextmanager
    def loose(self, oid: ObjectId, *, replace: bool = False) -> Iterator[Draft]:  # noqa: ARG002 - see `BlobSink`
        """Take a large blob; see `mvc.repo.encode.BlobSink`."""
        with self.session.store.temporaries.draft() as draft:
            yield draft
            draft.close()
            data = self.session.fs.map_file(draft.path)
            kind = EntryKind.TENSOR if Envelope.decode(data).kind == "tensor" else EntryKind.LITERAL
            self._room().add(kind, oid, data)
        self._turn()

    def copy(self, oid: ObjectId, envelope: Envelope, stored: StoredRange) -> None:
        """Take a stored blob as it is, after its frames have been compared with their checksums."""
        if (envelope.id, envelope.stored_bytes) != (oid, stored.length):
            raise IntegrityError(f"the blob of {oid} is damaged: it was not sent", hint="mvc fsck --repair")
        kind = EntryKind.TENSOR if envelope.kind == "tensor" else EntryKind.LITERAL
        self._room().add_stream(kind, oid, stored.length, _checked(envelope, stored.length, stored.read))
        self._turn()

    def finish(self) -> None:
        """Complete the last pack, if there is one."""
        writer, draft = self._writer, self._draft
        if writer is not None and draft is not None and writer.entries:
            pack = writer.finish()
            draft.close()
            self.full.append(OutgoingPack(pack, draft, tuple(writer.entries.values())))
            self._writer = self._draft = None

    def abandon(self) -> None:
        """Discard whatever was not taken over."""
        for draft in (*(pack.draft for pack in self.full), *([self._draft] if self._draft else [])):
            draft.discard()

    def _room(self) -> PackWriter:
        if self._writer is None:
            self._draft = self.session.store.temporaries.draft()
            self._writer = PackWriter(self._draft)
        return self._writer

    def _turn(self) -> None:
        if self._writer is not None and self._writer.is_full(PACK_BYTES):
            self.finish()


def _checked(envelope: Envelope, length: int, read: Callable[[int, int], memoryview]) -> Iterator[Buffer]:
    """Yield the bytes of a blob, frame by frame, each compared with its checksum."""
    start = envelope.frames[0].offset if envelope.frames else length
    yield read(0, start)
    for frame in envelope.frames:
        stored = read(frame.offset, frame.length)
        frame.check(stored, envelope.id)
        yield stored


def pack_up(
    session: Session,
    plan: SendPlan,
    metadata: Iterable[tuple[EntryKind, ObjectId, bytes]],
    reader: ContentReader,
    pool: Executor,
) -> Generator[OutgoingPack]:
    """Yield packs with everything that is to be sent: blobs, what others need first, then metadata.

    Parameters
    ----------
    session : Session
        The repository.
    plan : SendPlan
        Which contents.
    metadata : iterable of (EntryKind, ObjectId, bytes)
        Bodies of commits, tags and manifests.
    reader : ContentReader
        Decodes what is encoded anew.
    pool : Executor
        Threads that encode.

    Raises
    ------
    IntegrityError
        If something that is stored here is damaged: it is not sent.
    """
    packer = _Packer(session)
    try:
        bounds = session.settings.delta
        encoder = Encoder(reader, pool, 2 * session.threads, "default", bounds)
        yield from _encoded(plan.anew, reader, encoder, packer)
        sent = {record.id for record in plan.anew}
        for record in plan.as_stored:
            envelope, stored = _found(session, record, reader)
            needed = {reference.id for reference in envelope.references}
            if needed <= sent | {reference.id for reference in record.references}:
                packer.copy(record.id, envelope, stored)
            else:  # it has been encoded in another way meanwhile
                yield from _encoded([record], reader, encoder, packer)
            sent.add(record.id)
            yield from _taken(packer)
        for kind, oid, body in metadata:
            packer.put(kind, oid, body)
            yield from _taken(packer)
        packer.finish()
        yield from _taken(packer)
    finally:
        packer.abandon()


def _encoded(
    records: Sequence[BlobRecord], reader: ContentReader, encoder: Encoder, packer: _Packer
) -> Iterator[OutgoingPack]:
    """Pack contents encoded on their own; yield packs that are full."""
    tasks = ((stored_content(reader, record.kind, record.id), ()) for record in records)
    for _ in encoder.store(tasks, packer):
        yield from _taken(packer)


def _found(session: Session, record: BlobRecord, reader: ContentReader) -> tuple[Envelope, StoredRange]:
    """Open a stored blob; where a repack or gc has moved it since it was looked up, wherever it is now."""
    try:
        stored = session.store.open(record.id, record.location)
    except (NotFoundError, IntegrityError):
        if session.store.holds(record.id, record.location):
            raise
        blob = reader.open(record.id)
        return blob.envelope, blob.stored
    return Envelope.fetch(stored.length, stored.read), stored


def _taken(packer: _Packer) -> Iterator[OutgoingPack]:
    while packer.full:
        yield packer.full.pop(0)
