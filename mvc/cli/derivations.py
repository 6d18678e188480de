"""What commits with a loss say of it, as documents and as text: for the commands that make and show them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mvc.cli.text import counted, facts, printable, short
from mvc.objects.derivation import Derivation
from mvc.objects.manifest import Manifest
from mvc.types import ObjectId

__all__ = ["derivation_document", "derivation_lines", "made_document", "made_lines"]


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
