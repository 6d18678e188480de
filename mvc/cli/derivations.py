"""What commits with a loss say of it, as documents and as text: for ``compress``, ``derive`` and ``show``."""

from __future__ import annotations

from collections.abc import Iterator

from mvc.cli.text import counted, facts, printable, short
from mvc.objects.derivation import Derivation
from mvc.objects.manifest import Manifest
from mvc.repo.press import CompressResult

__all__ = ["derivation_document", "derivation_lines", "result_document"]


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


def result_document(result: CompressResult) -> dict[str, object]:
    """Return what ``--json`` says of a commit that was just derived."""
    return {
        "commit": result.commit.id,
        **derivation_document(result.derivation, result.manifest),
        "stored_bytes": result.stored_bytes,
        "tensor_bytes": result.tensor_bytes,
        "logical_bytes": result.manifest.size,
    }


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
