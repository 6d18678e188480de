"""Which refs of one side stand for which of the other, and whether they may be moved. Pure planning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mvc.errors import ConflictError, InvalidInputError, NotFoundError
from mvc.objects.operation import RefChange, Refs
from mvc.objects.refnames import BRANCHES, REMOTES, TAGS, check_ref_names, check_short_name
from mvc.types import ObjectId, object_id

__all__ = [
    "RefUpdate",
    "check_moves",
    "check_tracking",
    "plan_fetch",
    "plan_push",
    "short_ref",
    "tracked",
    "tracking_ref",
]

Outcome = Literal["new", "fast-forward", "forced", "deleted", "up to date", "kept"]
"""What becomes of a ref. ``kept``: a tag that is another one here, and stays."""


Lease = Mapping[str, ObjectId | None]
"""What branches (full names) of a remote are thought to be."""


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """A ref of one side, what it was and what it becomes.

    Parameters
    ----------
    source : str or None
        Full name on the side that the value comes from; None if it is deleted.
    target : str
        Full name on the side that is changed.
    old, new : ObjectId or None
        Values there, before and after; None where there is none.
    outcome : Outcome
        What that is.
    """

    source: str | None
    target: str
    old: ObjectId | None
    new: ObjectId | None
    outcome: Outcome

    @property
    def change(self) -> RefChange:
        """What the operation records."""
        return RefChange(self.target, self.old, self.new)


def tracking_ref(remote: str, branch: str) -> str:
    """Return the full name of the ref that keeps what a branch (full name) of a remote was."""
    return f"{REMOTES}{check_short_name(remote)}/{branch.removeprefix(BRANCHES)}"


def tracked(refs: Refs, remote: str) -> dict[str, ObjectId]:
    """Return what branches (full names) of a remote were when they were last heard of."""
    prefix = f"{REMOTES}{remote}/"
    return {
        BRANCHES + name.removeprefix(prefix): object_id(value)
        for name, value in refs.items()
        if name.startswith(prefix)
    }


def short_ref(name: str) -> str:
    """Return a full ref name as users see it."""
    return name.removeprefix(BRANCHES).removeprefix(TAGS).removeprefix(REMOTES)


def plan_fetch(
    theirs: Refs,
    ours: Refs,
    remote: str,
    *,
    branches: Sequence[str] = (),
    tags: Iterable[str] = (),
    prune: bool = False,
    is_ancestor: Callable[[ObjectId, ObjectId], bool],
) -> list[RefUpdate]:
    """Return how refs here follow those of a remote: branches to ``refs/remotes/REMOTE/``, tags to tags.

    Parameters
    ----------
    theirs, ours : Refs
        All refs of both sides.
    remote : str
        Its name.
    branches : sequence of str
        Short names; all if none are given.
    tags : iterable of str
        Full names of the tags that come along.
    prune : bool
        Forget branches that the remote has no more.
    is_ancestor : callable
        Whether the first commit is the second, or below it. Not asked for new refs.

    Raises
    ------
    NotFoundError
        If the remote has no such branch.
    """
    wanted = [BRANCHES + name for name in branches] or [name for name in sorted(theirs) if name.startswith(BRANCHES)]
    if absent := [name for name in wanted if name not in theirs]:
        raise NotFoundError(f"{remote} has no branch {short_ref(absent[0])!r}", hint=f"mvc ls-remote {remote}")
    found = []
    for name in wanted:
        target, new = tracking_ref(remote, name), object_id(theirs[name])
        old = _value(ours.get(target))
        found.append(RefUpdate(name, target, old, new, _outcome(old, new, is_ancestor)))
    for name in tags:
        old, new = _value(ours.get(name)), object_id(theirs[name])
        outcome: Outcome = "new" if old is None else "up to date" if old == new else "kept"
        found.append(RefUpdate(name, name, old, new, outcome))
    stale = _stale(theirs, ours, remote)
    if prune:
        found += [RefUpdate(None, target, _value(ours[target]), None, "deleted") for target in stale]
    return found


def check_tracking(theirs: Refs, ours: Refs, remote: str, branches: Collection[str] = ()) -> None:
    """Refuse branches that cannot stand beside what is still here of those that the remote has no more.

    Parameters
    ----------
    theirs, ours : Refs
        Refs there and here.
    remote : str
        Its name.
    branches : collection of str
        Short names of those that are fetched; all if empty.

    Raises
    ------
    ConflictError
        If a branch there has become a directory, a directory a branch, or a name another case.
    """
    names = {name for name in theirs if name.startswith(BRANCHES)}
    wanted = names & {BRANCHES + name for name in branches} if branches else names
    targets = {tracking_ref(remote, name) for name in wanted}
    try:
        check_ref_names(targets | {*_stale(theirs, ours, remote)})
    except InvalidInputError as error:
        raise ConflictError(
            f"{error.message}: {remote} has only one of them now, and nothing was fetched",
            hint=f"mvc fetch {remote} --prune",
        ) from error


def _stale(theirs: Refs, ours: Refs, remote: str) -> list[str]:
    """Return the tracking refs of branches that the remote has no more."""
    return [tracking_ref(remote, name) for name in sorted(tracked(ours, remote).keys() - theirs.keys())]


def plan_push(
    wanted: Iterable[tuple[str | None, str, ObjectId | None]],
    theirs: Refs,
    lease: Lease | None,
    is_ancestor: Callable[[ObjectId, ObjectId], bool],
    remote: str,
) -> list[RefUpdate]:
    """Return how refs of a remote are to be moved.

    Parameters
    ----------
    wanted : iterable of (str or None, str, ObjectId or None)
        Full name here, full name there, and the value; None, to delete.
    theirs : Refs
        Refs of the remote.
    lease : mapping of str to ObjectId or None, optional
        What branches (full names) must be at the remote to be replaced by what does not descend from it.
    is_ancestor : callable
        ``is_ancestor(old, new)``: whether a commit of the remote is known here and is another one, or is below it.
    remote : str
        Its name, for messages.

    Raises
    ------
    ConflictError
        If a branch would lose commits, a tag would change, or a branch is checked out there.
    NotFoundError
        If what is to be deleted is not there.
    InvalidInputError
        If a ref is to become two things at once.
    """
    updates = list(_pushed(wanted, theirs, lease, is_ancestor, remote))
    targets = Counter(update.target for update in updates)
    if twice := [target for target, count in targets.items() if count > 1]:
        raise InvalidInputError(f"{short_ref(twice[0])!r} of {remote} is named more than once")
    return updates


def _pushed(
    wanted: Iterable[tuple[str | None, str, ObjectId | None]],
    theirs: Refs,
    lease: Lease | None,
    is_ancestor: Callable[[ObjectId, ObjectId], bool],
    remote: str,
) -> Iterator[RefUpdate]:
    for source, target, new in wanted:
        old = _value(theirs.get(target))
        if old is None and new is None:
            raise NotFoundError(f"{remote} has no {short_ref(target)!r}", hint=f"mvc ls-remote {remote}")
        outcome = _outcome(old, new, is_ancestor if target.startswith(BRANCHES) else _never)
        if outcome == "forced" or (outcome == "deleted" and lease is not None and target.startswith(BRANCHES)):
            _check_lease(target, old, lease, remote)
        yield RefUpdate(source, target, old, new, outcome)


def check_moves(updates: Iterable[RefUpdate], checked_out: str | None, remote: str) -> None:
    """Refuse to move the branch that a work tree at the remote follows.

    Raises
    ------
    ConflictError
        If it would be moved.
    """
    if any(update.target == checked_out and update.old != update.new for update in updates):
        raise ConflictError(
            f"{short_ref(checked_out or '')!r} is checked out at {remote}: its work tree would not be what it says",
            hint="push to another branch, or to a bare repository: mvc init --bare",
        )


def _check_lease(target: str, old: ObjectId | None, lease: Lease | None, remote: str) -> None:
    """Refuse to take commits from a branch unless it is what the user thinks it is; and to change a tag."""
    name = short_ref(target)
    if not target.startswith(BRANCHES):
        raise ConflictError(f"tag {name!r} is another one at {remote}", hint=f"mvc push {remote} --delete {name} first")
    if lease is None:
        raise ConflictError(
            f"{name!r} of {remote} has commits that yours lacks: nothing was pushed",
            hint=f"mvc pull {remote} {name}, or --force-with-lease to replace them",
        )
    if lease.get(target) != old:
        raise ConflictError(
            f"{name!r} of {remote} is no longer what it was when you last heard of it: nothing was pushed",
            hint=f"mvc fetch {remote}, and look at what is new",
        )


def _outcome(old: ObjectId | None, new: ObjectId | None, is_ancestor: Callable[[ObjectId, ObjectId], bool]) -> Outcome:
    if new is None:
        return "deleted"
    if old is None:
        return "new"
    if old == new:
        return "up to date"
    return "fast-forward" if is_ancestor(old, new) else "forced"


def _never(old: ObjectId, new: ObjectId) -> bool:  # noqa: ARG001 - the signature of what compares branches
    """Say that no tag may take the place of another."""
    return False


def _value(value: str | None) -> ObjectId | None:
    return None if value is None else object_id(value)
