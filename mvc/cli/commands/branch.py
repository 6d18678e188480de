"""``mvc branch``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import complete_ref, json_option
from mvc.cli.text import columns, printable, short
from mvc.objects.refnames import BRANCHES, branch_ref
from mvc.repo.branches import create_branch, delete_branch, rename_branch
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.types import ObjectId


@make_command(
    "branch",
    "mvc branch -v",
    "mvc branch sweep/lr-3e-5 main~1",
    "mvc branch -m old-name new-name",
    "mvc branch -d done",
)
@click.argument("names", metavar="[NAME [REF]]", nargs=-1, shell_complete=complete_ref)
@click.option("-d", "--delete", is_flag=True, help="Delete branches whose commits another branch or tag holds.")
@click.option("-D", "delete_anyway", is_flag=True, help="Delete branches.")
@click.option("-m", "--move", is_flag=True, help="Rename a branch (default: the current one).")
@click.option("-f", "--force", is_flag=True, help="Move the branch if it exists.")
@click.option("-v", "--verbose", is_flag=True, help="Also show the commit that each branch is at.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    names: tuple[str, ...],
    delete: bool,
    delete_anyway: bool,
    move: bool,
    force: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """List, make, rename or delete branches.

    Without NAME, lists them; * marks the current one. With NAME, makes a branch at REF (default: HEAD) and stays on the
    current one: mvc switch goes there. With --json, prints the branches as they are afterwards.
    """
    session = Session.find(app.start)
    if delete or delete_anyway:
        _delete(app, session, names, force=delete_anyway or force, quiet=as_json)
    elif move:
        _rename(app, session, names)
    elif names:
        _create(app, session, names, force=force)
    if as_json:
        _emit(session)
    elif not (names or move or delete or delete_anyway):
        _list(session, verbose=verbose)


def _usage(message: str) -> click.UsageError:
    return click.UsageError(message, click.get_current_context())


def _delete(app: App, session: Session, names: Sequence[str], *, force: bool, quiet: bool) -> None:
    if not names:
        raise _usage("name the branches to delete")
    for name in names:
        old = delete_branch(session, name, app.actor(session.settings), force=force)
        if not quiet:
            click.echo(printable(f"Deleted branch {name} (was {short(old)})"))


def _rename(app: App, session: Session, names: Sequence[str]) -> None:
    current = session.refs.state().branch
    match names:
        case [old, new]:
            rename_branch(session, old, new, app.actor(session.settings))
        case [new] if current:
            rename_branch(session, current.removeprefix(BRANCHES), new, app.actor(session.settings))
        case [_]:
            raise _usage("HEAD is detached: name the branch to rename")
        case _:
            raise _usage("-m takes [OLD] NEW")


def _create(app: App, session: Session, names: Sequence[str], *, force: bool) -> None:
    if len(names) > 2:
        raise _usage("too many arguments")
    name, ref = names if len(names) == 2 else (names[0], "HEAD")
    branch_ref(name)
    create_branch(session, name, resolve(session, ref).commit, app.actor(session.settings), force=force)


def _branches(session: Session) -> Mapping[str, tuple[ObjectId, bool]]:
    state = session.refs.state()
    return {name: (oid, BRANCHES + name == state.branch) for name, oid in state.branches().items()}


def _emit(session: Session) -> None:
    listed = [{"name": name, "commit": oid, "current": here} for name, (oid, here) in _branches(session).items()]
    emit("mvc.branch/1", branches=listed)


def _list(session: Session, *, verbose: bool) -> None:
    rows = []
    for name, (oid, here) in _branches(session).items():
        shown = click.style(printable(name), fg="green") if here else name
        subject = session.record(oid).message.partition("\n")[0] if verbose else ""
        rows.append(("*" if here else " ", shown, short(oid) if verbose else "", subject))
    state = session.refs.state()
    if state.branch is None and state.head:
        rows.insert(0, ("*", click.style("(HEAD detached)", fg="red"), short(state.head), ""))
    for line in columns(rows, "<<<<"):
        click.echo(line)
