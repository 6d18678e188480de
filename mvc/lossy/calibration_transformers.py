"""Calibration of a model of `transformers` on texts. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvc.errors import InvalidInputError
from mvc.lossy.calibration import Matrix
from mvc.lossy.calibration_torch import hessians, inputs_first
from mvc.lossy.models_transformers import load_model, tensor_name

__all__ = ["Calibrated", "calibrate"]


@dataclass(frozen=True)
class Calibrated:
    """What running a model has shown.

    Parameters
    ----------
    hessians : mapping of str to ndarray, shape (inputs, inputs), float32
        By names of tensors.
    inputs_first : frozenset of str
        Names whose first dimension counts inputs.
    tokens : int
        That were not padding.
    """

    hessians: Mapping[str, Matrix]
    inputs_first: frozenset[str]
    tokens: int


def calibrate(
    directory: Path, tokenizer: Path, texts: Sequence[str], length: int, names: Collection[str]
) -> Calibrated:
    """Run a model on texts, and sum up what enters its linear layers.

    Parameters
    ----------
    directory, tokenizer, texts, length
        As for `load_model`.
    names : collection of str
        Tensors of the files: layers are called so.

    Raises
    ------
    InvalidInputError
        If model or tokenizer cannot be loaded, there is no text, or layers have other names than tensors.
    """
    model, batches = load_model(directory, tokenizer, texts, length)
    found = hessians(model, batches)
    known = {layer: tensor_name(layer, names, model.base_model_prefix) for layer in found}
    if all(name is None for name in known.values()):
        raise InvalidInputError(f"no tensor is called like a layer of the model, such as {min(found)}")
    first = inputs_first(model)
    return Calibrated(
        {name: found[layer] for layer, name in known.items() if name is not None},
        frozenset(name for layer, name in known.items() if name is not None and layer in first),
        sum(int(batch["attention_mask"].sum()) for batch in batches),
    )
