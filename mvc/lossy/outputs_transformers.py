"""Outputs of a model of `transformers` on texts. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from mvc.errors import InvalidInputError
from mvc.lossy.models_transformers import load_model, running
from mvc.lossy.outputs_torch import TorchOutputs
from mvc.runtime.loading import tensor_name

__all__ = ["outputs"]


def outputs(
    directory: Path, tokenizer: Path, texts: Sequence[str], length: int, names: Collection[str], origin: str = ""
) -> TorchOutputs:
    """Run a model on texts, and keep what it puts out to compare with.

    Parameters
    ----------
    directory, tokenizer, texts, length
        As for `load_model`.
    names : collection of str
        Tensors of the files.
    origin : str
        As for `TorchOutputs`.

    Raises
    ------
    InvalidInputError
        If model or tokenizer cannot be loaded or run, an output is not finite, or weights have other names than
        tensors.
    """
    model, batches = load_model(directory, tokenizer, texts, length)
    weights = list(model.state_dict())
    found = {tensor_name({weight}, names, model.base_model_prefix): weight for weight in weights}
    known = {name: weight for name, weight in found.items() if name is not None}
    if not known:
        raise InvalidInputError(f"no tensor is called like a weight of the model, such as {min(weights)}")
    with running():
        return TorchOutputs(model, batches, known, origin)
