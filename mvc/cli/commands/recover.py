"""``mvc recover``."""

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
from mvc.lossy.distillation_torch import Recipe
from mvc.lossy.healing_transformers import heal_model
from mvc.lossy.trainings_torch import training_of
from mvc.repo.recover import trained_request
from mvc.repo.revisions import resolve
from mvc.repo.rewrite import check_rewritable, rewrite, tensors_in


@make_command(
    "recover",
    "mvc recover tiny --data texts.jsonl --branch tiny-healed",
    "mvc recover tiny --data texts.jsonl --train lowrank:4 --branch tiny-healed",
)
@click.argument("ref", metavar="REF", shell_complete=complete_ref)
@click.option("--train", metavar="WHAT", default="bias-ln", show_default=True, help="bias-ln, lowrank:R or gelu:R.")
@teaching_options
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    ref: str,
    train: str,
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
    """Heal a commit that has lost something: it learns to answer as what it was made from.

    The model of the commit that REF stands for runs on texts, without labels, and a few parameters of REF are trained
    until its outputs are near to those: biases and norms with bias-ln, which takes no room; products of two thin
    matrices that become part of each linear layer with lowrank:R; or small modules beside each linear layer with
    gelu:R, which mvc.runtime.attach puts on a loaded model. The new commit lies on top of REF and shares the rest
    with it. If held-out texts are not answered better than before, nothing is recorded. Needs torch and transformers.
    """
    keep_freed_memory()
    session = open_session(app)
    source = resolve(session, ref).commit
    check_rewritable(session, branch)
    master = teacher_of(session, source, teacher)
    lesson = lesson_of(app, data_file, text_key, labels, length, Recipe(steps, seed))
    manifest = session.manifest(source)
    stored = {entry.name: entry.spec.dtype for entry in tensors_in(manifest, prefix)}
    actor, progress = app.actor(session.settings), terminal_progress()
    with ending_in_order(), session.protected("recover", source, master), ExitStack() as stack:
        student = stack.enter_context(exported_model(session, manifest, prefix))
        directory = stack.enter_context(exported_model(session, session.manifest(master), prefix))
        words = app.path(tokenizer) if tokenizer else student
        with needs_torch("healing"):
            training = training_of(train)
            found = heal_model(student, directory, words, lesson.samples, training, lesson.recipe, stored)
            done = {"train": training.name, "teacher": master, **lesson.parameters, **outcome(found)}
            request = trained_request("recover", source, found, done, lesson.data, prefix, branch, message)
        result = rewrite(session, request, student, actor, progress)
    if as_json:
        emit("mvc.recover/1", **result_document(result, session), **outcome(found))
        return
    click.echo("\n".join([*result_lines(result, session, branch), outcome_line(found)]))
    tell_unheld(result.commit, branch)
