"""``mvc compress``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from mvc.cli.app import App
from mvc.cli.derivations import derivation_document, derivation_lines
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.notes import tell
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.text import percent, printable, short, size
from mvc.lossy import Precision
from mvc.repo.compress import CompressRequest, CompressResult, compress
from mvc.repo.revisions import resolve
from mvc.repo.transforms import PrecisionTransform, Transform
from mvc.settings import LEVELS, Level

_METHODS: Final = ("precision",)


@make_command(
    "compress",
    "mvc compress main --method precision --bits 19 --branch small",
    "mvc compress v1 --method precision --mantissa 7 --tensors 'optimizer.*' --branch v1-small",
)
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option("--method", type=click.Choice(_METHODS), required=True, help="How.")
@click.option("--bits", type=int, metavar="B", help="precision: binary places behind the point to keep.")
@click.option("--rel", "relative", is_flag=True, help="precision: as many more places as a tensor is smaller.")
@click.option("--mantissa", type=int, metavar="K", help="precision: bits of the mantissa to keep, instead of places.")
@click.option("--base", metavar="REF", shell_complete=complete_ref, help="Store against this commit, the parent then.")
@click.option("--tensors", "patterns", metavar="PATTERN", multiple=True, help="Change only tensors of such names.")
@click.option("--branch", metavar="NAME", help="Make a branch of the new commit.")
@click.option("-m", "--message", metavar="MSG", help="Of the commit.")
@click.option("--level", type=click.Choice(LEVELS), default="default", show_default=True, help="How hard to try.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    ref: str,
    method: str,  # noqa: ARG001 - there is one so far
    bits: int | None,
    relative: bool,
    mantissa: int | None,
    base: str | None,
    patterns: tuple[str, ...],
    branch: str | None,
    message: str | None,
    level: Level,
    as_json: bool,
) -> None:
    """Make a commit that stands for another one, smaller and with a recorded loss.

    Tensors are changed and stored as new content, with ids of their own: nothing can be taken for what it was made
    from. The commit records its source, the method and the error of every tensor. Its parent is the base, if there is
    one, and not the source, which may go.

    precision rounds every float to the nearest multiple of 2^-B, so that none moves by more than half of that.
    """
    transform = _precision(bits, mantissa, relative=relative)
    keep_freed_memory()
    session = open_session(app)
    request = CompressRequest(
        resolve(session, ref).commit,
        transform,
        resolve(session, base).commit if base is not None else None,
        branch,
        message,
        patterns,
        level,
    )
    result = compress(session, request, app.actor(session.settings), terminal_progress())
    if as_json:
        emit("mvc.compress/1", **_document(result))
        return
    click.echo("\n".join(_lines(result, branch)))
    if branch is None:
        tell("note", f"no branch holds it, and gc will remove it: mvc branch NAME {short(result.commit.id)}")


def _precision(bits: int | None, mantissa: int | None, *, relative: bool) -> Transform:
    if (bits is None) == (mantissa is None):
        raise click.UsageError("precision takes either --bits or --mantissa", click.get_current_context())
    return PrecisionTransform(Precision(bits, relative, mantissa))


def _document(result: CompressResult) -> dict[str, object]:
    return {
        "commit": result.commit.id,
        **derivation_document(result.derivation, result.manifest),
        "stored_bytes": result.stored_bytes,
        "tensor_bytes": result.tensor_bytes,
        "logical_bytes": result.manifest.size,
    }


def _lines(result: CompressResult, branch: str | None) -> Iterator[str]:
    """Yield what a person is told."""
    place = f"{printable(branch)} " if branch else ""
    yield f"[{place}{click.style(short(result.commit.id), fg='yellow')}] {printable(result.commit.subject)}"
    yield from derivation_lines(result.derivation, result.manifest)
    stored = percent(result.tensor_bytes, result.manifest.size)
    yield f"{size(result.tensor_bytes)} hold its tensors, {stored} of the files; {size(result.stored_bytes)} are new"
