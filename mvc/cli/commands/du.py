"""``mvc du``."""

from __future__ import annotations

from dataclasses import asdict

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import json_option
from mvc.cli.text import columns, counted, percent, size
from mvc.repo.du import DiskUse, disk_use
from mvc.repo.session import Session


@make_command("du", "mvc du", "mvc du --json")
@json_option
@click.pass_obj
def command(app: App, /, *, as_json: bool) -> None:
    """Show what history takes on disk, and would take as copies.

    The logical size is that of all files of all commits that a branch, tag or HEAD reaches, without those that were
    thinned; the stored size that of all objects, whether reached or not, with the packs' indexes and the operation log.
    """
    use = disk_use(Session.find(app.start))
    if as_json:
        emit(
            "mvc.du/1",
            logical_bytes=use.logical_bytes,
            stored_bytes=use.stored.total,
            ratio=use.ratio,
            by_encoding={
                total.codec: {"blobs": total.blobs, "raw_bytes": total.raw_bytes, "stored_bytes": total.stored_bytes}
                for total in use.by_encoding
            },
            commits=use.commits,
            by_place=asdict(use.stored),
            thinned=use.thinned,
        )
    else:
        click.echo("\n".join(_lines(use)))


def _lines(use: DiskUse) -> list[str]:
    commits, logical, stored = counted(use.commits, "commit"), size(use.logical_bytes), size(use.stored.total)
    share = percent(use.stored.total, use.logical_bytes)
    thinned = f" ({use.thinned:,} of them thinned, and not counted)" if use.thinned else ""
    encodings = [
        (
            total.codec,
            f"{total.blobs:,}",
            size(total.raw_bytes),
            size(total.stored_bytes),
            percent(total.stored_bytes, total.raw_bytes),
        )
        for total in use.by_encoding
    ]
    places = [(place, size(count)) for place, count in asdict(use.stored).items()]
    return [
        f"{commits}{thinned}: {logical} of files, stored in {stored} ({share})",
        "",
        *columns([("encoding", "blobs", "raw", "stored", ""), *encodings], "<>>>>"),
        "",
        *columns([("place", "stored"), *places], "<>"),
    ]
