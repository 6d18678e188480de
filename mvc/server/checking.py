"""What is pushed, checked before anybody sees it: packs blob by blob, moves of refs by all that they lead to.

Apart from `mvc.server.service`, which imports this when something is first pushed: it decodes and asks the index, and
whoever only reads is not to wait for what that takes to import.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock

from mvc.errors import ConflictError, IntegrityError, MalformedError, NotFoundError, RemoteError
from mvc.objects.blob import Envelope
from mvc.objects.ids import OPERATION, digest
from mvc.objects.operation import Operation, RefChange, apply_changes
from mvc.objects.refnames import BRANCHES, TAGS
from mvc.remotes.engine import Body
from mvc.remotes.keys import HEADS, LOOSE, OPERATIONS, PACKS, index_key, pack_key
from mvc.remotes.posix import PosixEngine
from mvc.remotes.receiving import Arrival, Receiver, inspect_pack, require_whole
from mvc.repo.layout import Layout
from mvc.repo.presence import check_present
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.store.checks import check_xxh3
from mvc.store.layout import U64
from mvc.store.op_head import parse_head
from mvc.store.pack_index import encode_index
from mvc.store.pack_scan import scan_pack
from mvc.types import ObjectId, object_id

__all__ = ["Checker"]


class Checker:
    """Takes what is what its key says, and needs nothing that is not here.

    One pack is checked at a time, and one move of refs; neither waits for the other, for a pack may take hours. So each
    has a session of its own, as two processes would.

    Parameters
    ----------
    layout : Layout
        The repository.
    engine : PosixEngine
        Its keys.
    decoded : int
        Bytes to which the blobs of one pack may decode.

    Attributes
    ----------
    packs_lock, refs_lock : Lock
        Held while a pack, or a move of refs, is checked.
    """

    def __init__(self, layout: Layout, engine: PosixEngine, decoded: int) -> None:
        self._engine = engine
        self._bare = layout.bare
        self._decoded = decoded
        self._spool = layout.directory / "tmp"
        self._refs = Session(layout)
        self._packs = Session(layout)
        self.refs_lock = Lock()
        self.packs_lock = Lock()

    def create(self, key: str, body: Body) -> bool:
        """Store what is pushed under a key of packs, loose blobs, operations or heads; see `Service.create`."""
        if key.startswith((PACKS, LOOSE)):
            with self.packs_lock:
                return self._create_pack(key, body) if key.startswith(PACKS) else self._create_loose(key, body)
        with self.refs_lock:
            return self._create_operation(key, body) if key.startswith(OPERATIONS) else self._create_head(key, body)

    def _create_pack(self, key: str, body: Body) -> bool:
        """Take a pack, whose index is made here; an index that somebody else made is not taken."""
        pack = object_id(key.removeprefix(PACKS).partition(".")[0])
        if key.endswith(".idx"):
            if self._engine.info(pack_key(pack)) is None:
                raise RemoteError(f"there is no pack {pack} of which that could be the index")
            return self._index_pack(pack)
        with _as_file(body, self._spool) as path:
            self._check_decoded(path)
            session = self._packs
            session.refresh(force=True)
            inspect_pack(session, path, pack)
            free = self._engine.create(key, path)
        self._index_pack(pack)
        return free

    def _index_pack(self, pack: ObjectId) -> bool:
        session = self._packs
        data = session.fs.map_file(self._engine.root / pack_key(pack))
        return self._engine.create(index_key(pack), encode_index(pack, scan_pack(data, f"pack {pack[:12]}")))

    def _check_decoded(self, path: Path) -> None:
        """Refuse a pack whose blobs claim to be more than anybody has, before one of them is decoded."""
        data = self._packs.fs.map_file(path)
        total = 0
        for entry in scan_pack(data, "the pack"):
            if not entry.kind.is_metadata:
                body = data[entry.offset : entry.offset + entry.length]
                total += _claimed(body)
                if total > self._decoded:
                    raise IntegrityError(f"the pack claims to decode to more than {self._decoded:,} bytes")

    def _create_loose(self, key: str, body: Body) -> bool:
        oid = object_id(key.rpartition("/")[2].removesuffix(".blob"))
        session = self._packs
        with _as_file(body, self._spool) as path:
            data = session.fs.map_file(path)
            if _claimed(data) > self._decoded:
                raise IntegrityError(f"blob {oid} claims to decode to more than {self._decoded:,} bytes")
            session.refresh(force=True)
            arrival = Arrival(oid, len(data), lambda offset, length: data[offset : offset + length])
            with session.pool() as pool:
                require_whole(Receiver(session, pool).inspect([arrival], {}), "this request")
            return self._engine.create(key, path)

    def _create_operation(self, key: str, body: Body) -> bool:
        """Take an operation that may become the head one day."""
        data = body if isinstance(body, bytes) else body.read_bytes()
        operation = _decoded(data, object_id(key.rpartition("/")[2]))
        if operation.view is None or len(operation.parents) != 1:
            raise RemoteError("an operation that is pushed has one parent, and holds a view of all refs")
        parent = self._operation(operation.parents[0])
        if parent is None or parent.number + 1 != operation.number:
            raise RemoteError("the parent of the operation is not stored here, or has another number")
        return self._engine.create(key, data)

    def _operation(self, oid: ObjectId) -> Operation | None:
        try:
            return Operation.decode(self._refs.store.operations.read(oid))
        except NotFoundError:
            return None

    def _create_head(self, key: str, body: Body) -> bool:
        """Move the head, as a process on this machine would, if everything is here that it then leads to."""
        session = self._refs
        number, oid = int(key.removeprefix(HEADS)), _named(body)
        operation = self._operation(oid)
        if operation is None:
            raise RemoteError(f"operation {oid}, which is to become the head, is not stored here")
        if operation.number != number:
            raise RemoteError(f"operation {oid} has number {operation.number}, not {number}")
        state = session.refs.state()
        if operation.parents != (state.operation,) or number != state.number + 1:
            return False  # somebody else was first
        self._check_changes(operation, state)
        wanted = [object_id(change.new) for change in operation.changes if change.new]
        with session.store.leases.take("taking a push", wanted) as lease:
            self._check_whole(operation.changes, state, wanted)
            if not lease.renew():
                raise RemoteError("this took too long, and what was looked at may be gone", transient=True)
            try:
                session.store.head.advance(number, oid, lambda one, head: self._is_below(one, number, head))
            except ConflictError:
                return False
        return True

    def _is_below(self, oid: ObjectId, number: int, head: ObjectId) -> bool:
        """Return whether the operation `oid`, of a number, is an ancestor of the operation `head`."""
        walk = self._refs.refs.walk(head)
        return next((candidate for candidate, operation in walk if operation.number <= number), None) == oid

    def _check_changes(self, operation: Operation, state: RefState) -> None:
        """Refuse an operation that is not what it says, or moves what is not to be moved from afar."""
        for change in operation.changes:
            if not change.name.startswith((BRANCHES, TAGS)):
                raise RemoteError(f"{change.name} is not to be moved from afar: only branches and tags are")
            if state.refs.get(change.name) != change.old:
                raise RemoteError(f"the operation says that {change.name} was at {change.old}, which it is not")
            if not self._bare and change.name == state.branch:
                raise RemoteError(
                    f"{change.name} is checked out there, and its files would no longer fit",
                    hint="push another branch, or make the repository there a bare one: mvc init --bare",
                )
        if operation.view != apply_changes(state.refs, operation.changes):
            raise RemoteError("the view of the operation is not what its changes lead to")

    def _check_whole(self, changes: tuple[RefChange, ...], state: RefState, wanted: Sequence[ObjectId]) -> None:
        """Refuse refs that lead to what is not stored here, or to something else than a commit."""
        session = self._refs
        session.refresh(force=True)
        try:
            check_present(session, state, wanted, complete=True)
            for change in changes:
                if change.new:
                    self._check_target(change.name, object_id(change.new))
        except (NotFoundError, IntegrityError) as error:
            raise RemoteError(f"not everything that the refs would lead to is stored here: {error.message}") from error

    def _check_target(self, name: str, oid: ObjectId) -> None:
        session = self._refs
        if oid in session.records([oid]):
            return
        if name.startswith(TAGS) and (target := session.tag(oid).target) in session.records([target]):
            return
        raise RemoteError(f"{name} would lead to something that is not a commit")


@contextmanager
def _as_file(body: Body, directory: Path) -> Iterator[Path]:
    """Yield a body as a file, which is a private one if it was none."""
    if isinstance(body, Path):
        yield body
        return
    with NamedTemporaryFile(dir=directory, suffix=".tmp") as file:
        file.write(body)
        file.flush()
        yield Path(file.name)


def _claimed(body: memoryview) -> int:
    """Return the bytes that a blob claims to decode to."""
    return Envelope.fetch(len(body), lambda offset, length: body[offset : offset + length]).spec.nbytes


def _decoded(data: bytes, oid: ObjectId) -> Operation:
    """Return the operation of an id that a file of ``ops`` holds.

    Raises
    ------
    IntegrityError
        If it holds something else.
    """
    if len(data) <= U64.size:
        raise MalformedError(f"operation {oid[:12]} has {len(data)} bytes")
    value = data[U64.size :]
    check_xxh3(value, U64.unpack_from(data)[0], f"operation {oid[:12]}")
    if digest(OPERATION, value) != oid:
        raise IntegrityError(f"the bytes of operation {oid} are those of another one")
    return Operation.decode(value)


def _named(body: Body) -> ObjectId:
    data = body if isinstance(body, bytes) else body.read_bytes()
    try:
        return parse_head(data)
    except ValueError as error:  # InvalidInputError and UnicodeDecodeError are such
        raise IntegrityError("the file of a head does not hold an id and a line feed") from error
