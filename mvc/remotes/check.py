"""``mvc fsck --remote``: read everything that a remote has, and check it as if it were to be stored here."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from mvc.remotes.fetch import FetchRequest, fetch
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.clock import Actor
from mvc.repo.init import init
from mvc.repo.progress import Progress, silent

__all__ = ["RemoteCheck", "check_remote"]


@dataclass(frozen=True, slots=True)
class RemoteCheck:
    """What was found sound.

    Parameters
    ----------
    commits, contents : int
        Read, decoded and compared with their ids.
    received_bytes : int
        Stored bytes of these.
    """

    commits: int
    contents: int
    received_bytes: int


def check_remote(store: RemoteStore, scratch: Path, actor: Actor, progress: Progress = silent) -> RemoteCheck:
    """Fetch all that the refs of a remote reach into a repository that is then thrown away.

    Parameters
    ----------
    store : RemoteStore
        The remote.
    scratch : Path
        A directory with room for what the remote holds.
    actor : Actor
        Who asks.
    progress : callable
        Told how far the work is.

    Raises
    ------
    IntegrityError
        With the first object that is missing or damaged.
    RemoteError
        If the remote, or the way to it, failed.
    """
    with tempfile.TemporaryDirectory(prefix="fsck-", dir=scratch) as directory:
        session = init(Path(directory) / "copy", actor, bare=True)
        found = fetch(session, store, "remote", FetchRequest(tags="all"), actor, progress)
    return RemoteCheck(found.commits, found.contents, found.received_bytes)
