"""``mvc commit``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from mvc.cli.app import App
from mvc.cli.derivations import derivation_document, derivation_lines
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.notes import tell
from mvc.cli.options import json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.text import counted, percent, printable, short, size
from mvc.lossy import Precision
from mvc.objects.commit import Scalar
from mvc.objects.refnames import BRANCHES
from mvc.repo.commit import CommitRequest, CommitResult, commit
from mvc.repo.log import parse_scalar
from mvc.repo.session import Session
from mvc.repo.tree import Selection, from_directory, from_worktree
from mvc.settings import LEVELS, Level


@make_command(
    "commit",
    "mvc commit -m 'epoch 1' --metric loss=0.41",
    "mvc commit model.safetensors -m 'only the weights'",
    "mvc commit --from out/checkpoint-500 --as student -m 'epoch 1'",
    "mvc commit -m 'epoch 2' --lossy precision:23",
)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option(
    "-m", "--message", "messages", metavar="MSG", multiple=True, required=True, help="Why. Repeated: paragraphs."
)
@click.option("--from", "source", metavar="DIR", help="Record the content of DIR instead of the work tree.")
@click.option("--as", "prefix", metavar="PREFIX", help="With --from: where in the tree it goes (default: its root).")
@click.option("--metric", "metrics", metavar="K=V", multiple=True, help="Record a number, such as loss=0.31.")
@click.option("--meta", "facts", metavar="K=V", multiple=True, help="Record a fact, such as run=a7.")
@click.option("--author", metavar="A", help="Who made it (default: MVC_AUTHOR, user.name, the account).")
@click.option("--level", type=click.Choice(LEVELS), default="default", help="How hard to try to be small.")
@click.option("--lossy", metavar="HOW", help="Round floats: precision:B, precision:B:rel or precision:mantissa=K.")
@click.option("--allow-empty", is_flag=True, help="Commit even if nothing changed.")
@click.option("--allow-damaged", is_flag=True, help="Record damaged or incomplete checkpoints as they are.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    paths: tuple[str, ...],
    messages: tuple[str, ...],
    source: str | None,
    prefix: str | None,
    metrics: tuple[str, ...],
    facts: tuple[str, ...],
    author: str | None,
    level: Level,
    lossy: str | None,
    allow_empty: bool,
    allow_damaged: bool,
    as_json: bool,
) -> None:
    """Record the work tree, or a directory, as the next commit.

    There is no staging area: without PATH, the commit holds the whole work tree as it is now, less what .mvcignore
    names. With PATH, it holds these files and directories as they are now, and everything else as in HEAD.

    --from records a directory anywhere, such as a trainer's checkpoint-500, as the tree, or as its PREFIX, and leaves
    the work tree alone.

    --lossy rounds every float to the nearest multiple of 2^-B (or to K bits of the mantissa), and stores nothing exact.
    The commit records the loss; files of the work tree stay exact.
    """
    rounding = None if lossy is None else Precision.of(lossy)
    keep_freed_memory()
    metadata = _metadata(metrics, facts)
    session = Session.find(app.start)
    selection = _select(app, session, paths, source, prefix, opaque=allow_damaged)
    request = CommitRequest("\n\n".join(messages), metadata, level, allow_empty, allow_damaged, lossy=rounding)
    result = commit(session, selection, request, app.actor(session.settings, author), terminal_progress())
    if as_json:
        emit(
            "mvc.commit/1",
            commit=result.commit,
            tensors=result.tensors,
            new_tensors=result.new_tensors,
            logical_bytes=result.logical_bytes,
            stored_bytes=result.stored_bytes,
            derivation=_derivation(session, result),
        )
    else:
        click.echo(_summary(result, messages[0]))
        for line in _loss(session, result):
            click.echo(line)
    if result.derivation and selection.in_worktree:
        tell("note", "the files here are exact, the commit is not: mvc restore FILE brings the rounded ones")


def _derivation(session: Session, result: CommitResult) -> dict[str, object] | None:
    return derivation_document(result.derivation, session.manifest(result.commit)) if result.derivation else None


def _loss(session: Session, result: CommitResult) -> Iterator[str]:
    if result.derivation:
        yield from derivation_lines(result.derivation, session.manifest(result.commit))


def _select(
    app: App, session: Session, paths: Sequence[str], source: str | None, prefix: str | None, *, opaque: bool
) -> Selection:
    if source is None:
        if prefix is not None:
            raise click.UsageError("--as needs --from", click.get_current_context())
        root = session.layout.tree
        return from_worktree(root, app.tree_paths(root, paths), opaque=opaque)
    if paths:
        raise click.UsageError("PATH and --from exclude each other", click.get_current_context())
    return from_directory(app.path(source), prefix or "", opaque=opaque)


def _metadata(metrics: Sequence[str], facts: Sequence[str]) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for option, texts in (("--metric", metrics), ("--meta", facts)):
        for text in texts:
            key, equals, value = text.partition("=")
            if not (key and equals):
                raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE", param_hint=option)
            if key in found:
                raise click.BadParameter(f"{key!r} is given twice", param_hint=option)
            found[key] = parse_scalar(value)
            if option == "--metric" and (isinstance(found[key], bool) or not isinstance(found[key], int | float)):
                raise click.BadParameter(f"{text!r} is not a number; --meta records other facts", param_hint=option)
    return found


def _summary(result: CommitResult, message: str) -> str:
    place = result.branch.removeprefix(BRANCHES) if result.branch else "detached HEAD"
    logical, stored = result.logical_bytes, result.stored_bytes
    subject = printable(message.strip().partition("\n")[0])
    return (
        f"[{place} {click.style(short(result.commit), fg='yellow')}] {subject}\n"
        f"{counted(result.tensors, 'tensor')}, {result.new_tensors:,} new; "
        f"{size(logical)} stored as {size(stored)} ({percent(stored, logical)})"
    )
