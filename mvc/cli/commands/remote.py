"""``mvc remote``."""

from __future__ import annotations

from dataclasses import replace

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.durations import DURATION
from mvc.cli.group import Command
from mvc.cli.notes import tell
from mvc.cli.options import json_option, remote_options
from mvc.cli.remotes import open_remote, open_url
from mvc.cli.text import columns, counted, printable, short, size
from mvc.errors import NoRepositoryError, RemoteError
from mvc.objects.refnames import BRANCHES, branch_ref
from mvc.remotes.collect import collect_remote
from mvc.remotes.config import add_remote, find_remote, remove_remote
from mvc.remotes.forget import forget_tracking
from mvc.remotes.probe import honours_conditions
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.schemes import parse_url
from mvc.remotes.tracking import tracked
from mvc.repo.refs import RefState
from mvc.repo.workspace import Workspace
from mvc.settings import Remote


@click.group("remote", no_args_is_help=True)
def command() -> None:
    """Name other stores, which commits are pushed to and fetched from."""


@command.command(
    "add",
    cls=Command,
    examples=(
        "mvc remote add origin s3://bucket/models/a",
        "mvc remote add lab ssh://box/srv/mvc/a",
        "mvc remote add disk /mnt/backup/a.mvc",
    ),
)
@click.argument("name")
@click.argument("url")
@click.option(
    "--single-writer", is_flag=True, help="Nobody else writes there: take a store that cannot keep writers apart."
)
@remote_options
@json_option
@click.pass_obj
def add(
    app: App,
    /,
    *,
    name: str,
    url: str,
    single_writer: bool,
    endpoint: str,
    region: str,
    credentials: str | None,
    ca: str,
    as_json: bool,
) -> None:
    """Name a store, and make an empty repository there if there is none.

    What it can do is tried out: a store that ignores that a key must not exist yet would let one writer undo another's
    push unseen. It is refused, unless --single-writer says that there is only one.
    """
    workspace = Workspace.find(app.start)
    remote = Remote(url, single_writer, endpoint, region, credentials or "", ca)
    made = False
    with open_url(app, remote, workspace).engine as engine:
        store = RemoteStore(engine)
        try:
            store.check_format()
        except NoRepositoryError:
            _check_conditions(store, single_writer=single_writer)
            branch = workspace.refs.state().branch or branch_ref("main")
            store.initialize(app.actor(workspace.settings), branch)
            made = True
        else:
            _check_conditions(store, single_writer=single_writer)
    add_remote(workspace, name, remote)
    if as_json:
        emit("mvc.remote-add/1", name=name, url=url, made=made)
    else:
        click.echo(printable(f"{'Made an empty repository at' if made else 'Added'} {url} as {name}"))


def _check_conditions(store: RemoteStore, *, single_writer: bool) -> None:
    if single_writer or store.engine.capabilities.checked:
        return
    try:
        honoured = honours_conditions(store.engine)
    except RemoteError as error:
        tell("note", f"{store.url} could not be tried out, as it may be read-only for you: {error.message}")
        return
    if not honoured:
        raise RemoteError(
            f"{store.url} ignores that a key must not exist: one who pushes could undo another unseen",
            hint="use another store, or --single-writer if nobody else ever writes there",
        )


@command.command("gc", cls=Command, examples=("mvc remote gc origin --dry-run", "mvc remote gc origin --grace 3d"))
@click.argument("name")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be freed; change nothing.")
@click.option("--grace", type=DURATION, metavar="DURATION", help="Keep what is younger than this (default: a day).")
@click.option("--exclusive", is_flag=True, help="Nobody pushes meanwhile: --grace may be as short as you like.")
@json_option
@click.pass_obj
def gc(app: App, /, *, name: str, dry_run: bool, grace: float | None, exclusive: bool, as_json: bool) -> None:
    """Remove packs of a directory or bucket in which nothing is reached any more. A server collects its own garbage."""
    workspace = Workspace.find(app.start)
    bounds = workspace.settings.gc
    bounds = bounds if grace is None else replace(bounds, grace_hours=grace / 3600)
    with open_remote(app, workspace, name).engine as engine:
        found = collect_remote(RemoteStore(engine), bounds, dry_run=dry_run, exclusive=exclusive)
    if as_json:
        sizes = {"freed_bytes": found.freed_bytes, "kept_bytes": found.kept_bytes}
        emit("mvc.remote-gc/1", remote=name, dry_run=dry_run, freed_files=len(found.keys), **sizes)
    else:
        verb = "Would free" if dry_run else "Freed"
        click.echo(f"{verb} {size(found.freed_bytes)}: {counted(len(found.keys), 'file')}")


@command.command("list", cls=Command, examples=("mvc remote list", "mvc remote list --json"))
@json_option
@click.pass_obj
def list_(app: App, /, *, as_json: bool) -> None:
    """List the remotes."""
    remotes = Workspace.find(app.start).settings.remotes
    if as_json:
        emit("mvc.remote-list/1", remotes=[{"name": name, "url": item.url} for name, item in remotes.items()])
        return
    for line in columns([(name, item.url) for name, item in remotes.items()], "<<"):
        click.echo(line)


@command.command("remove", cls=Command, examples=("mvc remote remove lab",))
@click.argument("name")
@json_option
@click.pass_obj
def remove(app: App, /, *, name: str, as_json: bool) -> None:
    """Forget a remote, and what its branches were. Nothing is removed there."""
    workspace = Workspace.find(app.start)
    remove_remote(workspace, name)
    forgotten = forget_tracking(workspace, name, app.actor(workspace.settings))
    if as_json:
        emit("mvc.remote-remove/1", name=name, branches=forgotten)
    else:
        click.echo(printable(f"Removed {name}"))


@command.command("show", cls=Command, examples=("mvc remote show origin",))
@click.argument("name")
@json_option
@click.pass_obj
def show(app: App, /, *, name: str, as_json: bool) -> None:
    """Show a remote, its branches, and what was last heard of them."""
    workspace = Workspace.find(app.start)
    remote = find_remote(workspace.settings, name)
    parse_url(remote.url)
    with open_remote(app, workspace, name).engine as engine:
        store = RemoteStore(engine)
        store.check_format()
        theirs = store.state()
    ours = tracked(workspace.refs.state().refs, name)
    rows = [(branch, oid, ours.get(BRANCHES + branch)) for branch, oid in theirs.branches().items()]
    if as_json:
        branches = [{"name": branch, "commit": oid, "known": known} for branch, oid, known in rows]
        emit("mvc.remote-show/1", name=name, url=remote.url, head=_head(theirs), branches=branches)
        return
    click.echo(printable(f"{name}: {remote.url}"))
    click.echo(printable(f"HEAD: {_head(theirs) or 'detached'}"))
    notes = [(f"  {branch}", short(oid), _note(oid, known)) for branch, oid, known in rows]
    for line in columns(notes, "<<<"):
        click.echo(line)


def _head(state: RefState) -> str | None:
    return state.branch.removeprefix(BRANCHES) if state.branch else None


def _note(oid: str, known: str | None) -> str:
    if known is None:
        return "new: mvc fetch brings it"
    return "" if known == oid else "moved: mvc fetch brings it"
