"""What ``mvc branch`` does besides listing names, which needs neither NumPy nor SQLAlchemy as this does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from mvc.cli.app import App
from mvc.cli.text import printable, short
from mvc.objects.refnames import BRANCHES, branch_ref
from mvc.repo.branches import create_branch, delete_branch, rename_branch
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["create", "delete", "rename", "subjects"]


def _usage(message: str) -> click.UsageError:
    return click.UsageError(message, click.get_current_context())


def create(app: App, names: Sequence[str], *, force: bool) -> None:
    """Make the branch that ``NAME [REF]`` asks for."""
    if len(names) > 2:
        raise _usage("too many arguments")
    name, ref = names if len(names) == 2 else (names[0], "HEAD")
    branch_ref(name)  # refused before REF is looked up: the name is what the user typed first
    session = Session.find(app.start)
    create_branch(session, name, resolve(session, ref).commit, app.actor(session.settings), force=force)


def delete(app: App, names: Sequence[str], *, force: bool, quiet: bool) -> None:
    """Delete branches."""
    if not names:
        raise _usage("name the branches to delete")
    session = Session.find(app.start)
    for name in names:
        old = delete_branch(session, name, app.actor(session.settings), force=force)
        if not quiet:
            click.echo(printable(f"Deleted branch {name} (was {short(old)})"))


def rename(app: App, names: Sequence[str]) -> None:
    """Rename the branch that ``[OLD] NEW`` names; the current one by default."""
    if not 1 <= len(names) <= 2:
        raise _usage("-m takes [OLD] NEW")
    session = Session.find(app.start)
    current = session.refs.state().branch
    if len(names) == 1 and current is None:
        raise _usage("HEAD is detached: name the branch to rename")
    old = names[0] if len(names) == 2 else (current or "").removeprefix(BRANCHES)
    rename_branch(session, old, names[-1], app.actor(session.settings))


def subjects(app: App) -> Callable[[ObjectId], str]:
    """Return what tells the first line of a commit's message."""
    session = Session.find(app.start)
    return lambda commit: session.record(commit).message.partition("\n")[0]
