"""Which of the contents that are not here a remote has promised: those that commits which it has shown to have name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from mvc.objects.operation import Refs
from mvc.objects.refnames import REMOTES
from mvc.repo.check_history import History
from mvc.repo.partial import may_be_promised
from mvc.types import ObjectId

__all__ = ["promised_contents", "refs_of_remotes", "without_contents"]


def refs_of_remotes(refs: Refs, remotes: Sequence[str]) -> Refs:
    """Return the refs that say what some remotes have: their tracking branches.

    Tags do not: one may have been made here, on a commit that no remote has ever seen.
    """
    prefixes = tuple(f"{REMOTES}{name}/" for name in remotes)
    return {name: value for name, value in refs.items() if name.startswith(prefixes)}


def promised_contents(told: History, missing: Mapping[ObjectId, Collection[ObjectId]]) -> frozenset[ObjectId]:
    """Return what of `missing` is promised: nothing that another stored content needs to be decoded.

    Nor anything that two manifests give different lengths: what has both cannot be had.

    Parameters
    ----------
    told : History
        What the remotes have.
    missing : mapping of ObjectId to collection of ObjectId
        Contents of which nothing is stored, and those that cannot be decoded without them.
    """
    return frozenset(
        oid
        for (kind, oid), size in told.contents.items()
        if may_be_promised(kind, size) and oid in missing and not missing[oid] and oid not in told.disputed
    )


def without_contents(history: History, ids: Collection[ObjectId]) -> History:
    """Return a history that does not name the contents `ids`."""
    return replace(history, contents={key: size for key, size in history.contents.items() if key[1] not in ids})
