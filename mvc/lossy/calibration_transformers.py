"""Calibration of a model of `transformers` on texts. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvc.errors import InvalidInputError
from mvc.lossy.calibration import Matrix, Vector
from mvc.lossy.calibration_torch import hessians, inputs_first, shared_names
from mvc.lossy.models_transformers import load_model, running
from mvc.runtime.loading import tensor_name

__all__ = ["Calibrated", "calibrate"]


@dataclass(frozen=True)
class Calibrated:
    """What running a model has shown.

    Parameters
    ----------
    hessians : mapping of str to ndarray, shape (inputs, inputs), float32
        Of linear layers, by names of tensors.
    diagonals : mapping of str to ndarray, shape (rows,), float32
        Of H of embeddings, likewise.
    inputs_first : frozenset of str
        Names whose first dimension counts inputs.
    tokens : int
        That were not padding.
    """

    hessians: Mapping[str, Matrix]
    diagonals: Mapping[str, Vector]
    inputs_first: frozenset[str]
    tokens: int


def calibrate(
    directory: Path, tokenizer: Path, texts: Sequence[str], length: int, names: Collection[str]
) -> Calibrated:
    """Run a model on texts, and sum up what enters its linear layers and embeddings.

    Parameters
    ----------
    directory, tokenizer, texts, length
        As for `load_model`.
    names : collection of str
        Tensors of the files: layers are called so.

    Raises
    ------
    InvalidInputError
        If model or tokenizer cannot be loaded or run, there is no text, or layers have other names than tensors.
    """
    model, batches = load_model(directory, tokenizer, texts, length)
    with running():
        found = hessians(model, batches)
    shared, prefix = shared_names(model), model.base_model_prefix
    known = {layer: tensor_name(shared.get(layer, {layer}), names, prefix) for layer in found}
    named = {layer: name for layer, name in known.items() if name is not None}
    if not named:
        raise InvalidInputError(f"no tensor is called like a layer of the model, such as {min(found)}")
    first = inputs_first(model)
    return Calibrated(
        {name: found[layer] for layer, name in named.items() if found[layer].ndim > 1},
        {name: found[layer] for layer, name in named.items() if found[layer].ndim == 1},
        frozenset(name for layer, name in named.items() if layer in first),
        sum(int(batch["attention_mask"].sum()) for batch in batches),
    )
