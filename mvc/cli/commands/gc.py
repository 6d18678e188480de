"""``mvc gc``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.durations import DURATION
from mvc.cli.group import command as make_command
from mvc.cli.options import json_option
from mvc.cli.text import columns, counted, printable, size
from mvc.repo.gc import GcResult, gc
from mvc.repo.session import Session


@make_command("gc", "mvc gc --dry-run", "mvc gc", "mvc gc --retention 0 --grace 1h")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be freed, and why the rest stays; change nothing.")
@click.option(
    "--grace",
    type=DURATION,
    metavar="DURATION",
    help="Keep what is younger than this (default: gc.grace_hours, a day).",
)
@click.option(
    "--retention",
    type=DURATION,
    metavar="DURATION",
    help="Keep what the operation log of this long ago names (default: gc.retention_days, two weeks).",
)
@json_option
@click.pass_obj
def command(app: App, /, *, dry_run: bool, grace: float | None, retention: float | None, as_json: bool) -> None:
    """Remove what nothing reaches any more.

    Branches, tags, HEAD, the operation log of the last two weeks, and processes at work keep everything that they
    reach, with the bases of its deltas. A DURATION is a number and one of s, m, h, d, w, or 0. May run beside anything.
    """
    session = Session.find(app.start)
    bounds = session.settings.gc
    bounds = replace(
        bounds,
        grace_hours=bounds.grace_hours if grace is None else grace / 3600,
        retention_days=bounds.retention_days if retention is None else retention / 86_400,
    )
    found = gc(session, bounds, dry_run=dry_run)
    if as_json:
        emit(
            "mvc.gc/1",
            dry_run=dry_run,
            freed_objects=found.freed.objects,
            freed_bytes=found.freed.stored_bytes,
            spared_files=found.spared,
            kept={reason: asdict(tally) for reason, tally in found.kept.items()},
        )
    else:
        click.echo("\n".join(map(printable, _lines(found, dry_run=dry_run))))


def _lines(found: GcResult, *, dry_run: bool) -> Iterator[str]:
    verb = "Would free" if dry_run else "Freed"
    yield f"{verb} {size(max(0, found.freed.stored_bytes))}: {counted(found.freed.objects, 'object')}"
    if found.spared:
        yield f"Spared {counted(found.spared, 'file')} that another process came to need meanwhile"
    if found.kept:
        yield ""
        yield from columns(
            [
                ("kept by", "objects", "stored"),
                *((reason, f"{tally.objects:,}", size(tally.stored_bytes)) for reason, tally in found.kept.items()),
            ],
            "<>>",
        )
