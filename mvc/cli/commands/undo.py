"""``mvc undo``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.operations import change_document, change_lines
from mvc.cli.options import force_option, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.text import printable
from mvc.repo.undo import undo


@make_command("undo", "mvc undo", "mvc op log")
@force_option
@json_option
@click.pass_obj
def command(app: App, /, *, force: bool, as_json: bool) -> None:
    """Take back the last operation.

    Every command that moves a branch, tag or HEAD is one operation. Undoing is an operation too: undoing twice does it
    again. After a commit is undone, the files stay as they are, and show up as modified.
    """
    session = open_session(app)
    result = undo(session, app.actor(session.settings), force=force, progress=terminal_progress())
    if as_json:
        changes = [change_document(change) for change in result.changes]
        emit("mvc.undo/1", operation=result.operation, command=result.command, changes=changes)
    else:
        click.echo("\n".join([f"Undone: {printable(result.command)}", *change_lines(result.changes, indent="  ")]))
