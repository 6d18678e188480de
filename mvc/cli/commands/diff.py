"""``mvc diff``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import asdict, fields

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.failures import FAILED
from mvc.cli.group import command as make_command
from mvc.cli.notes import tell
from mvc.cli.options import complete_ref, json_option
from mvc.cli.remotes import open_session
from mvc.cli.structures import change_documents, change_lines
from mvc.cli.text import columns, counted
from mvc.objects.manifest import Manifest, TensorEntry
from mvc.repo.compare import TensorDistance
from mvc.repo.diff import Difference, Side, TensorDifference, commit_side, diff, worktree_side
from mvc.repo.revisions import resolve
from mvc.repo.session import Session


@make_command("diff", "mvc diff", "mvc diff main~1 main --tensors", "mvc diff v1 --exit-code")
@click.argument("old", metavar="[A]", shell_complete=complete_ref, required=False)
@click.argument("new", metavar="[B]", shell_complete=complete_ref, required=False)
@click.option("--tensors", is_flag=True, help="Measure how far each tensor moved.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if something differs.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, *, old: str | None, new: str | None, tensors: bool, exit_code: bool, as_json: bool
) -> None:
    """Show what differs between commits or the work tree.

    Compares commit A (default: HEAD) with commit B (default: the work tree). With --tensors, each changed tensor gets
    the share of its values that changed, the relative L2 norm of the change, the cosine between old and new, the
    largest absolute change, and both norms.
    """
    app: App = ctx.obj
    session = open_session(app)
    with session.pool() as pool:
        before = _old_side(session, old)
        after = _new_side(session, new, pool)
        found = diff(session, before, after, pool, tensors=tensors)
    if as_json:
        emit("mvc.diff/1", **_document(found))
    else:
        for line in _lines(found, tensors=tensors):
            click.echo(line)
    if exit_code and not found.empty:
        ctx.exit(FAILED)


def _old_side(session: Session, ref: str | None) -> Side:
    if ref is None and session.refs.state().head is None:
        return Side("HEAD", Manifest((), ()))
    return commit_side(session, ref or "HEAD", resolve(session, ref or "HEAD").commit)


def _new_side(session: Session, ref: str | None, pool: Executor) -> Side:
    return commit_side(session, ref, resolve(session, ref).commit) if ref else worktree_side(session, pool)


_MEASURES = tuple(item.name for item in fields(TensorDistance))


def _document(found: Difference) -> dict[str, object]:
    return {
        "old": found.old,
        "new": found.new,
        "added": found.added,
        "removed": found.removed,
        "modified": found.modified,
        "tensors": [_tensor(item) for item in found.tensors],
        "structures": change_documents(*found.structures),
    }


def _tensor(item: TensorDifference) -> dict[str, object]:
    measures = asdict(item.distance) if item.distance else dict.fromkeys(_MEASURES)
    entries = {"old": _entry(item.old), "new": _entry(item.new)}
    return {"name": item.name, "path": item.path, "change": item.change, **entries, **measures}


def _entry(entry: TensorEntry | None) -> dict[str, object] | None:
    return {"id": entry.id, "dtype": entry.spec.dtype.name, "shape": entry.spec.shape} if entry else None


def _lines(found: Difference, *, tensors: bool) -> Iterable[str]:
    marked = [
        *((path, "A", "green") for path in found.added),
        *((path, "M", "yellow") for path in found.modified),
        *((path, "D", "red") for path in found.removed),
    ]
    yield from columns([((mark, colour), path) for path, mark, colour in sorted(marked)], "<<")
    if not found.tensors:
        return
    yield ""
    if tensors:
        titles = ("tensor", "change", "changed", "rel. L2", "cosine", "max abs", "norm old", "norm new", "file")
        yield from columns([titles, *map(_row, found.tensors)], "<<>>>>>><")
    else:
        totals = Counter(item.change for item in found.tensors)
        yield f"{counted(len(found.tensors), 'tensor')}: " + ", ".join(
            f"{n:,} {change}" for change, n in totals.items()
        )
        tell("hint", "--tensors shows how far each moved")
    yield from change_lines(*found.structures)


def _row(item: TensorDifference) -> tuple[str, ...]:
    if item.distance is None:
        return (item.name, item.change, "-", "-", "-", "-", "-", "-", item.path)
    far = item.distance
    share, cosine = f"{100 * far.changed_fraction:.2f} %", f"{far.cosine:.6f}"
    largest, old, new = (f"{value:.4g}" for value in (far.max_abs, far.norm_old, far.norm_new))
    return (item.name, item.change, share, f"{far.relative_l2:.4g}", cosine, largest, old, new, item.path)
