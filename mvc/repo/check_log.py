"""Checking the operation log: that it can be read back to its beginning, and does not contradict itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mvc.errors import FormatError, IntegrityError, NotFoundError, StorageError
from mvc.objects.operation import Operation, Refs, apply_changes
from mvc.store.object_store import ObjectStore
from mvc.store.op_head import KEPT_HEADS, Head
from mvc.types import ObjectId

__all__ = ["LogCheck", "LogTail", "check_log", "check_tail", "read_operation"]


@dataclass(frozen=True, slots=True)
class LogCheck:
    """What is known of the operation log.

    Parameters
    ----------
    heads : mapping of int to ObjectId or None
        What the files of ``op_head`` say, by number; None for one that does not hold an id.
    operations : mapping of ObjectId to Operation
        Every operation that can be read, whether the head leads to it or not.
    corrupt : mapping of ObjectId to str
        What is wrong with those that are stored and cannot be read.
    line : tuple of ObjectId
        Those that the head leads to, newest first, as far as they can be read.
    broken : ObjectId or None
        The operation at which the line ends too early.
    refs : Refs or None
        The refs after the newest operation; None if they cannot be known.
    contradictions : mapping of ObjectId to str
        Operations that can be read, but contradict the one before.
    wrong_heads : mapping of int to str
        What is wrong with files of ``op_head``, by number; of the newest one only if it does not hold an id.
    """

    heads: Mapping[int, ObjectId | None]
    operations: Mapping[ObjectId, Operation]
    corrupt: Mapping[ObjectId, str]
    line: tuple[ObjectId, ...]
    broken: ObjectId | None
    refs: Refs | None
    contradictions: Mapping[ObjectId, str]
    wrong_heads: Mapping[int, str]

    @property
    def head(self) -> Head | None:
        """The head, if its file holds an id."""
        number = max(self.heads, default=None)
        oid = None if number is None else self.heads[number]
        return None if number is None or oid is None else Head(number, oid)

    @property
    def whole(self) -> bool:
        """True if the head leads to the first operation."""
        return self.head is not None and self.broken is None


def check_log(store: ObjectStore) -> LogCheck:
    """Read every operation and every file of the head."""
    heads = store.head.files()  # first: an operation is older than the head that names it
    operations, corrupt = _read_all(store)
    newest = heads[max(heads)] if heads else None
    line = tuple(_line(newest, operations))
    last = operations[line[-1]].parents[:1] if line else ()
    broken = last[0] if last else newest if newest and not line else None
    contradictions = dict(_contradictions(line, operations))
    if line and operations[line[0]].number != max(heads):
        contradictions[line[0]] = f"it has number {operations[line[0]].number}; its head file has {max(heads)}"
    wrong_heads = dict(_wrong_heads(heads, line, operations, {*corrupt, *([broken] if broken else [])}))
    return LogCheck(heads, operations, corrupt, line, broken, _refs(line, operations), contradictions, wrong_heads)


@dataclass(frozen=True, slots=True)
class LogTail:
    """What a check of the newest operations found: nothing wrong.

    Parameters
    ----------
    new : tuple of ObjectId
        Operations that follow the one that was known, newest first.
    refs : Refs
        The refs after the newest operation.
    """

    new: tuple[ObjectId, ...]
    refs: Refs


def check_tail(store: ObjectStore, heads: Mapping[int, ObjectId | None], known: ObjectId) -> LogTail | None:
    """Check the operations that follow one whose line is known to be whole; None if anything is wrong.

    Parameters
    ----------
    store : ObjectStore
        Where to read.
    heads : mapping of int to ObjectId or None
        What the files of ``op_head`` say.
    known : ObjectId
        The operation.

    Raises
    ------
    NotFoundError
        If an operation is missing.
    """
    newest = heads[max(heads)] if heads else None
    operations: dict[ObjectId, Operation] = {}
    oid, passed = newest, False
    while oid is not None:
        found = read_operation(store, oid)
        if isinstance(found, str):
            return None
        operations[oid] = found
        passed = passed or oid == known
        if passed and found.view is not None and found.number <= min(heads):  # every head file is judged by it
            break
        oid = next(iter(found.parents), None)
    line = tuple(operations)
    refs = _refs(line, operations)
    wrong = any(_contradictions(line, operations)) or any(_wrong_heads(heads, line, operations, ()))
    if not passed or refs is None or wrong or operations[line[0]].number != max(heads):
        return None
    return LogTail(line[: line.index(known)], refs)


def _read_all(store: ObjectStore) -> tuple[dict[ObjectId, Operation], dict[ObjectId, str]]:
    operations: dict[ObjectId, Operation] = {}
    corrupt: dict[ObjectId, str] = {}
    for oid in store.operations.ids():
        with suppress(NotFoundError):  # removed since it was listed
            found = read_operation(store, oid)
            if isinstance(found, str):
                corrupt[oid] = found
            else:
                operations[oid] = found
    return operations, corrupt


def read_operation(store: ObjectStore, oid: ObjectId) -> Operation | str:
    """Return an operation, or what is wrong with what is stored; NotFoundError if nothing is."""
    try:
        return Operation.decode(store.operations.read(oid))
    except (IntegrityError, FormatError, StorageError) as error:
        return error.message


def _line(newest: ObjectId | None, operations: Mapping[ObjectId, Operation]) -> Iterator[ObjectId]:
    """Yield operations along first parents. Ids are digests, so there are no circles."""
    oid = newest
    while oid is not None and oid in operations:
        yield oid
        oid = next(iter(operations[oid].parents), None)


def _wrong_heads(
    heads: Mapping[int, ObjectId | None],
    line: Sequence[ObjectId],
    operations: Mapping[ObjectId, Operation],
    lost: Collection[ObjectId],
) -> Iterator[tuple[int, str]]:
    """Yield files of the head that do not name what they must (spec-v1, section 9); `lost` are faults of their own."""
    newest = max(heads, default=0)
    on_line = {operations[oid].number: oid for oid in line}
    for number, said in heads.items():
        right = on_line.get(number) if number >= newest - KEPT_HEADS else None
        if said is None:
            yield number, "it does not hold the id of an operation"
        elif number == newest or said == right or (right is None and said in lost):
            continue
        elif right is not None:
            yield number, f"it names operation {said}; that of its number is {right}"
        elif said not in operations or operations[said].number != number:
            yield number, f"it names {said}, and no operation of its number is stored as that"


def _refs(line: Sequence[ObjectId], operations: Mapping[ObjectId, Operation]) -> Refs | None:
    for place, oid in enumerate(line):
        view = operations[oid].view
        if view is not None:
            refs = dict(view)
            for later in reversed(line[:place]):
                refs = apply_changes(refs, operations[later].changes)
            return refs
    return None


def _contradictions(
    line: Sequence[ObjectId], operations: Mapping[ObjectId, Operation]
) -> Iterator[tuple[ObjectId, str]]:
    """Yield what is wrong between operations that can be read, oldest first."""
    refs: Refs | None = None
    before: Operation | None = None
    for oid in reversed(line):
        operation = operations[oid]
        if before is not None and operation.number != before.number + 1:
            yield oid, f"it has number {operation.number}, the operation before it {before.number}"
        replayed = None if refs is None else apply_changes(refs, operation.changes)
        if operation.view is not None and replayed is not None and dict(operation.view) != replayed:
            yield oid, "its view of the refs is not what the changes since the view before lead to"
        refs, before = replayed if operation.view is None else operation.view, operation
