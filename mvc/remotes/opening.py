"""``mvc.open``: the Python API on a repository, with the remotes that promise what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from types import MappingProxyType

from mvc.remotes.config import find_remote
from mvc.remotes.engine import Engine
from mvc.remotes.promisor import RemotePromisor
from mvc.remotes.schemes import connect, parse_url
from mvc.repo.repository import Repository
from mvc.repo.repository import open as open_repository

__all__ = ["open"]


def open(  # noqa: A001 - as in `mvc.open`
    path: str | PathLike[str] = ".",
    *,
    author: str | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Repository:
    """Open the repository that `path` lies in.

    Parameters
    ----------
    path : path
        The work tree, or a directory in it.
    author : str, optional
        Who commits; by default ``user.name`` of the configuration, or the account's name.
    environment : mapping of str to str
        Where the credentials of remotes are that promise what a partial repository lacks: ``os.environ``.

    Raises
    ------
    NotFoundError
        If there is none.
    FormatError
        If it is of an unknown format.
    """
    repository = open_repository(path, author=author)
    session = repository.session

    def connect_to(name: str) -> Engine:
        """Return the engine of a remote."""
        remote = find_remote(session.settings, name)
        return connect(parse_url(remote.url, remote.options), environment, session.layout.root)

    if session.promisors:
        session.promisor = RemotePromisor(session, connect_to, "this call")
    return repository
