"""What commits with a loss say of it, as documents and as text: for the commands that make and show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from mvc.cli.documents import emit
from mvc.cli.notes import tell
from mvc.cli.text import counted, facts, printable, short
from mvc.objects.derivation import Derivation
from mvc.objects.manifest import Manifest
from mvc.repo.press import CompressResult
from mvc.types import ObjectId

__all__ = ["derivation_document", "derivation_lines", "made_document", "made_lines", "report_made", "tell_unheld"]


def derivation_document(derivation: Derivation, manifest: Manifest) -> dict[str, object]:
    """Return what ``--json`` says of the derivation of a commit, whose tensors `manifest` names."""
    return {
        "method": derivation.method,
        "source": derivation.source,
        "base": derivation.base,
        "parameters": derivation.parameters,
        "calibration": derivation.calibration,
        "tensors": [
            {
                "name": name,
                "id": tensor.id,
                "source": tensor.source,
                "error": tensor.largest,
                "relative_error": tensor.relative,
                "bound": tensor.bound,
                "stored_bytes": tensor.stored_bytes,
            }
            for tensor in derivation.tensors
            for name in manifest.names.get(tensor.id, ())
        ],
    }


def made_document(commit: ObjectId, derivation: Derivation, manifest: Manifest, **sizes: int) -> dict[str, object]:
    """Return what ``--json`` says of a commit that was just derived, and what it takes."""
    made = derivation_document(derivation, manifest)
    return {"commit": commit, **made, **sizes, "logical_bytes": manifest.size}


def made_lines(
    commit: ObjectId, subject: str, branch: str | None, derivation: Derivation, manifest: Manifest
) -> Iterator[str]:
    """Yield what a person is told of a commit that was just derived."""
    place = f"{printable(branch)} " if branch else ""
    yield f"[{place}{click.style(short(commit), fg='yellow')}] {printable(subject)}"
    yield from derivation_lines(derivation, manifest)


def report_made(
    schema: str, result: CompressResult, branch: str | None, lines: Iterable[str], *, as_json: bool, **more: object
) -> None:
    """Print what is told of a commit that was just derived: a document with `more`, or text with `lines` behind it."""
    commit, derivation, manifest = result.commit, result.derivation, result.manifest
    if as_json:
        sizes = {"stored_bytes": result.stored_bytes, "tensor_bytes": result.tensor_bytes}
        emit(schema, **made_document(commit.id, derivation, manifest, **sizes), **more)
        return
    click.echo("\n".join([*made_lines(commit.id, commit.subject, branch, derivation, manifest), *lines]))
    tell_unheld(commit.id, branch)


def tell_unheld(commit: ObjectId, branch: str | None) -> None:
    """Say that a new commit is on no branch, if so."""
    if branch is None:
        tell("note", f"no branch holds it, and gc will remove it: mvc branch NAME {short(commit)}")


def derivation_lines(derivation: Derivation, manifest: Manifest) -> Iterator[str]:
    """Yield what a person is told."""
    settings = facts(derivation.parameters)
    against = f" against {short(derivation.base)}" if derivation.base else ""
    yield f"{printable(derivation.method)}{against}: {settings}"
    if derivation.tensors:
        worst = max(derivation.tensors, key=lambda tensor: tensor.relative)
        name = next(iter(manifest.names.get(worst.id, ())), short(worst.id))
        yield (
            f"{counted(len(derivation.tensors), 'tensor')} changed; "
            f"largest error {max(tensor.largest for tensor in derivation.tensors):.3g}, "
            f"largest relative error {worst.relative:.3g} ({printable(name)})"
        )
