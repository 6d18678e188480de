"""``mvc import``."""

from __future__ import annotations

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.executors import named_executor
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.options import json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.text import counted, iso_time, local_time, percent, printable, short, size
from mvc.errors import InvalidInputError
from mvc.migration import KINDS, ImportPlan, ImportResult, Kind, Shard, execute_import, plan_import
from mvc.migration.plan import Branch, PlannedCommit
from mvc.repo.session import Session
from mvc.settings import LEVELS, Level


def _shard(_: click.Context, parameter: click.Parameter, text: str) -> Shard:
    try:
        return Shard.parse(text)
    except InvalidInputError as error:
        raise click.BadParameter(f"{error.message}; {error.hint}", param=parameter) from error


@make_command(
    "import",
    "mvc import out/run-7",
    "mvc import ~/models/bert --kind git-lfs --branch main",
    "mvc import ~/.cache/huggingface/hub --shard $SLURM_ARRAY_TASK_ID/8",
)
@click.argument("source")
@click.option("--kind", type=click.Choice(KINDS), help="What SOURCE is (default: recognised).")
@click.option("--branch", metavar="NAME", help="Of git: the branch to import. Else: the branch to record onto.")
@click.option("--shard", metavar="I/N", default="0/1", callback=_shard, help="Only part I of N, counted from 0.")
@click.option("--level", type=click.Choice(LEVELS), default="default", help="How hard to try to be small.")
@click.option("--allow-damaged", is_flag=True, help="Record damaged or incomplete checkpoints as they are.")
@click.option(
    "--executor",
    metavar="NAME",
    default="threads",
    help="What encodes: threads, processes, or MODULE:FUNCTION, which makes a concurrent.futures executor.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be imported; write nothing.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    source: str,
    kind: Kind | None,
    branch: str | None,
    shard: Shard,
    level: Level,
    allow_damaged: bool,
    executor: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring in history: git-lfs, checkpoints, Hugging Face.

    SOURCE is a working copy of git, whose pointers to git-lfs become the files that they stand for; a directory of
    numbered checkpoints (checkpoint-500, epoch-3), or of several such runs; or a Hugging Face cache. Authors, dates,
    messages, merges and tags are kept, and the metrics of trainer_state.json. Neither the work tree nor HEAD is
    touched.

    What was imported before is skipped, so that the command can be run again after it was killed, and when there are
    new checkpoints. Parts of a --shard can run at the same time, on one machine or on many.
    """
    keep_freed_memory()
    session = Session.find(app.start)
    plan = plan_import(app.path(source), kind, branch=branch, shard=shard)
    done = None
    if not dry_run:
        with named_executor(executor) as workers:
            done = execute_import(
                session,
                plan,
                app.actor(session.settings),
                level=level,
                allow_damaged=allow_damaged,
                executor=workers,
                progress=terminal_progress(),
            )
    if as_json:
        _emit(plan, done)
    else:
        _show(plan, done)


def _emit(plan: ImportPlan, done: ImportResult | None) -> None:
    branches = [_branch_document(branch, done) for branch in plan.branches]
    emit(
        "mvc.import/1",
        kind=plan.kind,
        dry_run=done is None,
        branches=branches,
        tags=[tag.name for tag in plan.tags],
        notes=plan.notes,
        imported=done.imported if done else None,
        skipped=done.skipped if done else None,
        logical_bytes=done.logical_bytes if done else None,
        stored_bytes=done.stored_bytes if done else None,
    )


def _branch_document(branch: Branch, done: ImportResult | None) -> dict[str, object]:
    commits = [_commit_document(commit) for commit in branch.commits]
    return {"name": branch.name, "commit": done.branches[branch.name] if done else None, "commits": commits}


def _commit_document(commit: PlannedCommit) -> dict[str, object]:
    return {
        "origin": commit.origin,
        "time": iso_time(commit.time),
        "author": commit.author,
        "message": commit.message,
        "metadata": commit.metadata,
        "changed_bytes": commit.size,
    }


def _show(plan: ImportPlan, done: ImportResult | None) -> None:
    for note in plan.notes:
        click.echo(printable(note), err=True)
    for branch in plan.branches:
        at = f" {click.style(short(done.branches[branch.name]), fg='yellow')}" if done else ""
        click.echo(f"[{printable(branch.name)}{at}] {counted(len(branch.commits), 'commit')}")
        for commit in branch.commits if done is None else ():
            subject = printable(commit.message.partition("\n")[0])
            click.echo(f"  {local_time(commit.time)}  {size(commit.size):>9}  {subject}")
    if done is None:
        click.echo(f"would import {counted(len(plan.commits), 'commit')}, less those that are here already")
        return
    logical, stored = done.logical_bytes, done.stored_bytes
    click.echo(
        f"{counted(done.imported, 'commit')} imported, {done.skipped:,} here already; "
        f"{size(logical)} stored as {size(stored)} ({percent(stored, logical)})"
    )
