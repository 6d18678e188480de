"""Checking every stored copy and encoding of every object: is it what its id promises, and what does it hang on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from mvc.errors import FormatError, IntegrityError, NotFoundError, StorageError
from mvc.objects.blob import Reference
from mvc.objects.ids import digest
from mvc.objects.manifest import ManifestDecoder, SegmentKind
from mvc.repo.materialize import ContentReader
from mvc.repo.progress import Progress
from mvc.repo.session import Session
from mvc.repo.stored_metadata import METADATA_KINDS, MetadataObject
from mvc.store.layout import EntryKind, Location, StoredObject
from mvc.store.metadata import unwrap_metadata
from mvc.store.object_store import ObjectStore
from mvc.store.pack_check import PackCheck
from mvc.types import ObjectId

__all__ = ["WRONG", "Copies", "Copy", "Radius", "State", "check_copies", "read_copy"]

WRONG: Final = (IntegrityError, NotFoundError, FormatError, StorageError)
"""What reading something that is damaged raises."""

_KEPT_BYTES: Final = 256 << 20
"""Bytes of decoded frames kept for the deltas that come next: two of the largest matrices of most models in bf16."""


class State(Enum):
    """What a check found of one copy."""

    GOOD = "good"
    """It is what its id promises."""
    HANGS = "hangs"
    """Its own bytes have their checksums, but nothing that it is a delta of can be decoded."""
    CORRUPT = "corrupt"
    """It is not what its id promises."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One stored copy of an object.

    Parameters
    ----------
    oid : ObjectId
        The object.
    kind : EntryKind or None
        What it is; None for a loose blob.
    location : Location
        Where it lies.
    state : State
        What the check found.
    problem : str or None
        What is wrong with a corrupt one.
    content : SegmentKind or None
        Whether a blob is of a tensor or of a literal, if its header can be read.
    raw_bytes : int
        Decoded size of a blob.
    codec : str
        What a blob is coded by.
    sides : tuple of Reference
        What it needs to be decoded, as it says itself.
    """

    oid: ObjectId
    kind: EntryKind | None
    location: Location
    state: State
    problem: str | None = None
    content: SegmentKind | None = None
    raw_bytes: int = 0
    codec: str = ""
    sides: tuple[Reference, ...] = ()

    @property
    def references(self) -> tuple[ObjectId, ...]:
        """The contents that it needs to be decoded."""
        return tuple([side.id for side in self.sides])

    @property
    def is_metadata(self) -> bool:
        """True for manifests, commits and tags."""
        return self.kind is not None and self.kind.is_metadata


@dataclass(frozen=True, slots=True)
class Copies:
    """Every stored copy of every object.

    Parameters
    ----------
    by_id : mapping of ObjectId to tuple of Copy
        All of them.
    good : mapping of ObjectId to Copy
        For each object that can be read, a copy that can.
    checked_bytes : int
        Decoded bytes that were compared with their ids.
    """

    by_id: Mapping[ObjectId, tuple[Copy, ...]]
    good: Mapping[ObjectId, Copy]
    checked_bytes: int

    def all(self) -> Iterator[Copy]:
        """Yield all copies."""
        for copies in self.by_id.values():
            yield from copies


class Radius:
    """What a lost content takes with it.

    Parameters
    ----------
    copies : Copies
        What is stored.
    """

    def __init__(self, copies: Copies) -> None:
        self._above: dict[ObjectId, set[ObjectId]] = {}
        for copy in copies.all():
            if copy.oid not in copies.good:
                for reference in copy.references:
                    self._above.setdefault(reference, set()).add(copy.oid)

    def of(self, root: ObjectId) -> frozenset[ObjectId]:
        """Return `root`, and the contents that cannot be decoded and, directly or not, are deltas of it."""
        found: set[ObjectId] = set()
        pending = [root]
        while pending:
            oid = pending.pop()
            if oid not in found:
                found.add(oid)
                pending += self._above.get(oid, ())
        return frozenset(found)


def read_copy(store: ObjectStore, copy: Copy, manifests: ManifestDecoder | None = None) -> MetadataObject:
    """Return a metadata object from one copy of it, verified; a manifest is decoded by `manifests`, if that is given.

    Raises
    ------
    IntegrityError, NotFoundError
        If the copy is corrupt, or gone.
    """
    assert copy.kind is not None
    decode = manifests.decode if manifests and copy.kind is EntryKind.MANIFEST else METADATA_KINDS[copy.kind][1]
    return decode(_verified(store, copy))


def _verified(store: ObjectStore, copy: Copy) -> bytes:
    """Return the canonical bytes of a metadata object, compared with its id; whoever needs it decodes them."""
    assert copy.kind is not None
    domain, _ = METADATA_KINDS[copy.kind]
    data = unwrap_metadata(store.read(copy.oid, copy.location), f"object {copy.oid[:12]}")
    if (computed := digest(domain, data)) != copy.oid:
        raise IntegrityError(f"the stored bytes are not the {copy.kind.name.lower()} of this id, but of {computed}")
    return data


def check_copies(
    session: Session,
    packs: Sequence[PackCheck],
    loose: Iterable[ObjectId],
    pool: Executor,
    progress: Progress,
    *,
    quick: bool,
) -> Copies:
    """Check every copy of some objects. Each is decoded once, and those that others are deltas of come first.

    Parameters
    ----------
    session : Session
        The repository.
    packs : sequence of PackCheck
        The packs whose entries to check.
    loose : iterable of ObjectId
        The loose blobs to check.
    pool : Executor
        Threads that decode.
    progress : callable
        Told how far the work is.
    quick : bool
        Read only the headers of blobs.
    """
    work = _Work(session, pool, quick=quick)
    for item in _stored(session.store, packs, loose):
        work.open(item)
    for pack in packs:
        for entry in pack.lost:
            place = Location(pack.pack, entry.offset, entry.length)
            work.settle(Copy(entry.oid, entry.kind, place, State.CORRUPT, "its entry is damaged or cut off"))
    with progress("checking", work.bytes_to_check) as tick:
        checked = work.run(tick)
    by_id = {oid: there for oid, copies in work.done.items() if (there := _still_there(session.store, copies))}
    return Copies(by_id, work.good, checked)


def _still_there(store: ObjectStore, copies: Iterable[Copy]) -> tuple[Copy, ...]:
    """Return `copies` without those that could not be read because another process has removed their files."""
    return tuple(
        copy
        for copy in copies
        if copy.state is State.GOOD or store.fs.size(store.path(copy.oid, copy.location.pack)) is not None
    )


def _stored(store: ObjectStore, packs: Iterable[PackCheck], loose: Iterable[ObjectId]) -> Iterator[StoredObject]:
    for oid in loose:
        size = store.loose.size(oid)
        if size is not None:
            yield StoredObject(oid, None, Location(None, 0, size))
    for pack in packs:
        for entry in pack.entries:
            yield StoredObject(entry.oid, entry.kind, Location(pack.pack, entry.offset, entry.length))


@dataclass
class _Waiting:
    """A copy, and what must be decided before it."""

    copy: Copy
    needs: set[ObjectId]


class _Order:
    """Hands out copies of blobs when all that they need is settled.

    A content is settled as soon as one of its copies is good, or when none is left that may be. Of those that are
    ready the newest comes first: what it is a delta of was decoded just now.
    """

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._left = Counter(copy.oid for copy in copies)
        self._waiting: dict[ObjectId, list[_Waiting]] = {}
        self._stuck = {(copy.oid, copy.location): copy for copy in copies}
        self._ready: list[Copy] = []
        for copy in copies:
            self._add(_Waiting(copy, {oid for oid in copy.references if oid in self._left}))

    def _add(self, item: _Waiting) -> None:
        for oid in item.needs:
            self._waiting.setdefault(oid, []).append(item)
        if not item.needs:
            self._ready.append(item.copy)

    def __iter__(self) -> Iterator[Copy]:
        """Yield copies; each must be settled before the next one is asked for."""
        while self._ready:
            copy = self._ready.pop()
            del self._stuck[copy.oid, copy.location]
            yield copy

    def settle(self, copy: Copy) -> None:
        """Take note of what was found of a copy."""
        self._left[copy.oid] -= 1
        if copy.state is State.GOOD or not self._left[copy.oid]:
            for item in self._waiting.pop(copy.oid, ()):
                item.needs.remove(copy.oid)
                if not item.needs:
                    self._ready.append(item.copy)

    def stuck(self) -> Iterable[Copy]:
        """Return the copies that were never ready: they need each other."""
        return self._stuck.values()


@dataclass
class _Work:
    """Copies on their way from opened to decided.

    A copy is decided when all that it needs is settled, so what is said of it is about its own bytes alone.
    """

    session: Session
    pool: Executor
    quick: bool
    done: dict[ObjectId, list[Copy]] = field(default_factory=dict)
    good: dict[ObjectId, Copy] = field(default_factory=dict)
    opened: list[Copy] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = ContentReader(self.session, self.pool, self._locate, keep_bytes=_KEPT_BYTES)

    @property
    def bytes_to_check(self) -> int:
        """Bytes that will be decoded if nothing is wrong."""
        return 0 if self.quick else sum(copy.raw_bytes for copy in self.opened)

    def _locate(self, ids: Iterable[ObjectId]) -> dict[ObjectId, Location]:
        return {oid: self.good[oid].location for oid in ids if oid in self.good}

    def open(self, item: StoredObject) -> None:
        """Read the header of a blob, or all of a metadata object."""
        copy = Copy(item.oid, item.kind, item.location, State.GOOD)
        try:
            if copy.is_metadata:
                _verified(self.session.store, copy)
                self.settle(copy)
                return
            envelope = self.reader.copy(item.oid, item.location).envelope
        except WRONG as error:
            self.settle(replace(copy, state=State.CORRUPT, problem=error.message))
            return
        raw_bytes, codec = envelope.spec.nbytes, envelope.codec
        self.opened.append(
            replace(copy, content=envelope.kind, raw_bytes=raw_bytes, codec=codec, sides=envelope.references)
        )

    def settle(self, copy: Copy) -> None:
        """Note what is known of a copy for good."""
        self.done.setdefault(copy.oid, []).append(copy)
        if copy.state is State.GOOD:
            self.good.setdefault(copy.oid, copy)

    def run(self, tick: Callable[[int], None]) -> int:
        """Decide all opened copies; return the bytes that were decoded."""
        order, checked = _Order(self.opened), 0
        for opened in order:
            copy = self._decided(opened, tick)
            checked += 0 if self.quick or copy.state is not State.GOOD else copy.raw_bytes
            self.settle(copy)
            order.settle(copy)
        for opened in order.stuck():
            self.settle(self._apart(opened))
        return checked

    def _decided(self, copy: Copy, tick: Callable[[int], None]) -> Copy:
        if not all(oid in self.good for oid in copy.references):
            return self._apart(copy)
        try:
            if not self.quick:
                self.reader.check(self.reader.copy(copy.oid, copy.location))
                tick(copy.raw_bytes)
        except WRONG as error:
            return replace(copy, state=State.CORRUPT, problem=error.message)
        return copy

    def _apart(self, copy: Copy) -> Copy:
        """Compare the frames of a copy that cannot be decoded with their checksums."""
        try:
            if not self.quick:
                blob = self.reader.copy(copy.oid, copy.location)
                for frame in blob.envelope.frames:
                    frame.check(blob.stored.read(frame.offset, frame.length), copy.oid)
        except WRONG as error:
            return replace(copy, state=State.CORRUPT, problem=error.message)
        return replace(copy, state=State.HANGS)
