"""``mvc tag``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.options import complete_ref, json_option
from mvc.cli.text import columns, printable, short
from mvc.objects.refnames import TAGS, tag_ref
from mvc.repo.branches import create_tag, delete_tag
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.tips import commits_of_refs
from mvc.types import ObjectId, object_id


@make_command("tag", "mvc tag", "mvc tag v1", "mvc tag -m 'what we shipped' v1 main~2", "mvc tag -d v1")
@click.argument("names", metavar="[NAME [REF]]", nargs=-1, shell_complete=complete_ref)
@click.option("-m", "--message", metavar="MSG", help="Why; kept in a tag object with author and time.")
@click.option("-d", "--delete", is_flag=True, help="Delete tags.")
@click.option("-f", "--force", is_flag=True, help="Move the tag if it exists.")
@json_option
@click.pass_obj
def command(
    app: App, /, *, names: tuple[str, ...], message: str | None, delete: bool, force: bool, as_json: bool
) -> None:
    """List, make or delete tags.

    Without NAME, lists them. With NAME, makes a tag at REF (default: HEAD). With --json, prints the tags as they are
    afterwards.
    """
    session = Session.find(app.start)
    if delete:
        _delete(app, session, names, quiet=as_json)
    elif names:
        _create(app, session, names, message, force=force)
    elif message is not None:
        raise click.UsageError("name the tag", click.get_current_context())
    if as_json:
        _emit(session)
    elif not (names or delete):
        rows = [(name, short(commit), text.partition("\n")[0]) for name, (commit, text) in _tags(session).items()]
        for line in columns(rows, "<<<"):
            click.echo(line)


def _delete(app: App, session: Session, names: Sequence[str], *, quiet: bool) -> None:
    if not names:
        raise click.UsageError("name the tags to delete", click.get_current_context())
    for name in names:
        old = delete_tag(session, name, app.actor(session.settings))
        if not quiet:
            click.echo(printable(f"Deleted tag {name} (was {short(old)})"))


def _create(app: App, session: Session, names: Sequence[str], message: str | None, *, force: bool) -> None:
    if len(names) > 2:
        raise click.UsageError("too many arguments", click.get_current_context())
    name, ref = names if len(names) == 2 else (names[0], "HEAD")
    tag_ref(name)
    commit = resolve(session, ref).commit
    create_tag(session, name, commit, app.actor(session.settings), message=message, force=force)


def _tags(session: Session) -> Mapping[str, tuple[ObjectId, str]]:
    """Return by name the commit and message of every tag; the message of a tag without an object of its own is ""."""
    state = session.refs.state()
    found = {}
    for ref, commit in sorted(commits_of_refs(session, state).items()):
        if ref.startswith(TAGS):
            value = object_id(state.refs[ref])
            found[ref.removeprefix(TAGS)] = (commit, "" if value == commit else session.tag(value).message)
    return found


def _emit(session: Session) -> None:
    listed = [{"name": name, "commit": oid, "message": text or None} for name, (oid, text) in _tags(session).items()]
    emit("mvc.tag/1", tags=listed)
