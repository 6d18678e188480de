"""``mvc push``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import current_branch, default_remote, open_remote, open_session, update_documents, update_lines
from mvc.cli.text import counted, percent, printable, size
from mvc.errors import InvalidInputError, NotFoundError
from mvc.objects.refnames import BRANCHES, HEAD, TAGS, branch_ref, check_short_name
from mvc.remotes.config import set_upstream
from mvc.remotes.push import PushRequest, PushResult, push
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.tracking import tracked
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.types import ObjectId, object_id

Wanted = tuple[str | None, str, ObjectId | None]


@make_command(
    "push",
    "mvc push",
    "mvc push origin main --tags",
    "mvc push lab sweep/a:results/a",
    "mvc push origin --delete old-branch",
)
@click.argument("remote", required=False)
@click.argument("refs", metavar="[BRANCH | SOURCE:TARGET]...", nargs=-1, shell_complete=complete_ref)
@click.option("--all", "everything", is_flag=True, help="Push all branches.")
@click.option("--tags", is_flag=True, help="Push all tags, too.")
@click.option("--delete", "deleted", metavar="NAME", multiple=True, help="Delete a branch or tag there.")
@click.option(
    "--force-with-lease", "force", is_flag=True, help="Replace commits there, if they are what was last heard of."
)
@click.option("-u", "--set-upstream", "upstream", is_flag=True, help="Have the branch follow the one there.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and write nothing.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    remote: str | None,
    refs: tuple[str, ...],
    everything: bool,
    tags: bool,
    deleted: tuple[str, ...],
    force: bool,
    upstream: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring commits to a remote.

    They go with everything that they need. Without BRANCH, pushes the current one to the branch that it follows, or
    that of the same name. Only what the remote lacks is sent. A push that is cut off leaves the remote as it was; the
    next one goes on.
    """
    session = open_session(app)
    state = session.refs.state()
    name = remote or default_remote(session.settings, (state.branch or "").removeprefix(BRANCHES))
    follows = session.settings.upstreams.get((state.branch or "").removeprefix(BRANCHES), "")
    followed = follows.removeprefix(f"{name}/") if follows.startswith(f"{name}/") else None
    with open_remote(app, session, name).engine as engine:
        wanted = [*_wanted(state, refs, deleted, followed, everything=everything, tags=tags)]
        lease: Mapping[str, ObjectId | None] | None = tracked(state.refs, name) if force else None
        request = PushRequest(tuple(wanted), lease, dry_run)
        result = push(session, RemoteStore(engine), name, request, app.actor(session.settings), terminal_progress())
    if not dry_run:
        _set_upstreams(session, name, wanted, always=upstream)
    if as_json:
        emit(
            "mvc.push/1",
            remote=name,
            dry_run=dry_run,
            refs=update_documents(result.updates),
            commits=result.commits,
            contents=result.contents,
            sent_bytes=result.sent_bytes,
            logical_bytes=result.logical_bytes,
            saved_bytes=max(0, result.logical_bytes - result.sent_bytes),
        )
    else:
        click.echo("\n".join(map(printable, _lines(name, result, dry_run=dry_run))))


def _wanted(
    state: RefState,
    refs: Sequence[str],
    deleted: Sequence[str],
    upstream: str | None,
    *,
    everything: bool,
    tags: bool,
) -> Iterator[Wanted]:
    """Yield what is to be pushed: full name here, full name there, value."""
    if everything and refs:
        raise click.UsageError("--all and names of branches exclude each other", click.get_current_context())
    yield from (_deletion(state, name) for name in deleted)
    if everything:
        yield from (
            (ref, ref, object_id(value)) for ref, value in sorted(state.refs.items()) if ref.startswith(BRANCHES)
        )
    else:
        names = refs or ([] if deleted or tags else [_default(state, upstream)])
        yield from (_named(state, name) for name in names)
    if tags:
        yield from ((ref, ref, object_id(value)) for ref, value in sorted(state.refs.items()) if ref.startswith(TAGS))


def _default(state: RefState, upstream: str | None) -> str:
    """Return what is pushed if nothing is named: the current branch, to the one that it follows, which pull merges."""
    branch = current_branch(state).removeprefix(BRANCHES)
    return f"{branch}:{upstream}" if upstream else branch


def _named(state: RefState, text: str) -> Wanted:
    source, colon, target = text.partition(":")
    if colon and not (source and target):
        raise InvalidInputError(f"{text!r} is not of the form SOURCE:TARGET", hint="--delete NAME deletes")
    if source in {HEAD, "@"}:
        if state.branch is None and not colon:
            raise InvalidInputError("HEAD is detached: say which branch it is to go to", hint=f"{source}:BRANCH")
        if state.head is None:
            raise NotFoundError("HEAD has no commit yet", hint="mvc commit -m MESSAGE")
        return state.branch, _target(target, BRANCHES) if colon else current_branch(state), state.head
    tried = (BRANCHES + source, TAGS + source, source if source.startswith((BRANCHES, TAGS)) else "")
    name = next((ref for ref in tried if ref in state.refs), None)
    if name is None:
        if state.branch == BRANCHES + source:
            raise NotFoundError(f"{source} has no commit yet", hint="mvc commit -m MESSAGE")
        raise NotFoundError(f"there is no branch or tag {source!r}", hint="mvc branch, mvc tag")
    prefix = TAGS if name.startswith(TAGS) else BRANCHES
    return name, _target(target, prefix) if colon else name, object_id(state.refs[name])


def _target(text: str, prefix: str) -> str:
    """Return the full name of what is moved there; a short name is of the kind of what is pushed."""
    full = text if text.startswith((BRANCHES, TAGS)) else prefix + text
    check_short_name(full.removeprefix(BRANCHES).removeprefix(TAGS))
    return full


def _deletion(state: RefState, name: str) -> Wanted:
    """Return what deletes a branch there; or a tag, if that is what is called so here."""
    is_tag = TAGS + name in state.refs and BRANCHES + name not in state.refs
    return None, TAGS + name if is_tag else branch_ref(name), None


def _set_upstreams(session: Session, remote: str, wanted: Sequence[Wanted], *, always: bool) -> None:
    """Have branches follow what they were pushed to: if that is asked for, or of the same name and the first."""
    for source, target, _ in wanted:
        if source is not None and source.startswith(BRANCHES) and target.startswith(BRANCHES):
            branch = source.removeprefix(BRANCHES)
            same = source == target and branch not in session.settings.upstreams
            if always or same:
                set_upstream(session, branch, remote, target.removeprefix(BRANCHES))


def _lines(name: str, result: PushResult, *, dry_run: bool) -> Iterator[str]:
    moved = update_lines(result.updates)
    if not moved:
        yield f"Everything is up to date at {name}"
        return
    verb = "Would send" if dry_run else "Sent"
    share = f", {percent(result.sent_bytes, result.logical_bytes)} of the files" if result.commits else ""
    yield f"{verb} {counted(result.commits, 'commit')} to {name}: {size(result.sent_bytes)}{share}"
    yield from moved
