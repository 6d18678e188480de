"""``mvc evaluate``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.signals import ending_in_order
from mvc.cli.text import facts, short
from mvc.repo.evaluate import Evaluator, evaluate
from mvc.repo.revisions import resolve


@make_command(
    "evaluate",
    "mvc evaluate main --cmd 'python /eval/accuracy.py model.safetensors'",
    "mvc evaluate main~2 --cmd 'echo acc=0.98' --timeout 600",
)
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option("--cmd", "shell_command", metavar="CMD", required=True, help="For the shell; it prints the metrics.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="End it after so long.")
@json_option
@click.pass_obj
def command(app: App, /, *, ref: str, shell_command: str, timeout: float | None, as_json: bool) -> None:
    """Run a command on the files of a commit, and note its metrics.

    The commit is checked out into a temporary directory, and CMD is run there. The metrics are the last line of its
    stdout that is a JSON object of numbers, texts and booleans, or else every NAME=NUMBER of its last line. show and
    log tell them with the commit, which stays as it is. Metrics that were noted before stay, but for those of the same
    names.
    """
    session = open_session(app)
    commit = resolve(session, ref).commit
    how = Evaluator(shell_command, app.environment, timeout)
    with ending_in_order():
        found = evaluate(session, commit, how, app.actor(session.settings), terminal_progress())
    if as_json:
        emit("mvc.evaluate/1", commit=commit, metrics=found)
    else:
        click.echo(f"{click.style(short(commit), fg='yellow')} {facts(found)}")
