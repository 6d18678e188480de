"""``mvc pull``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.commands.fetch import fetch_document, fetch_lines
from mvc.cli.commands.merge import merge_document, merge_lines
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.options import json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import current_branch, default_remote, open_remote
from mvc.cli.text import counted, printable
from mvc.objects.refnames import BRANCHES
from mvc.remotes.fetch import FetchRequest
from mvc.remotes.pull import pull
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.merge import FastForward, MergeRequest
from mvc.repo.merge_plan import Side
from mvc.repo.session import Session


@make_command("pull", "mvc pull", "mvc pull origin main", "mvc pull -X theirs")
@click.argument("remote", required=False)
@click.argument("branch", required=False)
@click.option("--ff-only", is_flag=True, help="Only move the branch forward; refuse if that needs a commit.")
@click.option("-X", "favour", type=click.Choice(["ours", "theirs"]), help="Whose version to take in conflicts.")
@json_option
@click.pass_obj
def command(
    app: App, /, *, remote: str | None, branch: str | None, ff_only: bool, favour: Side | None, as_json: bool
) -> None:
    """Fetch, and merge what is new.

    It goes into the current branch. BRANCH is by default the one that the current branch follows, or the one of the
    same name.
    """
    keep_freed_memory()
    session = Session.find(app.start)
    here = current_branch(session.refs.state()).removeprefix(BRANCHES)
    name = remote or default_remote(session.settings, here)
    followed = session.settings.upstreams.get(here, "")
    theirs = branch or (followed.removeprefix(f"{name}/") if followed.startswith(f"{name}/") else here)
    fast_forward: FastForward = "only" if ff_only else "auto"
    with open_remote(app, session, name).engine as engine:
        actor, progress = app.actor(session.settings), terminal_progress()
        request = MergeRequest(fast_forward=fast_forward, favour=favour)
        done = pull(session, RemoteStore(engine), name, theirs, FetchRequest(), request, actor, progress)
    if as_json:
        merged = None if done.merged is None else merge_document(done.merged)
        emit("mvc.pull/1", remote=name, branch=theirs, fetch=fetch_document(done.fetched), merge=merged)
        return
    click.echo("\n".join(map(printable, fetch_lines(name, done.fetched))))
    if done.merged is None:
        click.echo(printable(f"On branch {here}: wrote {counted(done.written, 'file')}"))
    else:
        click.echo("\n".join(merge_lines(session, done.merged)))
