"""``mvc switch``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.heads import explain_detached, explain_stand_in, head_document
from mvc.cli.memory import keep_freed_memory
from mvc.cli.options import allow_lossy_option, complete_ref, force_option, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.text import counted, printable
from mvc.errors import AlreadyExistsError, NotFoundError
from mvc.objects.refnames import branch_ref
from mvc.repo.checkout import CheckoutResult, switch
from mvc.repo.refs import RefState
from mvc.repo.revisions import Revision, resolve_readable
from mvc.types import object_id


@make_command("switch", "mvc switch main", "mvc switch -c sweep/lr-3e-5 main~1", "mvc switch --detach v1")
@click.argument("name", metavar="[NAME]", shell_complete=complete_ref, required=False)
@click.argument("start", metavar="[REF]", shell_complete=complete_ref, required=False)
@click.option("-c", "--create", is_flag=True, help="Make branch NAME at REF (default: HEAD), then switch to it.")
@click.option("--detach", is_flag=True, help="Go to a commit instead of a branch (default: HEAD).")
@allow_lossy_option
@force_option
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    name: str | None,
    start: str | None,
    create: bool,
    detach: bool,
    allow_lossy: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Bring the work tree to a branch.

    Commits then go to branch NAME. Changed files that are the same on both branches keep their changes; if a changed
    file would be overwritten, nothing happens unless --force is given.

    With --detach or --create, --allow-lossy goes to the commit that stands in for one whose contents were let go
    (mvc thin).
    """
    keep_freed_memory()
    session = open_session(app)
    read = partial(resolve_readable, session, allow_lossy=allow_lossy)
    branch, revision = _target(session.refs.state(), read, name, start, create=create, detach=detach)
    actor, progress = app.actor(session.settings), terminal_progress()
    already = branch is not None and session.refs.state().branch == branch
    commit = revision.commit if revision else None
    result = switch(session, commit, actor, branch=branch, create=create, force=force, progress=progress)
    explain_stand_in(session, revision)
    if as_json:
        emit("mvc.switch/1", **head_document(result), stands_in_for=revision.stands_in_for if revision else None)
    elif branch is None:
        explain_detached(session, result)
    else:
        _say(result, name or "", create=create, already=already)


def _target(
    state: RefState,
    read: Callable[[str], Revision],
    name: str | None,
    start: str | None,
    *,
    create: bool,
    detach: bool,
) -> tuple[str | None, Revision | None]:
    """Return the full name of the branch to follow, if any, and the commit to go to, which `read` finds."""
    if create and detach:
        raise click.UsageError("--create and --detach exclude each other", click.get_current_context())
    if start is not None and not create:
        raise click.UsageError("a second argument needs --create", click.get_current_context())
    if detach:
        return None, read(name or "HEAD")
    if name is None:
        raise click.UsageError("name a branch", click.get_current_context())
    ref = branch_ref(name)
    if create:
        if ref in state.refs:
            raise AlreadyExistsError(f"branch {name!r} exists already", hint=f"mvc switch {name}")
        empty = start is None and state.head is None
        return ref, None if empty else read(start or "HEAD")
    if ref not in state.refs and ref != state.branch:
        raise NotFoundError(
            f"there is no branch {name!r}", hint=f"mvc switch -c {name} makes it; --detach goes to a commit"
        )
    return ref, Revision(object_id(state.refs[ref]), ref) if ref in state.refs else None  # never what stands in for it


def _say(result: CheckoutResult, name: str, *, create: bool, already: bool) -> None:
    if already:
        click.echo(printable(f"Already on {name!r}"))
    else:
        click.echo(printable(f"Switched to {'a new ' if create else ''}branch {name!r}"))
    if result.written or result.removed:
        click.echo(f"{counted(result.written, 'file')} written, {result.removed:,} removed")
