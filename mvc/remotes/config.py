"""``mvc remote add``: the remotes that ``config.toml`` names. Comments and order of the file stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from mvc.errors import AlreadyExistsError, FormatError, InvalidInputError, NotFoundError, StorageError
from mvc.objects.refnames import check_short_name
from mvc.repo.workspace import Workspace
from mvc.settings import Remote, Settings
from mvc.store.tmp import Temporaries

__all__ = ["add_remote", "find_remote", "remove_remote", "set_upstream"]


def find_remote(settings: Settings, name: str) -> Remote:
    """Return the remote that the configuration calls `name`.

    Raises
    ------
    NotFoundError
        If there is none.
    InvalidInputError
        If the file has a table of a name that no remote may have.
    """
    if name in settings.remotes:
        _check_name(name)
    else:
        known = ", ".join(settings.remotes) or "none"
        raise NotFoundError(f"there is no remote {name!r}; known are: {known}", hint=f"mvc remote add {name} URL")
    return settings.remotes[name]


def add_remote(workspace: Workspace, name: str, remote: Remote) -> None:
    """Add a remote to the configuration.

    Raises
    ------
    AlreadyExistsError
        If there is one of that name.
    InvalidInputError
        If it cannot name a remote.
    """
    _check_name(name)
    if name in workspace.settings.remotes:
        raise AlreadyExistsError(f"remote {name!r} exists already", hint=f"mvc remote remove {name} first")
    values = {item.name: getattr(remote, item.name) for item in fields(remote)}

    def change(document: tomlkit.TOMLDocument) -> None:
        """Add the table."""
        table = tomlkit.table()
        table.update({key: value for key, value in values.items() if value})
        _table(document, "remote", is_super=True)[name] = table

    _edit(workspace, change)


def _check_name(name: str) -> None:
    """Refuse names that cannot stand before the slash of ``REMOTE/BRANCH``, or name a directory."""
    if "/" in check_short_name(name):
        raise InvalidInputError(f"{name!r} cannot name a remote: it holds a slash", hint="choose another name")


def remove_remote(workspace: Workspace, name: str) -> None:
    """Remove a remote from the configuration, and what follows its branches.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    find_remote(workspace.settings, name)

    def change(document: tomlkit.TOMLDocument) -> None:
        """Remove the table, and upstreams on it."""
        del _table(document, "remote")[name]
        upstreams = _table(document, "upstream") if "upstream" in document else {}
        for branch in [branch for branch, value in upstreams.items() if str(value).startswith(f"{name}/")]:
            del upstreams[branch]

    _edit(workspace, change)


def set_upstream(workspace: Workspace, branch: str, remote: str, theirs: str) -> None:
    """Have a branch (short name) follow a branch of a remote."""
    if workspace.settings.upstreams.get(branch) == f"{remote}/{theirs}":
        return

    def change(document: tomlkit.TOMLDocument) -> None:
        """Set the line."""
        _table(document, "upstream")[branch] = f"{remote}/{theirs}"

    _edit(workspace, change)


def _table(document: tomlkit.TOMLDocument, name: str, *, is_super: bool = False) -> Table:
    if name not in document:
        document[name] = tomlkit.table(is_super)
    table = document[name]
    if not isinstance(table, Table):
        raise FormatError(f"[{name}] of config.toml is not a table that can be edited", hint="correct it by hand")
    return table


def _edit(workspace: Workspace, change: Callable[[tomlkit.TOMLDocument], None]) -> None:
    path = workspace.layout.config
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        document = tomlkit.parse(text)
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not valid TOML: {error}", hint=f"correct {path}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    change(document)
    Temporaries(workspace.layout.directory, workspace.fs).durable_write(path, tomlkit.dumps(document).encode())
    workspace.__dict__.pop("settings", None)  # read it again
