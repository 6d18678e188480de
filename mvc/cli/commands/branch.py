"""``mvc branch``. Listing names must not import NumPy or SQLAlchemy: prompts and completion scripts do it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import complete_ref, json_option
from mvc.cli.text import Cell, columns, short
from mvc.lazy import LazyModule
from mvc.objects.refnames import BRANCHES
from mvc.repo.refs import RefState
from mvc.repo.workspace import Workspace

branching = LazyModule("mvc.cli.branching")


@make_command(
    "branch",
    "mvc branch -v",
    "mvc branch sweep/lr-3e-5 main~1",
    "mvc branch -m old-name new-name",
    "mvc branch -d done",
)
@click.argument("names", metavar="[NAME [REF]]", nargs=-1, shell_complete=complete_ref)
@click.option("-d", "--delete", is_flag=True, help="Delete branches whose commits another branch holds.")
@click.option("-D", "delete_anyway", is_flag=True, help="Delete branches.")
@click.option("-m", "--move", is_flag=True, help="Rename a branch: [OLD] NEW (default: the current one).")
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
    if names or move or delete or delete_anyway:
        if delete or delete_anyway:
            branching.delete(app, names, force=delete_anyway or force, quiet=as_json)
        elif move:
            branching.rename(app, names)
        else:
            branching.create(app, names, force=force)
        if not as_json:
            return
    state = Workspace.find(app.start).refs.state()
    if as_json:
        _emit(state)
        return
    for line in columns(_rows(app, state, verbose=verbose), "<<<<"):
        click.echo(line)


def _emit(state: RefState) -> None:
    listed = [
        {"name": name, "commit": oid, "current": BRANCHES + name == state.branch}
        for name, oid in state.branches().items()
    ]
    emit("mvc.branch/1", branches=listed)


def _rows(app: App, state: RefState, *, verbose: bool) -> Iterator[tuple[Cell, ...]]:
    if state.branch is None and state.head:
        yield "*", (f"(HEAD detached at {short(state.head)})", "red"), "", ""
    if verbose:
        subject = branching.subjects(app)
    for name, oid in state.branches().items():
        here = BRANCHES + name == state.branch
        yield (
            "*" if here else " ",
            (name, "green") if here else name,
            short(oid) if verbose else "",
            subject(oid) if verbose else "",
        )
