"""``mvc derive``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import click
from blake3 import blake3

from mvc.cli.app import App
from mvc.cli.derivations import derivation_document, derivation_lines
from mvc.cli.documents import emit
from mvc.cli.files import read_file
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.models import exported_model, needs_torch, texts_of
from mvc.cli.notes import tell
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_stages
from mvc.cli.remotes import open_session
from mvc.cli.signals import ending_in_order
from mvc.cli.text import percent, printable, short, size
from mvc.lossy.pruning import Environment
from mvc.lossy.pruning_torch import Effort
from mvc.lossy.pruning_transformers import Planned, prune_model
from mvc.objects.fields import Scalar
from mvc.repo.branches import check_new_branch
from mvc.repo.press import CompressResult
from mvc.repo.revisions import resolve
from mvc.repo.smaller import Smaller, SmallerRequest, commit_smaller
from mvc.settings import LEVELS, Level

_METHODS: Final = ("ziplm",)


@make_command(
    "derive",
    "mvc derive main --method ziplm --speedup 2 --data train.jsonl --branch small",
    "mvc derive main --method ziplm --speedup 3 --env threads=4,batch=1,seq=128 --data train.jsonl",
)
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option("--method", type=click.Choice(_METHODS), required=True, help="How.")
@click.option("--speedup", type=float, metavar="S", help="ziplm: how much faster a forward pass is to be.")
@click.option("--env", "env", metavar="ENV", help="ziplm: where; threads=1,batch=8,seq=64 by default.")
@click.option("--search", type=click.IntRange(min=0), metavar="N", help="ziplm: candidates to try; 36 by default.")
@click.option(
    "--samples", type=click.IntRange(min=1), metavar="N", help="ziplm: times to time each size; 30 by default."
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="ziplm: of the search; 0 by default.")
@click.option("--data", "data_file", metavar="FILE", help="Texts of the task, one JSON object a line.")
@click.option("--text-key", metavar="KEY", default="text", show_default=True, help="Where a line has its text.")
@click.option("--tokenizer", metavar="DIR", help="Where the tokenizer is, if not in the commit.")
@click.option("--prefix", metavar="PATH", default="", help="Directory of the model in the commit.")
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
    method: str,
    speedup: float | None,
    env: str | None,
    search: int | None,
    samples: int | None,
    seed: int | None,
    data_file: str | None,
    text_key: str,
    tokenizer: str | None,
    prefix: str,
    branch: str | None,
    message: str | None,
    level: Level,
    as_json: bool,
) -> None:
    """Make a commit of a smaller or faster model from that of another one.

    ziplm takes attention heads and neurons away until a forward pass is so much faster, those first without which the
    others can best make up for what is lost. What only became smaller takes next to no space: it is stored as which
    part of the source's tensors it is. mvc checkout brings files for mvc.runtime.load; with --dense, for transformers.

    The commit records its source, the method and what was measured. It has no parent: the source may go. Needs torch
    and transformers.
    """
    keep_freed_memory()
    if speedup is None or data_file is None:
        raise click.UsageError("ziplm takes --speedup and --data", click.get_current_context())
    stored = read_file(app.path(data_file))
    texts = texts_of(stored, data_file, text_key)
    effort = Effort(samples=samples or Effort().samples, tries=Effort().tries if search is None else search)
    asked = _Asked(speedup, Environment.parse(env) if env else Environment(), effort, seed or 0)
    session = open_session(app)
    session.check_writable()
    source = resolve(session, ref).commit
    if branch is not None:
        check_new_branch(session.refs.state(), branch)
    with ending_in_order(), ExitStack() as stack:
        stack.enter_context(session.protected("derive", source))
        directory = stack.enter_context(exported_model(session, session.manifest(source), prefix))
        place = app.path(tokenizer) if tokenizer else directory
        with needs_torch("pruning a model"):
            names = {entry.name for entry in session.manifest(source).tensors}
            planned = prune_model(
                directory, place, texts, names, asked.speedup, asked.env, asked.effort, asked.seed, terminal_stages()
            )
        smaller = Smaller(planned.before, planned.pruned.local, planned.names, planned.pruned.outputs)
        parameters = asked.parameters(planned, smaller, blake3(stored).hexdigest())
        request = SmallerRequest(source, smaller, parameters, prefix, branch, message, level)
        result = commit_smaller(session, request, app.actor(session.settings))
    if as_json:
        emit("mvc.derive/1", **_document(result))
        return
    click.echo("\n".join(_lines(result, branch)))
    if branch is None:
        tell("note", f"no branch holds it, and gc will remove it: mvc branch NAME {short(result.commit.id)}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Options of ``ziplm``."""

    speedup: float
    env: Environment
    effort: Effort
    seed: int

    def parameters(self, planned: Planned, smaller: Smaller, digest: str) -> dict[str, Scalar]:
        """Return what the commit records."""
        pruned, after = planned.pruned, smaller.after
        return {
            "speedup": self.speedup,
            "measured": round(pruned.measured, 4),
            "env": str(self.env),
            "source_ms": round(pruned.dense_ms, 3),
            "ms": round(pruned.small_ms, 3),
            "heads": " ".join(map(str, after.counts("heads"))),
            "neurons": " ".join(map(str, after.counts("neurons"))),
            planned.loss: pruned.candidate.loss,
            "texts": digest,
            "calibration": planned.calibration,
            "search": planned.search,
            "candidates": self.effort.tries,
            "seed": self.seed,
        }


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
    yield f"{size(result.tensor_bytes)} hold what it does not share with its source, {stored} of the files"
