"""``mvc ls-remote``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import json_option
from mvc.cli.remotes import default_remote, open_remote, open_url
from mvc.cli.text import columns
from mvc.errors import NotFoundError
from mvc.objects.refnames import BRANCHES
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.workspace import Workspace
from mvc.settings import Remote


@make_command("ls-remote", "mvc ls-remote", "mvc ls-remote s3://bucket/models/a --json")
@click.argument("remote", metavar="[REMOTE | URL]", required=False)
@json_option
@click.pass_obj
def command(app: App, /, *, remote: str | None, as_json: bool) -> None:
    """List the refs of a remote.

    Needs no repository if a URL is given.
    """
    with _store(app, remote).engine as engine:
        store = RemoteStore(engine)
        store.check_format()
        state = store.state()
    if as_json:
        emit("mvc.ls-remote/1", refs=[{"name": name, "value": value} for name, value in sorted(state.refs.items())])
        return
    for line in columns([(value, name) for name, value in sorted(state.refs.items())], "<<"):
        click.echo(line)


def _store(app: App, remote: str | None) -> RemoteStore:
    try:
        workspace = Workspace.find(app.start)
    except NotFoundError:
        if remote is None:
            raise
        return open_url(app, Remote(remote))
    branch = (workspace.refs.state().branch or "").removeprefix(BRANCHES)
    name = remote or default_remote(workspace.settings, branch)
    if name in workspace.settings.remotes or ("/" not in name and ":" not in name):
        return open_remote(app, workspace, name)
    return open_url(app, Remote(name))
