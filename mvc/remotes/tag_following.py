"""Which tags of a remote come along with a fetch: as in git, those of commits that are here then anyway."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from mvc.objects.operation import Refs
from mvc.objects.refnames import TAGS
from mvc.repo.presence import reached
from mvc.repo.session import Session
from mvc.store.layout import EntryKind
from mvc.types import ObjectId, object_id

__all__ = ["followed_tags", "tags_of", "targets_of", "without_thinned"]


def tags_of(refs: Refs) -> dict[str, ObjectId]:
    """Return the tags among refs, by full name."""
    return {name: object_id(value) for name, value in sorted(refs.items()) if name.startswith(TAGS)}


def without_thinned(session: Session, tags: Mapping[str, ObjectId]) -> dict[str, ObjectId]:
    """Return those tags, by full name, that are not of commits which are thinned here (spec-v1, section 12)."""
    thinned = session.refs.state().thinned
    targets = targets_of(session, {*tags.values()}) if thinned else {}
    return {name: value for name, value in tags.items() if targets.get(value, value) not in thinned}


def followed_tags(session: Session, theirs: Mapping[str, ObjectId], tips: Iterable[ObjectId]) -> list[str]:
    """Return the full names of those tags of a remote whose commits are here.

    Parameters
    ----------
    session : Session
        The repository.
    theirs : mapping of str to ObjectId
        Tags of the remote.
    tips : iterable of ObjectId
        Commits of which everything is here though no ref reaches them yet.
    """
    ours = session.refs.state()
    same = {name for name, value in theirs.items() if ours.refs.get(name) == value}
    targets = targets_of(session, {value for name, value in theirs.items() if name not in same})
    state = replace(ours, refs={**ours.refs, **{f"tip {oid}": oid for oid in tips}})
    there = reached(session, state, set(targets.values())) if targets else set()
    return [name for name, value in theirs.items() if name in same or targets.get(value) in there]


def targets_of(session: Session, values: Collection[ObjectId]) -> dict[ObjectId, ObjectId]:
    """Return the commits that values of refs stand for, as far as they are stored here."""
    commits = session.index.commits(values)
    others = session.index.stored_objects(set(values) - commits.keys())
    return {oid: oid for oid in commits} | {
        oid: session.tag(oid).target for oid, found in others.items() if found.kind is EntryKind.TAG
    }
