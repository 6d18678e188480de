"""What git's commits and tags say, and what changed between its trees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mvc.errors import InvalidInputError
from mvc.migration.git import OBJECT_ID

__all__ = ["Change", "Signed", "parse_changes", "parse_signed"]

_PERSON: Final = re.compile(r"(.*?) ?(-?\d{1,20}) [+-]\d{1,6}")
_LATEST: Final = (1 << 62) // 1_000_000
"""Seconds that a commit of ours can say in microseconds."""
_CHANGE: Final = re.compile(rb":(\d{6}) (\d{6}) [0-9a-f]{40,64} ([0-9a-f]{40,64}) [A-Z]\d*")


@dataclass(frozen=True, slots=True)
class Signed:
    """A commit or a tag.

    Parameters
    ----------
    target : str
        What a tag names; empty for a commit.
    person : str
        Author or tagger.
    time : int
        Microseconds since 1970-01-01T00:00:00Z.
    message : str
        Without surrounding space; may be empty.
    """

    target: str
    person: str
    time: int
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """A path that differs from the first parent's.

    Parameters
    ----------
    path : str
        Undecodable bytes are surrogates, which no manifest takes.
    old_mode, mode : int
        0 where there is nothing.
    oid : str
        git's id of the new blob.
    """

    path: str
    old_mode: int
    mode: int
    oid: str


def parse_signed(oid: str, data: bytes) -> Signed:
    r"""Return what the commit or tag object `oid` says.

    Raises
    ------
    InvalidInputError
        If it is not one.

    Examples
    --------
    >>> parse_signed("1f", b"tree 4b\nauthor Ada <a@b.c> 1700000000 +0100\n\nwhy\n").time
    1700000000000000
    """
    head, _, message = data.partition(b"\n\n")
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        fields.setdefault(key, value)
    encoding = fields.get(b"encoding", b"utf-8").decode("ascii", "replace")
    person = _decoded(fields.get(b"author", fields.get(b"tagger", b" 0 +0000")), encoding)
    match = _PERSON.fullmatch(person)
    if match is None or abs(int(match[2])) > _LATEST:
        raise InvalidInputError(f"git object {oid} does not say who made it and when", hint="git fsck")
    target = fields.get(b"object", b"").decode("ascii", "replace")
    if target and OBJECT_ID.fullmatch(target) is None:
        raise InvalidInputError(f"git object {oid} names {target[:80]!r}, which is no id of an object", hint="git fsck")
    return Signed(target, match[1] or "unknown", int(match[2]) * 1_000_000, _decoded(message, encoding).strip())


def _decoded(text: bytes, encoding: str) -> str:
    try:
        return text.decode(encoding, "replace")
    except (LookupError, ValueError):  # an encoding that Python does not know, or that is no encoding of text
        return text.decode("utf-8", "replace")


def parse_changes(listed: bytes) -> Iterator[tuple[str, list[Change]]]:
    """Yield each commit in what ``git diff-tree --stdin -z --raw`` prints, with its changes, if there are any.

    Raises
    ------
    InvalidInputError
        If that is something else.
    """
    commit, changes = "", list[Change]()
    parts = iter(listed.split(b"\0")[:-1])
    for part in parts:
        if not part.startswith(b":"):
            if changes:
                yield commit, changes
            commit, changes = part.decode("ascii", "replace").strip(), []
            continue
        match, path = _CHANGE.fullmatch(part), next(parts, None)
        if match is None or path is None:
            raise InvalidInputError(f"git lists a change as {part[:80]!r}, which is not understood")
        modes = int(match[1], 8), int(match[2], 8)
        changes.append(Change(path.decode("utf-8", "surrogateescape"), *modes, match[3].decode()))
    if changes:
        yield commit, changes
