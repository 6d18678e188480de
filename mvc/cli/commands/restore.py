"""``mvc restore``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.heads import explain_stand_in
from mvc.cli.memory import keep_freed_memory
from mvc.cli.options import allow_lossy_option, complete_ref, force_option, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.text import counted, printable, short
from mvc.repo.checkout import check_out_paths
from mvc.repo.revisions import resolve_readable


@make_command("restore", "mvc restore model.safetensors", "mvc restore . --source main~1")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-s", "--source", metavar="REF", default="HEAD", shell_complete=complete_ref, help="From which commit.")
@allow_lossy_option
@force_option
@json_option
@click.pass_obj
def command(app: App, /, *, paths: tuple[str, ...], source: str, allow_lossy: bool, force: bool, as_json: bool) -> None:
    """Bring files of the work tree back to what they were.

    Changes to these files are lost. A file that HEAD does not hold is overwritten only with --force. HEAD stays.

    Of a commit whose contents were let go (mvc thin), --allow-lossy brings files of the commit that stands in for it.
    """
    keep_freed_memory()
    session = open_session(app)
    revision = resolve_readable(session, source, allow_lossy=allow_lossy)
    wanted = app.tree_paths(session.layout.tree, paths)
    result = check_out_paths(session, revision.commit, wanted, force=force, progress=terminal_progress())
    explain_stand_in(session, revision)
    if as_json:
        stands_in_for = revision.stands_in_for
        emit("mvc.restore/1", commit=revision.commit, written=result.written, stands_in_for=stands_in_for)
    else:
        files = counted(result.written, "file")
        click.echo(printable(f"{files} brought back from {source} ({short(revision.commit)})"))
