"""``mvc init``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import json_option
from mvc.cli.text import printable
from mvc.repo.init import init


@make_command("init", "mvc init", "mvc init runs/exp7 --branch trunk")
@click.argument("directory", metavar="[DIR]", default=".")
@click.option("-b", "--branch", metavar="NAME", default="main", show_default=True, help="Name of the first branch.")
@json_option
@click.pass_obj
def command(app: App, /, *, directory: str, branch: str, as_json: bool) -> None:
    """Make a repository.

    It is made in DIR (default: here), which becomes the work tree and is created if need be. Files in it stay as they
    are: mvc commit records them.
    """
    root = init(app.path(directory), app.actor(), branch).layout.root
    if as_json:
        emit("mvc.init/1", root=str(root), branch=branch)
    else:
        click.echo(printable(f"Made an empty repository in {root}/.mvc, on branch {branch}"))
