"""``mvc checkout``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.heads import explain_detached, explain_stand_in, head_document
from mvc.cli.memory import keep_freed_memory
from mvc.cli.options import allow_lossy_option, complete_ref, force_option, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.text import counted, printable, short
from mvc.objects.refnames import BRANCHES
from mvc.repo.checkout import CheckoutResult, check_out_paths, export_commit, switch
from mvc.repo.revisions import Revision, resolve_readable
from mvc.repo.session import Session


@make_command(
    "checkout",
    "mvc checkout main~2 --to /tmp/old",
    "mvc checkout v1 model.safetensors",
    "mvc checkout sweep/lr-3e-5",
)
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--to", metavar="DIR", help="Write the files below DIR, and touch nothing else.")
@click.option("--dense", is_flag=True, help="With --to: fill up with zeros what mvc derive has taken from models.")
@allow_lossy_option
@force_option
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    ref: str,
    paths: tuple[str, ...],
    to: str | None,
    dense: bool,
    allow_lossy: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Bring back the files of a commit, byte for byte.

    With --to, writes them below DIR; without, with PATH, brings these files of the work tree back to what they are in
    REF, as mvc restore does; without both, brings the whole work tree and HEAD to REF, as mvc switch does.

    A model that mvc derive has made smaller is for mvc.runtime.load; with --dense, what has gone is filled up with
    zeros, and transformers can open it.

    Of a commit whose contents were let go (mvc thin), --allow-lossy brings the commit that stands in for it.
    """
    keep_freed_memory()
    session = open_session(app)
    revision = resolve_readable(session, ref, allow_lossy=allow_lossy)
    if dense and to is None:
        raise click.UsageError("--dense takes --to: a work tree holds what commits hold", click.get_current_context())
    result = _run(app, session, revision, paths, to, force=force, dense=dense)
    explain_stand_in(session, revision)
    if as_json:
        target = None if to is None else str(app.path(to))
        emit("mvc.checkout/1", **head_document(result), to=target, stands_in_for=revision.stands_in_for)
    elif to is not None or paths:
        target = f" to {to}" if to is not None else ""
        files = counted(result.written, "file")
        click.echo(printable(f"{files} of {ref} ({short(revision.commit)}) written{target}"))
    elif result.branch:
        click.echo(printable(f"Switched to branch {result.branch.removeprefix(BRANCHES)!r}"))
    else:
        explain_detached(session, result)


def _run(
    app: App, session: Session, revision: Revision, paths: Sequence[str], to: str | None, *, force: bool, dense: bool
) -> CheckoutResult:
    progress = terminal_progress()
    wanted = app.tree_paths(session.layout.root, paths)
    if to is not None:
        if not to:
            raise click.BadParameter("the directory has no name", param_hint="--to")
        return export_commit(session, revision.commit, app.path(to), wanted, progress, dense=dense)
    if paths:
        return check_out_paths(session, revision.commit, wanted, force=force, progress=progress)
    branch = revision.ref if revision.ref and revision.ref.startswith(BRANCHES) else None
    actor = app.actor(session.settings)
    return switch(session, revision.commit, actor, branch=branch, force=force, progress=progress)
