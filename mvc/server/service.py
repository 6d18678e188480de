"""A repository that others may write to: everything is checked here before anybody sees it.

What arrives lies outside of the store until every blob was decoded and compared with its id; refs move only to commits
of which everything is stored. So whoever reads the repository, by whatever way, may trust it as far as he trusts this
machine, and not those who pushed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock

from mvc.errors import AuthenticationError, ConflictError, IntegrityError, MalformedError, NotFoundError, RemoteError
from mvc.objects.blob import Envelope
from mvc.objects.ids import OPERATION, digest
from mvc.objects.operation import Operation, RefChange, apply_changes
from mvc.objects.refnames import BRANCHES, TAGS
from mvc.remotes.engine import Body, Capabilities, Engine, KeyInfo
from mvc.remotes.keys import (
    FORMAT,
    HEADS,
    LOOSE,
    OPERATIONS,
    PACKS,
    PROBES,
    check_key,
    index_key,
    pack_key,
)
from mvc.remotes.posix import PosixEngine
from mvc.remotes.receiving import Arrival, Receiver, inspect_pack, require_whole
from mvc.remotes.wire import body_size
from mvc.repo.layout import Layout, check_format, find_layout, read_features
from mvc.repo.presence import check_present
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.server.limits import DECODED_BYTES, LARGEST_PACK, check_size
from mvc.store.checks import check_xxh3
from mvc.store.layout import U64
from mvc.store.op_head import KEPT_HEADS, parse_head
from mvc.store.pack_index import encode_index
from mvc.store.pack_scan import scan_pack
from mvc.types import ObjectId, object_id

__all__ = ["Repository", "Scope", "Service", "check_complete", "find_served"]


class Scope(IntEnum):
    """What somebody may do; each may do what the ones before it may."""

    READ = 0
    WRITE = 1
    ADMIN = 2


def find_served(path: Path) -> Layout | None:
    """Return the repository at `path`, which may be served; None if there is none.

    Raises
    ------
    FormatError
        If this release cannot write it.
    RemoteError
        If it does not hold everything.
    """
    layout = find_layout(path) if path.is_dir() else None
    if layout is not None:
        check_format(layout, "write")
        check_complete(layout)
    return layout


def check_complete(layout: Layout) -> None:
    """Refuse a repository that lacks something by design: who clones it relies on its having everything.

    Raises
    ------
    RemoteError
        If it is shallow, partial or thinned (spec-v1, section 12).
    """
    features = sorted({name for names in read_features(layout).values() for name in names})
    if features or layout.shallow.exists():
        raise RemoteError(
            f"the repository is {' and '.join(features) or 'shallow'}: it does not hold everything, and is not served",
            hint="serve a full clone; mvc fetch --unshallow makes a shallow one whole",
        )


class Repository:
    """What all services of one repository share.

    One pack is checked at a time, and one move of refs; neither waits for the other, for a pack may take hours. So each
    has a session of its own, as two processes would.

    Parameters
    ----------
    layout : Layout
        Where it is.
    largest : int
        Bytes of the largest pack that is taken.
    decoded : int
        Bytes to which the blobs of one pack may decode.
    """

    def __init__(self, layout: Layout, largest: int = LARGEST_PACK, decoded: int = DECODED_BYTES) -> None:
        self.engine = PosixEngine(layout.root, url="the repository")
        self.session = Session(layout)
        self.packs = Session(layout)
        self.bare = layout.bare
        self.largest = largest
        self.decoded = decoded
        self.spool = layout.directory / "tmp"
        self.lock = Lock()
        self.packs_lock = Lock()
        self.session.fs.mkdir(self.spool)


class Service(Engine):
    """A repository as somebody may use it.

    Parameters
    ----------
    repository : Repository
        Which.
    scope : Scope
        What he may do.
    url : str
        How he calls it, for messages.
    """

    def __init__(self, repository: Repository, scope: Scope, url: str) -> None:
        self.url = url
        self._repository = repository
        self._engine = repository.engine
        self._scope = scope

    @property
    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        return Capabilities(True, self._engine.capabilities.connections, not self._repository.bare)

    def list(self, prefix: str) -> Iterator[KeyInfo]:
        """See `Engine.list`."""
        return self._engine.list(prefix)

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`."""
        return self._engine.read(key, offset, length)

    def read_all(self, key: str, limit: int) -> bytes:
        """See `Engine.read_all`."""
        return self._engine.read_all(key, limit)

    def touch(self, key: str) -> bool:
        """See `Engine.touch`."""
        self._need(Scope.WRITE, "write to")
        return self._engine.touch(key)

    def delete(self, key: str) -> None:
        """See `Engine.delete`: for administrators, but for what was written to try whether one can write.

        Raises
        ------
        AuthenticationError
            If he may not.
        RemoteError
            If without it there would be no repository.
        """
        own = check_key(key).startswith(PROBES)
        self._need(Scope.WRITE if own else Scope.ADMIN, "remove anything from")
        if key == FORMAT or (key.startswith(HEADS) and int(key[len(HEADS) :]) >= self._newest() - KEPT_HEADS):
            raise RemoteError(f"{key} is not to be removed: the repository needs it")
        self._engine.delete(key)

    def admit(self, key: str, size: int) -> None:
        """See `Engine.admit`.

        Raises
        ------
        AuthenticationError
            If he may not write.
        RemoteError
            If it is larger than what is taken here.
        """
        self._need(Scope.WRITE, "write to")
        check_size(check_key(key), size, self._repository.largest)

    def create(self, key: str, body: Body) -> bool:
        """See `Engine.create`: what is not what its key says, or needs what is not here, is refused.

        A file must not change meanwhile.

        Raises
        ------
        AuthenticationError
            If he may not write.
        IntegrityError
            If it is not what it is said to be.
        RemoteError
            If it is larger than what is taken here, or a move of refs that is not.
        """
        self.admit(key, body_size(body))
        if self._engine.info(key) is not None:
            return False
        if key.startswith((PACKS, LOOSE)):
            with self._repository.packs_lock:
                return self._create_pack(key, body) if key.startswith(PACKS) else self._create_loose(key, body)
        if key.startswith((OPERATIONS, HEADS)):
            with self._repository.lock:
                return self._create_operation(key, body) if key.startswith(OPERATIONS) else self._create_head(key, body)
        if key == FORMAT:
            raise RemoteError("this repository is being made: try again", transient=True)
        return self._engine.create(key, body)

    def _need(self, scope: Scope, what: str) -> None:
        if self._scope < scope:
            raise AuthenticationError(f"you may not {what} this repository", hint="ask whoever runs the server")

    def _newest(self) -> int:
        head = self._repository.session.store.head.read()
        return head.number if head else 0

    def _create_pack(self, key: str, body: Body) -> bool:
        """Take a pack, whose index is made here; an index that somebody else made is not taken."""
        pack = object_id(key.removeprefix(PACKS).partition(".")[0])
        if key.endswith(".idx"):
            if self._engine.info(pack_key(pack)) is None:
                raise RemoteError(f"there is no pack {pack} of which that could be the index")
            return self._index_pack(pack)
        with _as_file(body, self._repository.spool) as path:
            self._check_decoded(path)
            session = self._repository.packs
            session.refresh(force=True)
            inspect_pack(session, path, pack)
            free = self._engine.create(key, path)
        self._index_pack(pack)
        return free

    def _index_pack(self, pack: ObjectId) -> bool:
        session = self._repository.packs
        data = session.fs.map_file(self._engine.root / pack_key(pack))
        return self._engine.create(index_key(pack), encode_index(pack, scan_pack(data, f"pack {pack[:12]}")))

    def _check_decoded(self, path: Path) -> None:
        """Refuse a pack whose blobs claim to be more than anybody has, before one of them is decoded."""
        data = self._repository.packs.fs.map_file(path)
        total = 0
        for entry in scan_pack(data, "the pack"):
            if not entry.kind.is_metadata:
                body = data[entry.offset : entry.offset + entry.length]
                total += _claimed(body)
                if total > self._repository.decoded:
                    raise IntegrityError(f"the pack claims to decode to more than {self._repository.decoded:,} bytes")

    def _create_loose(self, key: str, body: Body) -> bool:
        oid = object_id(key.rpartition("/")[2].removesuffix(".blob"))
        session = self._repository.packs
        with _as_file(body, self._repository.spool) as path:
            data = session.fs.map_file(path)
            if _claimed(data) > self._repository.decoded:
                raise IntegrityError(f"blob {oid} claims to decode to more than {self._repository.decoded:,} bytes")
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
            return Operation.decode(self._repository.session.store.operations.read(oid))
        except NotFoundError:
            return None

    def _create_head(self, key: str, body: Body) -> bool:
        """Move the head, as a process on this machine would, if everything is here that it then leads to."""
        session = self._repository.session
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
        walk = self._repository.session.refs.walk(head)
        return next((candidate for candidate, operation in walk if operation.number <= number), None) == oid

    def _check_changes(self, operation: Operation, state: RefState) -> None:
        """Refuse an operation that is not what it says, or moves what is not to be moved from afar."""
        for change in operation.changes:
            if not change.name.startswith((BRANCHES, TAGS)):
                raise RemoteError(f"{change.name} is not to be moved from afar: only branches and tags are")
            if state.refs.get(change.name) != change.old:
                raise RemoteError(f"the operation says that {change.name} was at {change.old}, which it is not")
            if not self._repository.bare and change.name == state.branch:
                raise RemoteError(
                    f"{change.name} is checked out there, and its files would no longer fit",
                    hint="push another branch, or make the repository there a bare one: mvc init --bare",
                )
        if operation.view != apply_changes(state.refs, operation.changes):
            raise RemoteError("the view of the operation is not what its changes lead to")

    def _check_whole(self, changes: tuple[RefChange, ...], state: RefState, wanted: Sequence[ObjectId]) -> None:
        """Refuse refs that lead to what is not stored here, or to something else than a commit."""
        session = self._repository.session
        session.refresh(force=True)
        try:
            check_present(session, state, wanted, complete=True)
            for change in changes:
                if change.new:
                    self._check_target(change.name, object_id(change.new))
        except (NotFoundError, IntegrityError) as error:
            raise RemoteError(f"not everything that the refs would lead to is stored here: {error.message}") from error

    def _check_target(self, name: str, oid: ObjectId) -> None:
        session = self._repository.session
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
