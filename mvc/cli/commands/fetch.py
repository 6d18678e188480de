"""``mvc fetch``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import default_remote, open_remote, update_documents, update_lines
from mvc.cli.text import counted, percent, printable, size
from mvc.objects.refnames import BRANCHES
from mvc.remotes.fetch import FetchRequest, FetchResult, Tags, fetch
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.session import Session

_TAGS: Final[Mapping[bool | None, Tags]] = {None: "follow", True: "all", False: "none"}


@make_command("fetch", "mvc fetch", "mvc fetch lab main", "mvc fetch origin --prune")
@click.argument("remote", required=False)
@click.argument("branches", metavar="[BRANCH]...", nargs=-1)
@click.option("-p", "--prune", is_flag=True, help="Forget branches that the remote has no more.")
@click.option("--depth", metavar="N", type=click.IntRange(1), help="Leave out commits N steps or more from all tips.")
@click.option("--unshallow", is_flag=True, help="Bring what was left out because of a depth.")
@click.option("--tags/--no-tags", default=None, help="Bring all tags, or none (default: those of what comes).")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    remote: str | None,
    branches: tuple[str, ...],
    prune: bool,
    depth: int | None,
    unshallow: bool,
    tags: bool | None,
    as_json: bool,
) -> None:
    """Bring commits of a remote here.

    Branches and files here stay as they are. What the remote has is then called REMOTE/BRANCH: mvc log origin/main,
    mvc merge origin/main.
    """
    if depth and unshallow:
        raise click.UsageError("--depth and --unshallow exclude each other", click.get_current_context())
    session = Session.find(app.start)
    branch = (session.refs.state().branch or "").removeprefix(BRANCHES)
    name = remote or default_remote(session.settings, branch)
    with open_remote(app, session, name).engine as engine:
        actor = app.actor(session.settings)
        request = FetchRequest(branches, prune, depth, unshallow, _TAGS[tags])
        result = fetch(session, RemoteStore(engine), name, request, actor, terminal_progress())
    if as_json:
        emit("mvc.fetch/1", remote=name, **fetch_document(result))
    else:
        click.echo("\n".join(map(printable, fetch_lines(name, result))))


def fetch_document(result: FetchResult) -> dict[str, object]:
    """Return what ``--json`` says of a fetch."""
    return {
        "refs": update_documents(result.updates),
        "commits": result.commits,
        "contents": result.contents,
        "received_bytes": result.received_bytes,
        "logical_bytes": result.logical_bytes,
        "saved_bytes": max(0, result.logical_bytes - result.received_bytes),
        "promised": result.promised,
    }


def fetch_lines(name: str, result: FetchResult) -> Iterator[str]:
    """Yield what a person is told of a fetch."""
    moved = update_lines(result.updates)
    if result.commits:
        share = percent(result.received_bytes, result.logical_bytes)
        amount = f"{size(result.received_bytes)}, {share} of the files"
        yield f"Received {counted(result.commits, 'commit')} from {name}: {amount}"
    elif not moved:
        yield f"Nothing new at {name}"
    yield from moved
