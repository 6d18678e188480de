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
from mvc.cli.remotes import open_remote
from mvc.cli.text import counted, printable, size
from mvc.remotes.check import check_remote
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.fsck import Fault, FsckReport, fsck
from mvc.repo.repair import RepairResult, repair
from mvc.repo.repair_plan import RepairPlan
from mvc.repo.session import Session

_SHOWN = 20
"""Files listed for each fault; the JSON document lists all."""


@make_command(
    "fsck", "mvc fsck", "mvc fsck --quick", "mvc fsck --repair --from /backup/run", "mvc fsck --remote origin"
)
@click.option("--quick", is_flag=True, help="Check headers and metadata only, of what is new since the last check.")
@click.option("--repair", "mend", is_flag=True, help="Store again what can be found elsewhere; set damage aside.")
@click.option("--from", "sources", metavar="DIR", multiple=True, help="With --repair: another repository to read from.")
@click.option("--remote", metavar="NAME", help="Check what this remote has instead: reads and decodes all of it.")
@click.option("--dry-run", is_flag=True, help="With --repair: show what would be done first, and do nothing.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    quick: bool,
    mend: bool,
    sources: tuple[str, ...],
    remote: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check that everything stored is what its id promises.

    Decodes every stored copy of every tensor and literal and computes its id again. Exits with 5 if something is wrong,
    and says which files of which commits need it. What commits say of their losses is measured again wherever the
    exact tensors are stored, too.

    With --repair, what is lost is taken from other copies, from the work tree and from the repositories given by
    --from, and damaged files are moved to .mvc/corrupt. Without it nothing is written.
    """
    if (sources or dry_run) and not mend:
        raise click.UsageError("--from and --dry-run belong to --repair")
    if quick and mend:
        raise click.UsageError("--repair takes a full check, not --quick")
    if remote and (quick or mend):
        raise click.UsageError("--remote excludes --quick and --repair: repair a remote on its own side, or push again")
    keep_freed_memory()
    app: App = ctx.obj
    if remote:
        _check_remote(app, remote, as_json=as_json)
        return
    session, progress = Session.find(app.start), terminal_progress()
    done = None
    if mend:
        done = repair(session, [app.path(source) for source in sources], dry_run=dry_run, progress=progress)
    found = done.report if done else fsck(session, quick=quick, progress=progress)
    if as_json:
        _emit(found, done, quick=quick, dry_run=dry_run)
    else:
        for line in (*(_done(done, dry_run=dry_run) if done else ()), *_lines(found, quick=quick)):
            click.echo(printable(line))
    if not found.clean:
        ctx.exit(CORRUPT)


def _check_remote(app: App, name: str, *, as_json: bool) -> None:
    session = Session.find(app.start)
    with open_remote(app, session, name).engine as engine:
        scratch, actor = session.layout.directory / "tmp", app.actor(session.settings)
        found = check_remote(RemoteStore(engine), scratch, actor, terminal_progress())
    if as_json:
        emit("mvc.fsck-remote/1", remote=name, clean=True, **asdict(found))
    else:
        amount = f"{counted(found.commits, 'commit')}, {counted(found.contents, 'content')}"
        click.echo(printable(f"Checked {amount}, {size(found.received_bytes)} of {name}: no faults"))


def _emit(found: FsckReport, done: RepairResult | None, *, quick: bool, dry_run: bool) -> None:
    plans = done.plans if done else ()
    emit(
        "mvc.fsck/1",
        clean=found.clean,
        quick=quick,
        operations=found.operations,
        commits=found.commits,
        contents=found.contents,
        checked_bytes=found.checked_bytes,
        faults=[asdict(fault) for fault in found.faults],
        copies=found.copies,
        set_aside=found.set_aside,
        dry_run=dry_run,
        repairs=[line for plan in plans for line in _plan(plan)],
        restored=[{"object": item.oid, "origin": item.origin} for plan in plans for item in plan.restore],
        known_commits=found.known_commits,
        promised=found.promised,
        losses=found.losses,
    )


def _done(done: RepairResult, *, dry_run: bool) -> Iterator[str]:
    for plan in done.plans:
        for line in _plan(plan):
            yield f"would {line}" if dry_run else line
    for name in () if dry_run else done.set_aside:
        yield f"set aside as .mvc/corrupt/{name}"


def _plan(plan: RepairPlan) -> Iterator[str]:
    for item in plan.restore:
        yield f"store {item.sort} {item.oid} from {item.origin}"
    for copy in plan.carry:
        yield f"copy {copy.oid} out of damaged pack {copy.location.pack}"
    for head in plan.heads:
        yield f"write the head file of operation {head.number} again: {head.oid}"
    for pack in plan.indexes:
        yield f"make the index of pack {pack} again"
    for aside in plan.set_aside:
        yield f"set aside the damaged {aside.sort} {aside.oid}"
    if plan.reindex:
        yield "make the index again"


def _lines(found: FsckReport, *, quick: bool) -> Iterator[str]:
    for fault in found.faults:
        yield from _fault(fault)
    if found.set_aside:
        yield f"{counted(found.set_aside, 'file')} in .mvc/corrupt, set aside by repairs; nothing reads them"
    if found.promised:
        tensors = counted(found.promised, "tensor")
        yield f"{tensors} left out, and promised by a remote; mvc fsck --remote NAME checks what is there"
    read = "headers only" if quick else f"{size(found.checked_bytes)} decoded"
    checked = ", ".join(
        (
            counted(found.operations, "operation"),
            counted(found.commits, "commit"),
            counted(found.contents, "content"),
        )
    )
    if found.losses:
        read += f", {counted(found.losses, 'lossy tensor')} measured again"
    if found.known_commits:
        read += f", {counted(found.known_commits, 'commit')} known from an earlier check"
    yield f"Checked {checked}, {read}: " + (counted(len(found.faults), "fault") if found.faults else "no faults")


def _fault(fault: Fault) -> Iterator[str]:
    where = f" (.mvc/{fault.place})" if fault.place and fault.place != fault.object else ""
    yield f"{fault.object}: {fault.problem}{where}"
    if fault.kind == "derived":
        yield "    it is made again from the rest: no content is lost; mvc reindex"
    names: dict[str, list[str]] = {}
    for use in fault.tensors:
        names.setdefault(f"{use.commit}:{use.path}", []).append(use.name)
    for affected in fault.affected[:_SHOWN]:
        tensors = names.get(affected, [])
        more = f" and {len(tensors) - _SHOWN} more" if len(tensors) > _SHOWN else ""
        yield f"    needed by {affected}" + (f" ({', '.join(tensors[:_SHOWN])}{more})" if tensors else "")
    if len(fault.affected) > _SHOWN:
        yield f"    and {len(fault.affected) - _SHOWN} more, which --json lists"
