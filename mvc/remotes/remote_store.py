"""A repository behind an engine: its format, its head, its refs and its operations (remotes-v1, sections 3 and 4)."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_64_intdigest

from mvc.errors import (
    AlreadyExistsError,
    ConflictError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    MalformedError,
    MvcError,
    NoRepositoryError,
    NotFoundError,
    RemoteError,
)
from mvc.objects.ids import OPERATION, digest
from mvc.objects.operation import Operation, RefChange, Refs, apply_changes
from mvc.objects.refnames import HEAD, check_ref_names
from mvc.remotes.engine import Engine
from mvc.remotes.keys import (
    FORMAT,
    HEAD_BYTES,
    HEADS,
    MAX_FORMAT_BYTES,
    MAX_OPERATION_BYTES,
    head_key,
    operation_key,
)
from mvc.repo.clock import Actor, now
from mvc.repo.layout import FORMAT_TEXT, Access, Feature, check_document, features_of
from mvc.repo.refs import RefState, attach
from mvc.store.checks import check_xxh3
from mvc.store.layout import U64
from mvc.store.op_head import KEPT_HEADS, Head, parse_head
from mvc.types import ObjectId

__all__ = ["RemoteStore"]

_LACKING: Final[tuple[Feature, ...]] = ("shallow", "partial", "thinned")
"""What a repository that serves as a remote must not be."""
_WALK: Final = 64
"""Operations behind each other that may be without a view (spec-v1, section 4)."""
_TRIES: Final = 100
"""Heads that are read before giving up because each was removed before it was read."""
_OVERTAKEN: Final = 10_000
"""Operations that others may append while one writer waits for an answer; a remote that claims more has no end."""
_ATTEMPTS: Final = 100
"""Tries to append an operation; each failure means that another writer succeeded."""


@dataclass(frozen=True, slots=True)
class _Read:
    """An operation that was read, with its number as its head file says it."""

    oid: ObjectId
    operation: Operation


class RemoteStore:
    """Refs of a remote, and how they move.

    Parameters
    ----------
    engine : Engine
        Where the remote is.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def url(self) -> str:
        """Where it is, for messages."""
        return self.engine.url

    def check_format(self, access: Access = "read") -> None:
        """Refuse a remote of a format that this release does not know.

        Raises
        ------
        NoRepositoryError
            If there is none.
        IntegrityError
            If the format file is none.
        FormatError
            With the version or feature that is unknown; or if it is shallow, partial or thinned.
        """
        try:
            data = self.engine.read_all(FORMAT, MAX_FORMAT_BYTES)
        except NotFoundError as error:
            raise NoRepositoryError(f"there is no repository at {self.url}", hint="mvc remote add NAME URL") from error
        try:
            document = tomllib.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"the format file of {self.url} is not TOML: {error}") from error
        if not isinstance(document.get("version"), int):
            raise IntegrityError(f"the format file of {self.url} names no version")
        check_document(document, self.url, access)
        if lacking := sorted({*_LACKING} & {*features_of(document, self.url)["read"]}):
            raise FormatError(
                f"the repository at {self.url} is {lacking[0]}: it lacks what others would fetch, or rely on",
                hint="use the remote that it was cloned from",
            )

    def initialize(self, actor: Actor, branch: str) -> None:
        """Make an empty repository, whose HEAD follows the full ref name `branch`. May be repeated and interrupted.

        Raises
        ------
        AlreadyExistsError
            If there is one.
        """
        try:
            self.check_format()
        except NoRepositoryError:
            pass
        else:
            raise AlreadyExistsError(f"there is a repository at {self.url} already")
        if self.head() is None:
            refs = {HEAD: attach(branch)}
            changes = (RefChange(HEAD, None, refs[HEAD]),)
            first = Operation(0, (), changes, refs, actor.command, actor.author, actor.host, now())
            self._store(first)
            self.engine.create(head_key(0), f"{first.id}\n".encode("ascii"))
        self.engine.create(FORMAT, FORMAT_TEXT.encode())

    def head(self) -> Head | None:
        """Return the newest operation, or None if there is none.

        Raises
        ------
        IntegrityError
            If the head file does not hold an id.
        """
        for _ in range(_TRIES):
            numbers = self._numbers()
            if not numbers:
                return None
            try:
                return Head(numbers[-1], self._named(numbers[-1]))
            except NotFoundError:  # removed since it was listed: the head has moved on
                continue
        raise RemoteError(f"{self.url} changes faster than it can be read", transient=True)

    def checked_state(self) -> RefState:
        """Return all refs, as `state` does, of a format that this release knows.

        The format file is read only where something else is wrong: who goes on to read objects, or to write, checks it
        first (`check_format`). That saves a request where there is nothing to do.

        Raises
        ------
        MvcError
            As `check_format` and `state` do.
        """
        try:
            return self.state()
        except MvcError:
            self.check_format()
            raise

    def state(self) -> RefState:
        """Return all refs.

        Raises
        ------
        NotFoundError
            If there is no operation.
        IntegrityError
            If an operation is missing, corrupt, or not what its number says.
        """
        head = self.head()
        if head is None:
            raise NotFoundError(f"the repository at {self.url} has no operation", hint="mvc remote add NAME URL")
        path = [self._checked(head.oid, head.number)]
        while path[-1].operation.view is None:
            above = path[-1].operation
            if len(path) > _WALK or not above.parents:
                raise IntegrityError(f"no operation of {self.url} near its head holds a view of the refs")
            path.append(self._checked(above.parents[0], above.number - 1))
        refs: Refs = path[-1].operation.view or {}
        for item in reversed(path[:-1]):
            refs = apply_changes(refs, item.operation.changes)
        return RefState(head.oid, head.number, refs)

    def update(self, decide: Callable[[RefState], tuple[RefChange, ...]], actor: Actor, first: RefState) -> RefState:
        """Move refs by appending an operation, as `mvc.repo.refs.RefLog.update` does.

        Parameters
        ----------
        decide : callable
            Gets the newest state and returns the changes; raises `ConflictError` where it does not allow them.
        actor : Actor
            Who, and by which command.
        first : RefState
            The state as it was last read.

        Raises
        ------
        ConflictError
            If `decide` raises it.
        """
        state = first
        for _ in range(_ATTEMPTS):
            changes = tuple(sorted((c for c in decide(state) if c.old != c.new), key=lambda change: change.name))
            if not changes:
                return state
            operation = _next(state, changes, actor)
            self._store(operation)
            if self._advance(operation):
                return RefState(operation.id, operation.number, operation.view or {}, state.operation)
            state = self.state()
        raise ConflictError(f"{_ATTEMPTS} other writers of {self.url} were faster", hint="run the command again")

    def _store(self, operation: Operation) -> None:
        body = U64.pack(xxh3_64_intdigest(operation.encoded)) + operation.encoded
        self.engine.create(operation_key(operation.id), body)

    def _advance(self, operation: Operation) -> bool:
        """Make a stored operation the head; return False if another writer was first.

        Whether there was an answer or not: what is there now says who won.
        """
        problem = RemoteError(f"{self.url} does not list what was written to it", transient=True)
        try:
            self.engine.create(head_key(operation.number), f"{operation.id}\n".encode("ascii"))
        except RemoteError as error:
            problem = error
        head = self.head()
        if head is None or head.number < operation.number:
            raise problem
        if not self._holds(operation.number, operation.id, head):
            return False
        if operation.number % KEPT_HEADS == 0:
            self._prune(operation.number)
        return True

    def _holds(self, number: int, oid: ObjectId, head: Head) -> bool:
        """Return whether an operation is the head, or is below it."""
        if head.number == number:
            return head.oid == oid
        if head.number - number > _OVERTAKEN:
            raise RemoteError(f"{self.url} has moved on by {head.number - number:,} operations", transient=True)
        above = self._checked(head.oid, head.number)
        while above.operation.number > number + 1:
            above = self._checked(above.operation.parents[0], above.operation.number - 1)
        return above.operation.parents[0] == oid

    def _prune(self, newest: int) -> None:
        """Remove old head files, oldest first; failing to is no error, another writer will."""
        with suppress(MvcError):
            for old in self._numbers():
                if old < newest - KEPT_HEADS:
                    with suppress(NotFoundError):  # another writer was faster
                        self.engine.delete(head_key(old))

    def _numbers(self) -> list[int]:
        return sorted(int(item.key.removeprefix(HEADS)) for item in self.engine.keys(HEADS))

    def _named(self, number: int) -> ObjectId:
        data = self.engine.read_all(head_key(number), HEAD_BYTES)
        try:
            return parse_head(data)
        except (UnicodeDecodeError, InvalidInputError) as error:
            raise IntegrityError(f"head {number} of {self.url} does not hold the id of an operation") from error

    def _checked(self, oid: ObjectId, number: int) -> _Read:
        operation = self.operation(oid)
        if operation.number != number:
            raise IntegrityError(f"operation {oid} of {self.url} has number {operation.number}, not {number}")
        return _Read(oid, operation)

    def operation(self, oid: ObjectId) -> Operation:
        """Return an operation, compared with its id.

        Raises
        ------
        IntegrityError
            If it is missing or corrupt.
        """
        where = f"operation {oid[:12]} of {self.url}"
        try:
            data = memoryview(self.engine.read_all(operation_key(oid), MAX_OPERATION_BYTES))
        except NotFoundError as error:
            raise IntegrityError(f"{where} is missing") from error
        if len(data) <= U64.size:
            raise MalformedError(f"{where} has {len(data)} bytes")
        value = bytes(data[U64.size :])
        check_xxh3(value, U64.unpack_from(data)[0], where)
        if digest(OPERATION, value) != oid:
            raise IntegrityError(f"{where} holds another one")
        return Operation.decode(value)


def _next(state: RefState, changes: tuple[RefChange, ...], actor: Actor) -> Operation:
    """Return the operation that makes `changes`, with the view that readers of a remote are spared a walk by."""
    refs = apply_changes(state.refs, changes)
    check_ref_names(set(refs) - {HEAD})
    return Operation(
        state.number + 1, (state.operation,), changes, refs, actor.command, actor.author, actor.host, now()
    )
