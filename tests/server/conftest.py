"""What tests of servers share: a repository that is served, and true objects to send to it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from xxhash import xxh3_64_intdigest

from mvc.objects.blob import Envelope
from mvc.objects.operation import Operation, RefChange, apply_changes
from mvc.remotes.keys import head_key, operation_key, pack_key
from mvc.repo.clock import Actor
from mvc.repo.init import init
from mvc.server.service import Repository, Scope, Service
from mvc.store.layout import U64, EntryKind
from mvc.store.local_fs import LocalFileSystem
from mvc.store.packs import PackWriter
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId


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


def write_pack(directory: Path, entries) -> Parcel:
    """Write a pack of (kind, id, body)."""
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

    def __init__(self, lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory

    def entries(self):
        """Yield kind, id and body of everything that is stored."""
        store = self.lab.session.store
        for found in store.locations():
            body = store.read(found.oid, found.location)
            kind = found.kind
            if kind is None:
                envelope = Envelope.fetch(len(body), partial(_part, bytes(body)))
                kind = EntryKind.TENSOR if envelope.kind == "tensor" else EntryKind.LITERAL
            yield kind, found.oid, bytes(body)

    def parcel(self, without=frozenset()) -> Parcel:
        """Return a pack of everything, less some ids."""
        return write_pack(self.directory, [entry for entry in self.entries() if entry[1] not in without])

    @staticmethod
    def operation(state, changes, **other) -> Operation:
        """Return the operation that a client makes on top of a state."""
        fields = {
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


def store_operation(engine, operation: Operation):
    """Store an operation."""
    return engine.create(operation_key(operation.id), body_of(operation))


def move_head(engine, operation: Operation):
    """Store an operation and make it the head."""
    store_operation(engine, operation)
    return engine.create(head_key(operation.number), head_of(operation))


def change(state, name: str, new: str | None) -> RefChange:
    """Return a change of a ref."""
    return RefChange(name, state.refs.get(name), new)


@pytest.fixture
def repository(tmp_path):
    """Return a bare repository that is served."""
    session = init(tmp_path / "served", Actor("Ada", "init"), bare=True)
    return Repository(session.layout, largest=64 << 20, decoded=1 << 30)


@pytest.fixture
def service(repository):
    """Return it as somebody may use it who may write."""
    return Service(repository, Scope.WRITE, "test")


@pytest.fixture
def sender(lab, tmp_path):
    """Return a repository with two commits, the second one stored as deltas."""
    model = lab.model()
    lab.committed(model)
    lab.committed(lab.tuned(model, 1))
    return Sender(lab, tmp_path / "packs")
