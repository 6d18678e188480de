"""``mvc thin``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.text import Cell, columns, counted, printable, short, size
from mvc.repo.revisions import resolve
from mvc.repo.thin import Older, ThinRequest, ThinResult, thin
from mvc.repo.thin_plan import Keep, Verdict, parse_best
from mvc.settings import LEVELS, Level

_COUNT = click.IntRange(min=1)


@make_command(
    "thin",
    "mvc thin --keep-last 2 --keep-every 5 --older precision:19 --dry-run",
    "mvc thin run-7 --keep-last 1 --keep-best accuracy --keep-best loss:min --older drop",
    "mvc thin --keep-every 10 --older delta-gptq:8",
)
@click.argument("ref", metavar="[REF]", shell_complete=complete_ref, default="HEAD")
@click.option("--keep-last", type=_COUNT, metavar="N", help="Keep the newest N.")
@click.option("--keep-every", type=_COUNT, metavar="K", help="Keep every K-th.")
@click.option("--keep-best", metavar="METRIC", multiple=True, help="Keep the best; METRIC:min where lower is better.")
@click.option(
    "--older",
    metavar="METHOD",
    required=True,
    help="What becomes of the others: precision:B, delta-gptq:STEP or drop.",
)
@click.option("--level", type=click.Choice(LEVELS), default="default", show_default=True, help="How hard to try.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would become of each commit and of the bytes, exactly.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    ref: str,
    keep_last: int | None,
    keep_every: int | None,
    keep_best: tuple[str, ...],
    older: str,
    level: Level,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Let go of the contents of old epochs, and keep what they were.

    Looks at REF and its first parents. Of those that no --keep option names, and no branch, tag or HEAD, id, metadata
    and manifest stay, and the contents may go: mvc gc frees them when the operation log has let go, and until then
    mvc undo takes it back. With precision:B or delta-gptq:STEP, a smaller commit with a recorded loss stands in for
    each; mvc checkout --allow-lossy brings it.

    Every K-th is told by the metadata 'epoch' if all have it, else counted from the first.
    """
    keep = Keep(keep_last, keep_every, tuple(map(parse_best, keep_best)))
    method = Older.parse(older)
    keep_freed_memory()
    session = open_session(app)
    request = ThinRequest(resolve(session, ref).commit, keep, method, level, dry_run)
    result = thin(session, request, app.actor(session.settings), terminal_progress())
    if as_json:
        emit("mvc.thin/1", dry_run=dry_run, **_document(result))
    else:
        click.echo("\n".join(map(printable, _lines(result, dry_run=dry_run))))


def _document(result: ThinResult) -> dict[str, object]:
    return {
        "commits": [
            {
                "id": verdict.id,
                "fate": verdict.fate,
                "reasons": verdict.reasons,
                "logical_bytes": result.logical_bytes[verdict.id],
                "stand_in": _stand_in(result, verdict),
            }
            for verdict in result.plan.verdicts
        ],
        "stored_bytes": result.stored_bytes,
        "freed_bytes": result.foresight.freed,
        "base_bytes": result.foresight.bases,
        "shared_bytes": result.foresight.shared,
    }


def _stand_in(result: ThinResult, verdict: Verdict) -> dict[str, object] | None:
    found = result.stand_ins.get(verdict.id)
    return None if found is None else {"id": found.commit, "tensor_bytes": found.tensor_bytes}


def _lines(result: ThinResult, *, dry_run: bool) -> Iterator[str]:
    """Yield what a person is told."""
    yield from columns([_row(result, verdict, dry_run=dry_run) for verdict in result.plan.verdicts], "<<>")
    yield ""
    thinned, told = result.plan.of("thinned"), result.foresight
    if not thinned:
        yield "Nothing to thin"
        return
    would = "would be " if dry_run else ""
    yield f"{counted(len(thinned), 'commit')} {would}thinned; {size(result.stored_bytes)} {would}stored for them"
    frees = f"mvc gc {'would free' if dry_run else 'frees'} {size(max(0, told.freed))}"
    yield f"{frees} once the operation log has let go, or at once with --retention 0 --grace 0"
    if told.bases > 0:
        yield f"{size(told.bases)} more are bases of deltas of what stays: mvc repack, then mvc gc"
    if told.shared > 0:
        yield f"{size(told.shared)} more lie in packs with what stays: mvc repack"


def _row(result: ThinResult, verdict: Verdict, *, dry_run: bool) -> tuple[Cell, ...]:
    found, oid = result.stand_ins.get(verdict.id), short(verdict.id)
    if verdict.fate == "kept":
        return oid, f"kept: {', '.join(verdict.reasons)}", ""
    if verdict.fate == "already":
        return oid, "thinned already", ""
    if found is None:
        return oid, "dropped", ""
    return oid, "stand-in" if dry_run else f"stand-in {short(found.commit)}", size(found.tensor_bytes)
