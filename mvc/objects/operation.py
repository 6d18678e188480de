"""Operations: what moved the refs, and the refs after it (spec-v1, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from mvc.errors import InvalidInputError, MalformedError
from mvc.objects.canonical import Value, decode, encode
from mvc.objects.fields import array, integer, oid, record, text
from mvc.objects.ids import OPERATION, digest
from mvc.objects.refnames import BRANCHES, HEAD, check_ref_names, is_ref_name
from mvc.types import ObjectId, object_id, raw_id

__all__ = ["VIEW_INTERVAL", "Operation", "RefChange", "Refs", "apply_changes", "difference"]

VIEW_INTERVAL: Final = 64
"""Operations between full views: a read walks at most 64 small files, and 10,000 operations on 1,000 branches hold
160 views."""

_FIELDS: Final = frozenset({"number", "parents", "changes", "view", "command", "author", "host", "time"})
_SYMBOLIC: Final = "ref: "

Refs = Mapping[str, str]
"""Full ref name -> ref value: the 64 digits of an id or, for HEAD, ``ref: refs/heads/NAME``."""


@dataclass(frozen=True, slots=True)
class RefChange:
    """One ref, before and after.

    Parameters
    ----------
    name : str
        Full ref name.
    old, new : str or None
        Ref values; None where the ref does not exist.
    """

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Operation:
    """One move of the refs.

    Parameters
    ----------
    number : int
        One more than the parent's; 0 for the first.
    parents : tuple of ObjectId
        Operations before this one.
    changes : tuple of RefChange
        Sorted by name.
    view : Refs, optional
        All refs after this operation.
    command, author, host : str
        What, who and where.
    time : int
        Microseconds since 1970-01-01T00:00:00Z.

    Raises
    ------
    InvalidInputError
        If a ref name or value is malformed, a view is missing where it must be, or parents are where none may be.
    """

    number: int
    parents: tuple[ObjectId, ...]
    changes: tuple[RefChange, ...]
    view: Refs | None
    command: str
    author: str
    host: str
    time: int

    def __post_init__(self) -> None:
        if (self.number == 0) != (not self.parents):
            raise InvalidInputError(f"operation {self.number} has {len(self.parents)} parents")
        names = [change.name for change in self.changes]
        if names != sorted(set(names)):
            raise InvalidInputError("changes of refs are not in order, or one ref changes twice")
        for change in self.changes:
            for value in (change.old, change.new):
                _check_ref(change.name, value)
        if self.view is None and self.number % VIEW_INTERVAL == 0:
            raise InvalidInputError(f"operation {self.number} must hold a view of all refs")
        for name, value in (self.view or {}).items():
            _check_ref(name, value)
        check_ref_names(set(self.view or {}) - {HEAD})

    @cached_property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        return encode(
            {
                "number": self.number,
                "parents": [raw_id(parent) for parent in self.parents],
                "changes": [[change.name, change.old, change.new] for change in self.changes],
                "view": None if self.view is None else dict(self.view),
                "command": self.command,
                "author": self.author,
                "host": self.host,
                "time": self.time,
            }
        )

    @cached_property
    def id(self) -> ObjectId:
        """The operation's id."""
        return digest(OPERATION, self.encoded)

    @classmethod
    def decode(cls, data: bytes) -> Operation:
        """Return the operation that `data` encodes.

        Raises
        ------
        MalformedError
            If `data` is not the canonical encoding of a valid operation.
        """
        fields = record(decode(data), _FIELDS, "operation")
        try:
            return cls(
                integer(fields["number"], "number", 0, 10**20 - 1),
                tuple(oid(item, "parent") for item in array(fields["parents"], "parents", most=64)),
                tuple(_read_change(item) for item in array(fields["changes"], "changes")),
                _read_view(fields["view"]),
                text(fields["command"], "command"),
                text(fields["author"], "author"),
                text(fields["host"], "host"),
                integer(fields["time"], "time", -(1 << 62), 1 << 62),
            )
        except InvalidInputError as error:
            raise MalformedError(f"operation breaks a rule: {error.message}") from error


def _check_ref(name: str, value: str | None) -> None:
    if not is_ref_name(name):
        raise InvalidInputError(f"{name[:80]!r} is not a ref name")
    if value is None:
        return
    if name == HEAD and value.startswith(_SYMBOLIC):
        branch = value.removeprefix(_SYMBOLIC)
        if not (branch.startswith(BRANCHES) and is_ref_name(branch)):
            raise InvalidInputError(f"HEAD points to {branch[:80]!r}, which is not a branch")
        return
    object_id(value)


def _read_change(value: Value) -> RefChange:
    name, old, new = array(value, "change", (3,))
    return RefChange(
        text(name, "ref name"),
        None if old is None else text(old, "old ref value"),
        None if new is None else text(new, "new ref value"),
    )


def _read_view(value: Value) -> Refs | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise MalformedError("view is neither null nor a map")
    return {name: text(item, "ref value") for name, item in value.items()}


def apply_changes(refs: Refs, changes: Iterable[RefChange]) -> dict[str, str]:
    """Return `refs` after `changes`. The old values are not compared: who moves refs checks them first.

    Examples
    --------
    >>> apply_changes({"HEAD": "ref: refs/heads/main"}, [RefChange("HEAD", None, None)])
    {}
    """
    result = dict(refs)
    for change in changes:
        if change.new is None:
            result.pop(change.name, None)
        else:
            result[change.name] = change.new
    return result


def difference(before: Refs, after: Refs) -> tuple[RefChange, ...]:
    """Return the changes that lead from `before` to `after`, sorted by name."""
    names = sorted(before.keys() | after.keys())
    changes = (RefChange(name, before.get(name), after.get(name)) for name in names)
    return tuple(change for change in changes if change.old != change.new)
