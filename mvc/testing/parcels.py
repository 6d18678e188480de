"""True objects to send to a server, and what a client does to send them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from mvc.objects.blob import Envelope
from mvc.objects.operation import Operation, RefChange, apply_changes
from mvc.remotes.engine import Engine
from mvc.remotes.keys import head_key, operation_key, pack_key
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.store.layout import U64, EntryKind
from mvc.store.local_fs import LocalFileSystem
from mvc.store.packs import PackWriter
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId

__all__ = ["Entry", "Parcel", "Sender", "body_of", "change", "head_of", "move_head", "store_operation", "write_pack"]

Entry = tuple[EntryKind, ObjectId, bytes]
"""Kind, id and body of an object."""


class Parcel(NamedTuple):
    """A pack that is to be sent."""

    id: ObjectId
    path: Path
    index_file: Path

    @property
    def key(self) -> str:
        """Its key."""
        return pack_key(self.id)


def _part(data: bytes, offset: int, length: int) -> memoryview:
    return memoryview(data)[offset : offset + length]


def write_pack(directory: Path, entries: Iterable[Entry]) -> Parcel:
    """Write a pack into `directory`."""
    for path in (directory, directory / "tmp"):
        path.mkdir(parents=True, exist_ok=True)
    temporaries = Temporaries(directory, LocalFileSystem())
    with temporaries.draft() as draft:
        writer = PackWriter(draft)
        for kind, oid, body in entries:
            writer.add(kind, oid, body)
        pack = writer.publish(directory, temporaries)
    return Parcel(pack, directory / f"{pack}.pack", directory / f"{pack}.idx")


class Sender:
    """A repository whose objects are sent, and what a client does for that."""

    def __init__(self, session: Session, directory: Path) -> None:
        self.session = session
        self.directory = directory

    def entries(self) -> Iterator[Entry]:
        """Yield kind, id and body of everything that is stored."""
        store = self.session.store
        for found in store.locations():
            body = store.read(found.oid, found.location)
            kind = found.kind
            if kind is None:
                envelope = Envelope.fetch(len(body), partial(_part, bytes(body)))
                kind = EntryKind.TENSOR if envelope.kind == "tensor" else EntryKind.LITERAL
            yield kind, found.oid, bytes(body)

    def parcel(self, without: Collection[ObjectId] = ()) -> Parcel:
        """Return a pack of everything, less some ids."""
        return write_pack(self.directory, [entry for entry in self.entries() if entry[1] not in without])

    @staticmethod
    def operation(state: RefState, changes: Sequence[RefChange], **other: Any) -> Operation:  # noqa: ANN401 - any field
        """Return the operation that a client makes on top of a state."""
        fields: dict[str, Any] = {
            "number": state.number + 1,
            "parents": (state.operation,),
            "changes": tuple(changes),
            "view": apply_changes(state.refs, changes),
            "command": "mvc push",
            "author": "Ada",
            "host": "box",
            "time": 0,
        }
        return Operation(**(fields | other))


def body_of(operation: Operation) -> bytes:
    """Return the file of an operation."""
    return U64.pack(xxh3_64_intdigest(operation.encoded)) + operation.encoded


def head_of(operation: Operation) -> bytes:
    """Return the head file that names an operation."""
    return f"{operation.id}\n".encode()


def store_operation(engine: Engine, operation: Operation) -> bool:
    """Store an operation."""
    return engine.create(operation_key(operation.id), body_of(operation))


def move_head(engine: Engine, operation: Operation) -> bool:
    """Store an operation and make it the head."""
    store_operation(engine, operation)
    return engine.create(head_key(operation.number), head_of(operation))


def change(state: RefState, name: str, new: str | None) -> RefChange:
    """Return a change of a ref."""
    return RefChange(name, state.refs.get(name), new)
