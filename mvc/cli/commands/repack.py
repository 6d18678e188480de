"""``mvc repack``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.options import json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.text import columns, counted, percent, size
from mvc.repo.repack import RepackResult, repack
from mvc.repo.session import Session
from mvc.settings import LEVELS, Level


@make_command("repack", "mvc repack --plan", "mvc repack")
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be gained, judged by samples; write nothing.")
@click.option(
    "--level", type=click.Choice(LEVELS), default="max", show_default=True, help="How hard to try to be small."
)
@json_option
@click.pass_obj
def command(app: App, /, *, plan_only: bool, level: Level, as_json: bool) -> None:
    """Store the whole history in fewer bytes.

    Looks for near relatives of every tensor in all branches and commits, and chooses what is stored as a delta of what:
    the fewest bytes under the bounds of `[delta]` on what a checkout reads. What is encoded again is read back
    and compared with its id before anything goes. Then packs are merged and garbage is removed, as `mvc gc` does.
    Nothing that a commit names changes. May run beside anything.
    """
    keep_freed_memory()
    session = Session.find(app.start)
    done = repack(session, session.settings.gc, level=level, plan_only=plan_only, progress=terminal_progress())
    if as_json:
        emit(
            "mvc.repack/1",
            plan=plan_only,
            contents=done.contents,
            live=done.live,
            logical_bytes=done.raw_bytes,
            before=asdict(done.before),
            after=asdict(done.after),
            stored_before=done.stored_before,
            stored_after=done.stored_after,
        )
    else:
        click.echo("\n".join(_lines(done, plan_only=plan_only)))


def _lines(done: RepackResult, *, plan_only: bool) -> Iterator[str]:
    verb = "would be stored" if plan_only else "stored"
    yield f"{done.contents:,} of {counted(done.live, 'content')} {verb} in another way"
    yield ""
    before, after = done.before, done.after
    yield from columns(
        [
            ("", "before", "after"),
            ("stored", size(int(before.stored_bytes)), size(int(after.stored_bytes))),
            ("mean read", *(percent(int(side.read_bytes), done.raw_bytes) for side in (before, after))),
            ("worst read", size(int(before.worst_read_bytes)), size(int(after.worst_read_bytes))),
            ("worst depth", str(before.worst_depth), str(after.worst_depth)),
        ],
        "<>>",
    )
    if not plan_only:
        yield ""
        yield f"The store took {size(done.stored_before)} and takes {size(done.stored_after)}"
