"""``mvc pull``: fetch, then merge what is new."""

from __future__ import annotations

from dataclasses import dataclass

from mvc.errors import NotFoundError
from mvc.objects.refnames import BRANCHES, REMOTES, TAGS
from mvc.remotes.fetch import FetchRequest, FetchResult, fetch
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.tracking import tracking_ref
from mvc.repo.checkout import switch
from mvc.repo.clock import Actor
from mvc.repo.merge import MergeRequest, MergeResult, merge
from mvc.repo.progress import Progress, silent
from mvc.repo.session import Session
from mvc.types import object_id

__all__ = ["PullResult", "pull"]


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did.

    Parameters
    ----------
    fetched : FetchResult
        What came in.
    merged : MergeResult or None
        What became of the branch; None if it had no commit, and begins where the remote's is.
    written : int
        Files of the work tree.
    """

    fetched: FetchResult
    merged: MergeResult | None
    written: int


def pull(
    session: Session,
    store: RemoteStore,
    name: str,
    branch: str,
    what: FetchRequest,
    how: MergeRequest,
    actor: Actor,
    progress: Progress = silent,
) -> PullResult:
    """Fetch from a remote, and merge one of its branches into the current one.

    Parameters
    ----------
    session : Session
        The repository.
    store : RemoteStore
        The remote.
    name : str
        Its name.
    branch : str
        Short name of the branch there.
    what, how
        As for `fetch` and `merge`.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.

    Raises
    ------
    NotFoundError
        If the remote has no such branch.
    MvcError
        As `fetch` and `merge` do. What was fetched stays.
    """
    fetched = fetch(session, store, name, what, actor, progress)
    ref = tracking_ref(name, BRANCHES + branch)
    state = session.refs.state()
    if BRANCHES + branch not in {update.source for update in fetched.updates}:  # what was heard of it before is old
        raise NotFoundError(f"{name} has no branch {branch!r}", hint=f"mvc ls-remote {name}")
    if state.head is None:
        done = switch(session, object_id(state.refs[ref]), actor, branch=state.branch, create=True, progress=progress)
        return PullResult(fetched, None, done.written)
    short = ref.removeprefix(REMOTES)
    is_plain = state.refs.keys().isdisjoint({BRANCHES + short, TAGS + short})  # if not, that would be another one
    merged = merge(session, short if is_plain else ref, how, actor, progress)
    return PullResult(fetched, merged, merged.written)
