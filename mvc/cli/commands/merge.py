"""``mvc merge``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.notes import tell
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.text import Cell, columns, counted, printable, short
from mvc.objects.refnames import BRANCHES
from mvc.repo.merge import FastForward, MergeRequest, MergeResult, merge
from mvc.repo.merge_plan import MergedFile, Side
from mvc.repo.session import Session


@make_command("merge", "mvc merge sweep/lr-3e-5", "mvc merge -X theirs side", "mvc merge --ff-only origin/main")
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option("-m", "--message", "messages", metavar="MSG", multiple=True, help="Of the commit. Repeated: paragraphs.")
@click.option("--ff-only", is_flag=True, help="Only move the branch forward; refuse if that needs a commit.")
@click.option("--no-ff", is_flag=True, help="Make a commit also where the branch could just move forward.")
@click.option("-X", "favour", type=click.Choice(["ours", "theirs"]), help="Whose version to take in conflicts.")
@click.option("--allow-unrelated-histories", "unrelated", is_flag=True, help="Merge what has no history in common.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    ref: str,
    messages: tuple[str, ...],
    ff_only: bool,
    no_ff: bool,
    favour: Side | None,
    unrelated: bool,
    as_json: bool,
) -> None:
    """Join another line of history with the current branch.

    What only one side has changed since they parted is taken from it: files, and in files of the same layout single
    tensors. Nothing is averaged. Where both changed the same tensor or file, nothing happens, unless -X names a side.
    """
    if ff_only and no_ff:
        raise click.UsageError("--ff-only and --no-ff exclude each other", click.get_current_context())
    keep_freed_memory()
    fast_forward: FastForward = "only" if ff_only else "never" if no_ff else "auto"
    session = Session.find(app.start)
    request = MergeRequest("\n\n".join(messages) if messages else None, fast_forward, favour, unrelated)
    result = merge(session, ref, request, app.actor(session.settings), terminal_progress())
    if as_json:
        emit("mvc.merge/1", **merge_document(result))
    else:
        click.echo("\n".join(merge_lines(session, result)))
        if len(result.bases) > 1:
            tell("note", f"the histories meet in {len(result.bases)} commits; compared with {short(result.bases[0])}")


def merge_document(result: MergeResult) -> dict[str, object]:
    """Return what ``--json`` says of a merge."""
    return {
        "kind": result.kind,
        "commit": result.commit,
        "branch": result.branch.removeprefix(BRANCHES) if result.branch else None,
        "bases": result.bases,
        "written": result.written,
        "removed": result.removed,
        "files": [
            {
                "path": file.path,
                "source": file.source,
                "removed": file.removed,
                "tensors": {"ours": file.ours, "theirs": file.theirs, "shared": file.shared},
            }
            for file in result.files
        ],
        "resolved": [{"path": item.path, "tensor": item.tensor, "problem": item.problem} for item in result.resolved],
    }


def merge_lines(session: Session, result: MergeResult) -> Iterator[str]:
    """Yield what a person is told of a merge."""
    if result.kind == "up-to-date":
        yield "Already up to date"
        return
    place = result.branch.removeprefix(BRANCHES) if result.branch else "detached HEAD"
    subject = printable(session.record(result.commit).message.partition("\n")[0])
    forward = "Fast-forward " if result.kind == "fast-forward" else ""
    yield f"{forward}[{printable(place)} {click.style(short(result.commit), fg='yellow')}] {subject}"
    yield from columns(map(_row, result.files), "<<")
    if result.resolved:
        yield f"{counted(len(result.resolved), 'conflict')} resolved"
    yield f"{counted(result.written, 'file')} written, {result.removed:,} removed"


def _row(file: MergedFile) -> tuple[Cell, Cell]:
    return f"  {file.path}", _origin(file)


def _origin(file: MergedFile) -> str:
    """Return where a merged file comes from, and in which parts."""
    if file.removed:
        return f"removed, as in {file.source}"
    counts = ((file.ours, "from ours"), (file.theirs, "from theirs"), (file.shared, "the same in both"))
    parts = ", ".join(f"{counted(number, 'tensor')} {where}" for number, where in counts if number)
    return parts or f"from {file.source}"
