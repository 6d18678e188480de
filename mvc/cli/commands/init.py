"""``mvc init``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import json_option
from mvc.cli.text import printable
from mvc.repo.init import init


@make_command("init", "mvc init", "mvc init runs/exp7 --branch trunk", "mvc init --bare /srv/mvc/team/model")
@click.argument("directory", metavar="[DIR]", default=".")
@click.option("-b", "--branch", metavar="NAME", default="main", show_default=True, help="Name of the first branch.")
@click.option("--bare", is_flag=True, help="Without a work tree: a repository to push to.")
@json_option
@click.pass_obj
def command(app: App, /, *, directory: str, branch: str, bare: bool, as_json: bool) -> None:
    """Make a repository.

    It is made in DIR (default: here), which becomes the work tree and is created if need be. Files in it stay as they
    are: mvc commit records them. With --bare, DIR is the repository itself, and must be empty.
    """
    layout = init(app.path(directory), app.actor(), branch, bare=bare).layout
    if as_json:
        emit("mvc.init/1", root=str(layout.root), branch=branch, bare=bare)
    else:
        kind = "bare repository" if bare else "repository"
        click.echo(printable(f"Made an empty {kind} in {layout.directory}, on branch {branch}"))
