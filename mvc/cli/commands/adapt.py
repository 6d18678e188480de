"""``mvc adapt``."""

from __future__ import annotations

from contextlib import ExitStack

import click

from mvc.cli.app import App
from mvc.cli.derivations import tell_unheld
from mvc.cli.documents import emit
from mvc.cli.group import command as make_command
from mvc.cli.memory import keep_freed_memory
from mvc.cli.models import exported_model, needs_torch
from mvc.cli.options import complete_ref, json_option
from mvc.cli.progress import terminal_progress
from mvc.cli.remotes import open_session
from mvc.cli.signals import ending_in_order
from mvc.cli.teaching import (
    lesson_of,
    outcome,
    outcome_line,
    result_document,
    result_lines,
    teacher_of,
    teaching_options,
)
from mvc.lossy.adapting_torch import Adapter
from mvc.lossy.distillation_torch import Recipe
from mvc.lossy.healing_transformers import heal_model
from mvc.objects.fields import Scalar
from mvc.repo.recover import adapter_directory, trained_request
from mvc.repo.revisions import resolve
from mvc.repo.rewrite import check_rewritable, rewrite, tensors_in
from mvc.runtime.peft import read_lora
from mvc.types.factors import MOST_RANK


@make_command(
    "adapt",
    "mvc adapt tiny --from-adapter tuned --data train.jsonl --labels label --inherit --recover 8 --branch tiny-tuned",
)
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option(
    "--from-adapter", "adapter", metavar="REF", required=True, shell_complete=complete_ref, help="The adapter's commit."
)
@click.option("--inherit", is_flag=True, help="Begin with the values of the adapter, not at 0.")
@click.option("--recover", "rank", type=click.IntRange(1, MOST_RANK), metavar="R", help="Recovery modules of rank R.")
@click.option("--linear", is_flag=True, help="Recovery modules without a GELU, which can be merged.")
@click.option(
    "--distill",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="A",
    help="Weight of the teacher.",
)
@teaching_options
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    ref: str,
    adapter: str,
    inherit: bool,
    rank: int | None,
    linear: bool,
    distill: float,
    data_file: str,
    text_key: str,
    labels: str | None,
    teacher: str | None,
    steps: int,
    seed: int,
    length: int,
    tokenizer: str | None,
    prefix: str,
    branch: str | None,
    message: str | None,
    as_json: bool,
) -> None:
    """Make the adapter of a model one of its compressed stand-in.

    REF is the stand-in, and the adapter one of LoRA, as PEFT saves it, that was trained on the teacher: by default the
    commit that REF was made from. The method is CPET: the adapter is inherited, modules beside every linear layer
    recover what compressing has lost, and both learn from labels, if there are some, and from what teacher and adapter
    put out together. The new commit lies on top of REF, and has its files and the adapter beside them;
    mvc.runtime.attach puts that on a loaded model. If held-out texts are not answered better than at the start, nothing
    is recorded. Needs torch and transformers.
    """
    if labels is None and not distill:
        raise click.UsageError("there is nothing to learn from: --labels, or --distill", click.get_current_context())
    if linear and rank is None:
        raise click.UsageError("--linear takes --recover R", click.get_current_context())
    keep_freed_memory()
    session = open_session(app)
    base, inherits = resolve(session, ref).commit, resolve(session, adapter).commit
    check_rewritable(session, branch)
    master = teacher_of(session, base, teacher)
    lesson = lesson_of(app, data_file, text_key, labels, length, Recipe(steps, seed, distill))
    manifest, theirs = session.manifest(base), session.manifest(inherits)
    stored = {entry.name: entry.spec.dtype for entry in tensors_in(manifest, prefix)}
    place = adapter_directory(theirs, prefix, inherits)
    actor, progress = app.actor(session.settings), terminal_progress()
    with ending_in_order(), session.protected("adapt", base, master, inherits), ExitStack() as stack:
        student = stack.enter_context(exported_model(session, manifest, prefix))
        directory = stack.enter_context(exported_model(session, session.manifest(master), prefix))
        files = stack.enter_context(exported_model(session, theirs, place))
        with needs_torch("adapting"):
            lora = read_lora(files)
            training = Adapter(lora, inherit=inherit, rank=rank, activation="none" if linear else "gelu")
            words = app.path(tokenizer) if tokenizer else student
            found = heal_model(student, directory, words, lesson.samples, training, lesson.recipe, stored, lora)
            settings: dict[str, Scalar] = {"inherit": inherit, "recover": rank, "linear": linear, "distil": distill}
            done = {"teacher": master, "inherits": inherits, **settings, **lesson.parameters, **outcome(found)}
            request = trained_request("adapt", base, found, done, lesson.data, prefix, branch, message)
        result = rewrite(session, request, student, actor, progress)
    if as_json:
        emit("mvc.adapt/1", **result_document(result, session), **outcome(found))
        return
    click.echo("\n".join([*result_lines(result, session, branch), outcome_line(found)]))
    tell_unheld(result.commit, branch)
