"""From what a user types to a commit: branch, tag, ``HEAD``, ``REF~N``, ``REF^N``, ``@{N}``, or digits of an id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mvc.errors import AmbiguousRefError, InvalidInputError, NotFoundError
from mvc.index import CommitRecord
from mvc.objects.refnames import BRANCHES, HEAD, REMOTES, TAGS
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.repo.thinned import standing_for
from mvc.types import ObjectId, object_id

__all__ = ["Revision", "resolve", "resolve_readable"]

_LEAST_DIGITS: Final = 4
"""Hexadecimal digits that abbreviate an id, as in git."""
_PREFIX: Final = re.compile(r"[0-9a-f]{4,64}")
_STEP: Final = re.compile(r"(~|\^)([0-9]{0,18})")
_OPERATION: Final = re.compile(r"@\{([0-9]{1,18})\}")


@dataclass(frozen=True, slots=True)
class Revision:
    """What a text stands for.

    Parameters
    ----------
    commit : ObjectId
        The commit.
    ref : str or None
        Full name of the branch or tag, if the text was just its name.
    stands_in_for : ObjectId or None
        The commit that was asked for, where that is thinned and `commit` stands in for it.
    """

    commit: ObjectId
    ref: str | None = None
    stands_in_for: ObjectId | None = None


def resolve(session: Session, text: str) -> Revision:
    """Return the commit that `text` stands for.

    Names are tried as git does: ``HEAD`` (or ``@``), full ref names, tags, branches, branches of remotes, then ids.

    Raises
    ------
    NotFoundError
        If nothing is called so, or history does not go back so far.
    AmbiguousRefError
        If several commits begin with these digits.
    InvalidInputError
        If the text is not of any of these forms.
    """
    name, steps = _split(text)
    revision = _start(session, session.refs.state(), name)
    for sign, count in steps:
        revision = Revision(_step(session, revision.commit, sign, count, text))
    return revision


def resolve_readable(session: Session, text: str, *, allow_lossy: bool) -> Revision:
    """Return the commit that `text` stands for, or, if `allow_lossy`, what stands in for it if it is thinned.

    Raises
    ------
    ThinnedError
        If `allow_lossy`, and nothing stands in for it.
    NotFoundError, AmbiguousRefError, InvalidInputError
        As for `resolve`.
    """
    revision = resolve(session, text)
    stand_in = standing_for(session.refs.state().thinned, revision.commit) if allow_lossy else None
    return Revision(stand_in, stands_in_for=revision.commit) if stand_in else revision


def _split(text: str) -> tuple[str, list[tuple[str, int]]]:
    end = min((place for place in (text.find("~"), text.find("^")) if place >= 0), default=len(text))
    name, rest = text[:end], text[end:]
    steps = [(match[1], int(match[2]) if match[2] else 1) for match in _STEP.finditer(rest)]
    if "".join(match.group() for match in _STEP.finditer(rest)) != rest or not (name or rest):
        raise InvalidInputError(f"{text!r} is not a revision", hint="name a branch, a tag, HEAD~2, @{1} or an id")
    return name or HEAD, steps


def _start(session: Session, state: RefState, name: str) -> Revision:
    if match := _OPERATION.fullmatch(name):
        return Revision(_head(_state_before(session, int(match[1])), name))
    if name in {HEAD, "@"}:
        return Revision(_head(state, name))
    if TAGS + name in state.refs and BRANCHES + name in state.refs:
        raise AmbiguousRefError(f"{name!r} is a branch and a tag", hint=f"say {BRANCHES}{name} or {TAGS}{name}")
    for ref in (name, TAGS + name, BRANCHES + name, REMOTES + name):
        if ref in state.refs and ref != HEAD:
            return Revision(_peel(session, object_id(state.refs[ref])), ref)
    if state.branch == BRANCHES + name:
        return Revision(_head(state, name))
    return Revision(_by_prefix(session, name))


def _head(state: RefState, name: str) -> ObjectId:
    if state.head is None:
        raise NotFoundError(f"{name} has no commit yet", hint="mvc commit -m MESSAGE")
    return state.head


def _state_before(session: Session, count: int) -> RefState:
    for place, (oid, _) in enumerate(session.refs.walk()):
        if place == count:
            return session.refs.state(oid)
    raise NotFoundError(f"the operation log does not go back {count} operations", hint="mvc op log")


def _peel(session: Session, oid: ObjectId) -> ObjectId:
    """Return the commit that a ref value leads to: itself, or the target of a tag object."""
    return oid if session.records([oid]) else session.tag(oid).target


def _by_prefix(session: Session, prefix: str) -> ObjectId:
    if not _PREFIX.fullmatch(prefix):
        short = 0 < len(prefix) < _LEAST_DIGITS and all(digit in "0123456789abcdef" for digit in prefix)
        reason = f"; ids are abbreviated to {_LEAST_DIGITS} digits or more" if short else ""
        raise NotFoundError(f"there is no branch, tag or commit {prefix!r}{reason}", hint="mvc branch, mvc tag")
    found = session.index.with_prefix(prefix)
    if not found:
        session.refresh()
        found = session.index.with_prefix(prefix)
    if not found:
        raise NotFoundError(f"no branch, tag or commit is called {prefix!r} or begins so", hint="mvc log")
    if len(found) > 1:
        listed = ", ".join(oid[: len(prefix) + 4] for oid in found)
        raise AmbiguousRefError(f"{prefix!r} begins several commits: {listed}", hint="give more digits")
    return found[0]


def _step(session: Session, oid: ObjectId, sign: str, count: int, text: str) -> ObjectId:
    """Follow ``~N`` (N first parents) or ``^N`` (the N-th parent; ``^0`` is the commit itself)."""
    if sign == "^":
        record = session.record(oid)
        if count == 0:
            return oid
        if count > len(record.named):
            raise NotFoundError(f"{text}: {oid[:12]} has {len(record.named)} parents", hint="mvc log --graph")
        return _here(record, count - 1, text)
    for done in range(count):
        record = session.record(oid)
        if not record.named:
            raise NotFoundError(f"{text}: history ends after {done} steps, at {oid[:12]}", hint="mvc log")
        oid = _here(record, 0, text)
    return oid


def _here(record: CommitRecord, place: int, text: str) -> ObjectId:
    """Return a parent of a commit; NotFoundError if it is absent by design."""
    parent = record.named[place]
    if parent not in record.parents:
        raise NotFoundError(
            f"{text}: history is shallow, it ends at {record.id[:12]}", hint="mvc fetch --unshallow brings the rest"
        )
    return parent
