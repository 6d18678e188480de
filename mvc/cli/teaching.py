"""What the commands share that have a model learn from another one: options, samples, and what is said in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import click
from blake3 import blake3

from mvc.cli.app import App
from mvc.cli.derivations import made_document, made_lines
from mvc.cli.files import read_file
from mvc.cli.models import LENGTH, lines_of, texts_of
from mvc.cli.options import complete_ref
from mvc.cli.text import counted, short, size
from mvc.errors import InvalidInputError, NotFoundError
from mvc.lossy.distillation_torch import Recipe
from mvc.lossy.healing_transformers import Healing, Samples
from mvc.lossy.models_transformers import read_labels
from mvc.objects.fields import Scalar
from mvc.repo.commit import CommitResult
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.types import ObjectId, object_id

__all__ = [
    "Lesson",
    "lesson_of",
    "outcome",
    "outcome_line",
    "result_document",
    "result_lines",
    "teacher_of",
    "teaching_options",
]

_STEPS: Final = 100
"""Unless told otherwise: MiniLM learns most of what it can learn in so many."""

_OPTIONS: Final = (
    click.option("--data", "data_file", metavar="FILE", required=True, help="Texts, one JSON object a line."),
    click.option("--text-key", metavar="KEY", default="text", show_default=True, help="Where a line has its text."),
    click.option("--labels", metavar="KEY", help="Where a line has its class, if that is to be learnt, too."),
    click.option("--teacher", metavar="REF", shell_complete=complete_ref, help="Learn from this commit."),
    click.option("--steps", type=click.IntRange(min=1), default=_STEPS, show_default=True, help="Of 32 texts each."),
    click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="Of all that is random."),
    click.option(
        "--length", type=click.IntRange(min=1), default=LENGTH, show_default=True, help="Most tokens of a text."
    ),
    click.option("--tokenizer", metavar="DIR", help="Where the tokenizer is, if not in the commit."),
    click.option("--prefix", metavar="PATH", default="", help="Directory of the model in the commit."),
    click.option("--branch", metavar="NAME", help="Make a branch of the new commit."),
    click.option("-m", "--message", metavar="MSG", help="Of the commit."),
)


def teaching_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that all of them take."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learnt from, and how.

    Parameters
    ----------
    samples : Samples
        Texts, and maybe labels.
    recipe : Recipe
        How to train.
    data : ObjectId
        BLAKE3 of the file of texts.
    labels : str or None
        Where labels are.
    """

    samples: Samples
    recipe: Recipe
    data: ObjectId
    labels: str | None

    @property
    def parameters(self) -> dict[str, Scalar]:
        """What a commit records of it."""
        given: dict[str, Scalar] = {"steps": self.recipe.steps, "seed": self.recipe.seed, "length": self.samples.length}
        return given if self.labels is None else {**given, "labels": self.labels, "distil": self.recipe.distil}


def lesson_of(app: App, file: str, text_key: str, labels: str | None, length: int, recipe: Recipe) -> Lesson:
    """Read the texts, and maybe their labels.

    Raises
    ------
    InvalidInputError
        If they are not what they must be.
    """
    data = read_file(app.path(file))
    texts = texts_of(data, file, text_key)
    classes = list(read_labels(lines_of(data, file), labels)) if labels is not None else None
    return Lesson(Samples(texts, classes, length), recipe, object_id(blake3(data).hexdigest()), labels)


def teacher_of(session: Session, source: ObjectId, teacher: str | None) -> ObjectId:
    """Return the commit to learn from: the one that is named, or the one that `source` stands for.

    Raises
    ------
    InvalidInputError
        If `source` has lost nothing, and none is named.
    NotFoundError
        If it is not here any more.
    """
    if teacher is not None:
        return resolve(session, teacher).commit
    derivation = session.commit(source).derivation
    found = derivation and (derivation.parameters.get("teacher") or derivation.source)
    if not isinstance(found, str):
        raise InvalidInputError(
            f"commit {short(source)} does not say what it was made from", hint="--teacher REF: what it is to be like"
        )
    oid = object_id(found)
    if oid not in session.records([oid]):
        raise NotFoundError(
            f"commit {short(oid)}, which {short(source)} was made from, is not here",
            hint="fetch the branch that holds it, or --teacher REF",
        )
    return oid


def result_document(result: CommitResult, session: Session) -> dict[str, object]:
    """Return what ``--json`` says of the new commit."""
    assert result.derivation is not None, "it was made from another one"
    manifest = session.manifest(result.commit)
    return made_document(result.commit, result.derivation, manifest, stored_bytes=result.stored_bytes)


def result_lines(result: CommitResult, session: Session, branch: str | None) -> Iterator[str]:
    """Yield what a person is told of it."""
    assert result.derivation is not None, "it was made from another one"
    subject, manifest = session.commit(result.commit).subject, session.manifest(result.commit)
    yield from made_lines(result.commit, subject, branch, result.derivation, manifest)
    yield f"{size(result.stored_bytes)} new"


def outcome(found: Healing) -> dict[str, Scalar]:
    """Return the errors, and on how many texts they were measured."""
    before, after = found.healed.before, found.healed.after
    numbers: dict[str, Scalar] = {"error_before": before.error, "error_after": after.error}
    if before.accuracy is not None:
        numbers |= {"accuracy_before": before.accuracy, "accuracy_after": after.accuracy}
    return {**numbers, "texts": found.texts, "held_out": found.held_out}


def outcome_line(found: Healing) -> str:
    """Return the same for a person."""
    before, after = found.healed.before, found.healed.after
    line = (
        f"on {counted(found.held_out, 'held-out text')}, the error of the outputs was {before.error:.4g} "
        f"and is {after.error:.4g}"
    )
    if before.accuracy is None or after.accuracy is None:
        return line
    return f"{line}; the share of right classes was {before.accuracy:.3f} and is {after.accuracy:.3f}"
