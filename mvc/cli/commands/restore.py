"""``mvc restore``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.options import complete_ref, force_option, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.text import counted, printable, short
from mvc.repo.checkout import check_out_paths
from mvc.repo.revisions import resolve


@make_command("restore", "mvc restore model.safetensors", "mvc restore . --source main~1")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-s", "--source", metavar="REF", default="HEAD", shell_complete=complete_ref, help="From which commit.")
@force_option
@json_option
@click.pass_obj
def command(app: App, /, *, paths: tuple[str, ...], source: str, force: bool, as_json: bool) -> None:
    """Bring files of the work tree back to what they were.

    Changes to these files are lost. A file that HEAD does not hold is overwritten only with --force. HEAD stays.
    """
    keep_freed_memory()
    session = open_session(app)
    commit = resolve(session, source).commit
    wanted = app.tree_paths(session.layout.tree, paths)
    result = check_out_paths(session, commit, wanted, force=force, progress=terminal_progress())
    if as_json:
        emit("mvc.restore/1", commit=commit, written=result.written)
    else:
        click.echo(printable(f"{counted(result.written, 'file')} brought back from {source} ({short(commit)})"))
