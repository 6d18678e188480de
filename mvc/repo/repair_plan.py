"""What a repair does next, decided from a diagnosis alone: pure, so that it can be shown before it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from mvc.objects.operation import Operation
from mvc.repo.check_copies import Copy, State
from mvc.repo.check_log import LogCheck
from mvc.repo.diagnosis import Diagnosis
from mvc.types import ObjectId

__all__ = ["HeadFile", "RepairPlan", "Restore", "SetAside", "Wanted", "plan_repair", "unexplained", "wanted"]

_ALIKE: Final = 48
"""Digits of 64 in which a damaged id agrees with the one that it was; two different ids agree in 4 on average."""

ObjectSort = Literal["content", "metadata", "operation"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What another place may be able to give.

    Parameters
    ----------
    contents, metadata, operations : frozenset of ObjectId
        Objects of which no copy can be read.
    numbers : frozenset of int
        Operations whose numbers are known, and whose ids are lost.
    """

    contents: frozenset[ObjectId] = frozenset()
    metadata: frozenset[ObjectId] = frozenset()
    operations: frozenset[ObjectId] = frozenset()
    numbers: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.contents or self.metadata or self.operations or self.numbers)


@dataclass(frozen=True, slots=True)
class Restore:
    """Store an object again.

    Parameters
    ----------
    oid : ObjectId
        Which.
    sort : {"content", "metadata", "operation"}
        What it is; a content is stored as a full encoding.
    origin : str
        Where it is taken from.
    """

    oid: ObjectId
    sort: ObjectSort
    origin: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """Move a damaged file to ``corrupt/``; everything that it held is stored elsewhere, or nothing needs it.

    Parameters
    ----------
    sort : {"blob", "pack", "operation"}
        What the file is.
    oid : ObjectId
        Of the object or pack.
    """

    sort: Literal["blob", "pack", "operation"]
    oid: ObjectId


@dataclass(frozen=True, slots=True)
class HeadFile:
    """Write a damaged file of ``op_head`` again.

    Parameters
    ----------
    number : int
        Of the operation.
    oid : ObjectId
        Its id.
    """

    number: int
    oid: ObjectId


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What to do, in this order.

    Parameters
    ----------
    restore : tuple of Restore
        Objects to be taken from elsewhere.
    carry : tuple of Copy
        Good copies in damaged packs, to be written into a new one.
    heads : tuple of HeadFile
        Files of the head.
    set_aside : tuple of SetAside
        Files that have been replaced.
    indexes : tuple of ObjectId
        Packs whose index is to be made again.
    reindex : bool
        Whether to make the SQLite index again.
    """

    restore: tuple[Restore, ...] = ()
    carry: tuple[Copy, ...] = ()
    heads: tuple[HeadFile, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    indexes: tuple[ObjectId, ...] = ()
    reindex: bool = False

    def __bool__(self) -> bool:
        return bool(self.restore or self.carry or self.heads or self.set_aside or self.indexes or self.reindex)


def wanted(found: Diagnosis) -> Wanted:
    """Return what should be looked for in other places."""
    copies, log = found.copies, found.log
    lost = {oid for oid in copies.by_id if oid not in copies.good}
    metadata = {oid for oid in lost if all(copy.is_metadata for copy in copies.by_id[oid])}
    unreadable = {oid for oid in found.history.unreadable if oid not in copies.good}
    operations = {*log.corrupt, *([log.broken] if log.broken else [])}
    numbers = {number for number, oid in log.heads.items() if oid is None}
    return Wanted(
        frozenset(lost - metadata - unreadable) | found.missing.keys(),
        frozenset(metadata | unreadable),
        frozenset(operations),
        frozenset(numbers - {operation.number for operation in log.operations.values()}),
    )


def unexplained(found: Diagnosis, offered: Mapping[ObjectId, str]) -> frozenset[ObjectId]:
    """Return contents that cannot be decoded even when all that is `offered` is stored again."""
    good = {*found.copies.good, *offered}
    lost = {oid for oid in found.copies.by_id if oid not in good}
    while True:
        decodable = {
            oid
            for oid in lost
            for copy in found.copies.by_id[oid]
            if copy.state is State.HANGS and good.issuperset(copy.references)
        }
        if not decodable:
            return frozenset(lost)
        good |= decodable
        lost -= decodable


def plan_repair(
    found: Diagnosis, offered: Mapping[ObjectId, str], operations: Mapping[ObjectId, Operation]
) -> RepairPlan:
    """Return what to do next. Nothing is to be done where nothing is wrong, or nothing can be done about it.

    A file is set aside only when a diagnosis has found good copies elsewhere of all that it held: first they are
    written, and the next plan, made of the next diagnosis, moves what they replace.

    Parameters
    ----------
    found : Diagnosis
        What is wrong.
    offered : mapping of ObjectId to str
        What other places can give, and which place.
    operations : mapping of ObjectId to Operation
        The operations among them.
    """
    planner = _Planner(found, offered)
    return RepairPlan(
        tuple(planner.restores()),
        tuple(planner.carried()),
        tuple(_heads(found.log, operations)),
        tuple(planner.set_aside()),
        tuple(pack.pack for pack in found.packs if pack.index_problem is not None and pack.problem is None),
        found.index is not None,
    )


class _Planner:
    """Decides about objects."""

    def __init__(self, found: Diagnosis, offered: Mapping[ObjectId, str]) -> None:
        self._found = found
        self._offered = offered
        self._wanted = wanted(found)

    @cached_property
    def _damaged_packs(self) -> frozenset[ObjectId]:
        """Return packs that hold anything that is not as it should be."""
        corrupt = {copy.location.pack for copy in self._found.copies.all() if copy.state is State.CORRUPT}
        damaged = {pack.pack for pack in self._found.packs if pack.problem is not None}
        return frozenset(damaged | {pack for pack in corrupt if pack is not None})

    @cached_property
    def _safe(self) -> frozenset[ObjectId]:
        """Return objects of which there is a good copy outside of damaged packs."""
        return frozenset(
            copy.oid
            for copy in self._found.copies.all()
            if copy.state is State.GOOD and copy.location.pack not in self._damaged_packs
        )

    @cached_property
    def _irreplaceable(self) -> frozenset[ObjectId]:
        """Return objects that are needed and lost: what is left of them stays where it is."""
        lost = unexplained(self._found, self._offered) | self._wanted.metadata | self._found.missing.keys()
        return frozenset(oid for oid in lost if oid in self._reachable and oid not in self._offered)

    @property
    def _lacks_something(self) -> bool:
        """True if something is needed of which nothing is found: what is left of it may lie in a damaged pack."""
        return any(oid in self._reachable for oid in self._found.missing)

    @property
    def _garbage_is_known(self) -> bool:
        """True if what no ref reaches is surely needed by nobody: whatever names objects can be read."""
        return self._found.complete and not self._irreplaceable

    def restores(self) -> Iterator[Restore]:
        """Yield what is lost and offered; a delta whose base is stored again needs nothing itself."""
        roots = {
            oid
            for oid in self._wanted.contents
            if any(copy.state is State.CORRUPT for copy in self._found.copies.by_id.get(oid, ()))
            or oid in self._found.missing
        }
        first = {oid: origin for oid, origin in self._offered.items() if oid in roots}
        rest = unexplained(self._found, first) & self._wanted.contents
        for oid in sorted(self._offered):
            origin = self._offered[oid]
            if oid in first or oid in rest:
                yield Restore(oid, "content", origin)
            elif oid in self._wanted.metadata:
                yield Restore(oid, "metadata", origin)
            elif oid not in self._wanted.contents:
                yield Restore(oid, "operation", origin)

    def carried(self) -> Iterator[Copy]:
        """Yield the good copies in damaged packs that can be given up once these are stored elsewhere."""
        for pack in sorted(self._damaged_packs):
            copies = self._in_pack(pack)
            if self._found.complete and all(self._may_go(copy) or copy.state is State.GOOD for copy in copies):
                yield from (copy for copy in copies if not self._may_go(copy))

    def set_aside(self) -> Iterator[SetAside]:
        """Yield the damaged files that hold nothing any more that is needed and not stored elsewhere."""
        for copy in self._found.copies.all():
            if copy.location.is_loose and copy.state is State.CORRUPT and self._may_go(copy):
                yield SetAside("blob", copy.oid)
        for pack in sorted(self._damaged_packs):
            if (
                self._found.complete
                and not self._lacks_something
                and all(self._may_go(copy) for copy in self._in_pack(pack))
            ):
                yield SetAside("pack", pack)
        if self._garbage_is_known:
            for oid in self._found.log.corrupt:
                if oid not in self._offered:
                    yield SetAside("operation", oid)

    def _in_pack(self, pack: ObjectId) -> list[Copy]:
        return [copy for copy in self._found.copies.all() if copy.location.pack == pack]

    def _may_go(self, copy: Copy) -> bool:
        """Return True if a copy is not needed where it is: it is stored elsewhere, or is garbage and damaged."""
        if copy.oid in self._safe:
            return True
        return copy.state is not State.GOOD and self._garbage_is_known and copy.oid not in self._reachable

    @cached_property
    def _reachable(self) -> frozenset[ObjectId]:
        return self._found.reachable()


def _heads(log: LogCheck, offered: Mapping[ObjectId, Operation]) -> Iterator[HeadFile]:
    """Yield the files of the head whose content is known for certain."""
    if not log.heads:
        yield from _lost_head(log)
        return
    newest = max(log.heads)
    numbered: dict[int, list[ObjectId]] = {}
    for oid, operation in {**offered, **log.operations}.items():
        numbered.setdefault(operation.number, []).append(oid)
    on_line = {log.operations[oid].number: oid for oid in log.line}
    for number, said in log.heads.items():
        lost = number == newest and not (said in log.operations or said in log.corrupt or said in offered)
        if number not in log.wrong_heads and not lost:
            continue
        alike = [oid for oid in numbered.get(number, []) if said is None or _agree(oid, said)]
        known = [on_line[number]] if number in on_line else alike
        if len(known) == 1:
            yield HeadFile(number, known[0])


def _agree(oid: ObjectId, said: ObjectId) -> bool:
    """Return True if a damaged id may have been `oid`."""
    return sum(a == b for a, b in zip(oid, said, strict=True)) >= _ALIKE


def _lost_head(log: LogCheck) -> Iterator[HeadFile]:
    """Yield the newest operation, if there is exactly one, and none that cannot be read may be newer."""
    number = max((operation.number for operation in log.operations.values()), default=-1)
    newest = [oid for oid, operation in log.operations.items() if operation.number == number]
    if len(newest) == 1 and not log.corrupt:
        yield HeadFile(number, newest[0])
