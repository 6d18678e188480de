"""``mvc status``. Must not import NumPy or SQLAlchemy while nothing changed: it runs in every prompt."""

from __future__ import annotations

from typing import NoReturn

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import json_option
from mvc.cli.text import printable, short
from mvc.lazy import LazyModule
from mvc.objects.refnames import BRANCHES
from mvc.repo.status import Status, status
from mvc.repo.workspace import Workspace

repository = LazyModule("mvc.repo.repository")


@make_command("status", "mvc status", "mvc status --json")
@json_option
@click.pass_obj
def command(app: App, /, *, as_json: bool) -> None:
    """Show what a commit would record.

    Compares the work tree with HEAD. Files are read only if their size, time or inode changed.
    """
    found = _compare(Workspace.find(app.start))
    branch = found.refs.branch and found.refs.branch.removeprefix(BRANCHES)
    if as_json:
        emit(
            "mvc.status/1",
            branch=branch,
            head=found.refs.head,
            clean=found.clean,
            added=found.added,
            modified=found.modified,
            deleted=found.deleted,
        )
    else:
        click.echo("\n".join(_lines(found, branch)))


class _ManifestNeededError(Exception):
    """The dirty-check cache does not suffice."""


def _compare(workspace: Workspace) -> Status:
    try:
        return status(workspace, _give_up, _give_up)
    except _ManifestNeededError:
        found: Status = repository.open(workspace.layout.root).status()
        return found


def _give_up(*_: object) -> NoReturn:
    raise _ManifestNeededError


def _lines(found: Status, branch: str | None) -> list[str]:
    head = found.refs.head
    lines = [
        f"On branch {printable(branch)}" if branch else click.style(f"HEAD detached at {short(head or '')}", fg="red")
    ]
    if head is None:
        lines.append("No commits yet")
    if found.clean:
        return [*lines, "Nothing to commit, work tree clean" if head else "Nothing to commit: there are no files"]
    lines += ["", "Changes that a commit would record:"]
    for noun, colour, paths in (
        ("modified:", "yellow", found.modified),
        ("deleted:", "red", found.deleted),
        ("added:", "green", found.added),
    ):
        lines += [click.style(f"  {noun:10} {printable(path)}", fg=colour) for path in paths]
    advice = ["mvc commit -m MESSAGE records them"]
    if found.modified or found.deleted:
        advice.append("mvc restore PATH takes one back")
    return [*lines, "", f"({'; '.join(advice)})"]
