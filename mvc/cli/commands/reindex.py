"""``mvc reindex``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import json_option
from mvc.cli.text import counted
from mvc.repo.reindex import reindex
from mvc.repo.session import Session


@make_command("reindex", "mvc reindex")
@json_option
@click.pass_obj
def command(app: App, /, *, as_json: bool) -> None:
    """Make the index again from the store.

    The index answers queries and holds nothing that the objects do not hold: it can be lost, and be made again.
    """
    made = reindex(Session.find(app.start))
    if as_json:
        emit("mvc.reindex/1", packs=made.packs, blobs=made.blobs)
    else:
        click.echo(f"Indexed {counted(made.packs, 'pack')} and {counted(made.blobs, 'blob')}")
