"""``mvc op``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import Command
from mvc.cli.operations import change_document, change_lines
from mvc.cli.options import json_option, max_count_option
from mvc.cli.text import iso_time, local_time, printable
from mvc.objects.operation import Operation
from mvc.repo.workspace import Workspace
from mvc.types import ObjectId


@click.group("op", no_args_is_help=True)
def command() -> None:
    """Show the operation log, which undo goes back on."""


@command.command("log", cls=Command, examples=("mvc op log", "mvc op log -n 5 --json", "mvc show @{1}"))
@max_count_option
@json_option
@click.pass_obj
def log(app: App, /, *, max_count: int | None, as_json: bool) -> None:
    """Show every operation, newest first.

    Each moved branches, tags or HEAD. @{N} in front of it is a REF: HEAD as it was after that operation.
    """
    walk = islice(Workspace.find(app.start).refs.walk(), max_count)
    if as_json:
        emit("mvc.op-log/1", operations=[_document(oid, operation) for oid, operation in walk])
        return
    for number, (_, operation) in enumerate(walk):
        for line in _lines(number, operation):
            click.echo(line)


def _document(oid: ObjectId, operation: Operation) -> dict[str, object]:
    return {
        "id": oid,
        "number": operation.number,
        "parents": operation.parents,
        "time": iso_time(operation.time),
        "author": operation.author,
        "host": operation.host,
        "command": operation.command,
        "changes": [change_document(change) for change in operation.changes],
    }


def _lines(number: int, operation: Operation) -> Iterator[str]:
    who = printable(f"{operation.author} on {operation.host}")
    place = click.style(f"@{{{number}}}", fg="yellow")
    yield f"{place}  {local_time(operation.time)}  {who}"
    yield f"    {printable(operation.command)}"
    yield from change_lines(operation.changes, indent="      ")
