"""What the commands that talk to a remote share: finding it, and telling what became of refs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mvc.cli.app import App
from mvc.cli.text import Cell, columns, short
from mvc.errors import InvalidInputError
from mvc.objects.refnames import BRANCHES, TAGS
from mvc.remotes.config import find_remote
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.schemes import connect, parse_url
from mvc.remotes.tracking import RefUpdate, short_ref
from mvc.repo.refs import RefState
from mvc.repo.workspace import Workspace
from mvc.settings import Remote, Settings

__all__ = ["current_branch", "default_remote", "open_remote", "open_url", "update_documents", "update_lines"]

_SIGNS: Mapping[str, str] = {
    "new": "*",
    "fast-forward": " ",
    "forced": "+",
    "deleted": "-",
    "up to date": "=",
    "kept": "!",
}
"""What stands before a ref, as in git."""


def default_remote(settings: Settings, branch: str | None) -> str:
    """Return the remote that a branch (short name) follows, else ``origin``, else the only one.

    Raises
    ------
    InvalidInputError
        If there is none, or several without a choice.
    """
    upstream = settings.upstreams.get(branch or "", "").partition("/")[0]
    if upstream in settings.remotes:
        return upstream
    if "origin" in settings.remotes:
        return "origin"
    if len(settings.remotes) == 1:
        return next(iter(settings.remotes))
    if not settings.remotes:
        raise InvalidInputError("there is no remote", hint="mvc remote add origin URL")
    raise InvalidInputError(f"which remote? there are {', '.join(settings.remotes)}", hint="name one")


def open_remote(app: App, workspace: Workspace, name: str) -> RemoteStore:
    """Return the remote that the configuration calls `name`; nothing is asked of it yet."""
    return open_url(app, find_remote(workspace.settings, name), workspace)


def open_url(app: App, remote: Remote, workspace: Workspace | None = None) -> RemoteStore:
    """Return a remote; relative directories start at the work tree, or where the command runs."""
    url = parse_url(remote.url, remote.options)
    return RemoteStore(connect(url, app.environment, workspace.layout.root if workspace else app.directory))


def current_branch(state: RefState) -> str:
    """Return the full name of the current branch.

    Raises
    ------
    InvalidInputError
        If HEAD is detached.
    """
    if state.branch is None:
        raise InvalidInputError("HEAD is detached: it is on no branch", hint="name a branch")
    return state.branch


def update_documents(updates: Iterable[RefUpdate]) -> list[dict[str, object]]:
    """Return what ``--json`` says of refs."""
    return [
        {"source": item.source, "name": item.target, "old": item.old, "new": item.new, "outcome": item.outcome}
        for item in updates
    ]


def update_lines(updates: Iterable[RefUpdate]) -> list[str]:
    """Return a line for each ref that was moved, or stayed though it differs."""
    return columns((_row(item) for item in updates if item.outcome != "up to date"), "<<<")


def _row(item: RefUpdate) -> tuple[Cell, ...]:
    span = f"{short(item.old)}..{short(item.new)}" if item.old and item.new else short(item.new or item.old or "")
    noun = "branch" if item.target.startswith(BRANCHES) else "tag" if item.target.startswith(TAGS) else ""
    names = short_ref(item.target) if item.source is None else f"{short_ref(item.source)} -> {short_ref(item.target)}"
    notes = {"new": f"new {noun}".strip(), "forced": "forced", "deleted": "deleted", "kept": "differs there, kept here"}
    return f" {_SIGNS[item.outcome]} {span}", names, notes.get(item.outcome, "")
