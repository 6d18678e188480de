"""``mvc fsck``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.failures import CORRUPT
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.options import json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.text import counted, printable, size
from mvc.repo.fsck import FsckReport, fsck
from mvc.repo.session import Session


@make_command("fsck", "mvc fsck", "mvc fsck --quick")
@click.option("--quick", is_flag=True, help="Check headers and metadata only; do not decode tensors.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, quick: bool, as_json: bool) -> None:
    """Check that everything stored is what its id promises.

    Decodes every tensor and literal that a ref reaches and computes its id again. Reads only. Exits with 5 if
    something is wrong, and says which files of which commits need it.
    """
    keep_freed_memory()
    app: App = ctx.obj
    found = fsck(Session.find(app.start), quick=quick, progress=terminal_progress())
    if as_json:
        emit(
            "mvc.fsck/1",
            clean=found.clean,
            quick=quick,
            operations=found.operations,
            commits=found.commits,
            contents=found.contents,
            checked_bytes=found.checked_bytes,
            faults=[asdict(fault) for fault in found.faults],
        )
    else:
        for line in _lines(found, quick=quick):
            click.echo(printable(line))
    if not found.clean:
        ctx.exit(CORRUPT)


def _lines(found: FsckReport, *, quick: bool) -> Iterator[str]:
    for fault in found.faults:
        yield f"{fault.object}: {fault.problem}"
        for affected in fault.affected:
            yield f"    needed by {affected}"
    read = "headers only" if quick else f"{size(found.checked_bytes)} decoded"
    checked = ", ".join(
        (
            counted(found.operations, "operation"),
            counted(found.commits, "commit"),
            counted(found.contents, "content"),
        )
    )
    yield f"Checked {checked}, {read}: " + (counted(len(found.faults), "fault") if found.faults else "no faults")
